"""A Markdown file whose tables a program writes, each between two marks of its name."""

import re
from collections.abc import Mapping


def replace_tables(text: str, tables: Mapping[str, str], where: str) -> str:
    """The text with each table in the place of that between `<!-- table: NAME -->` and `<!-- end of table -->`.

    Raises:
        ValueError: `where` lacks a table's marks, or has those of a table that is not there.
    """
    marked = re.findall(r"^<!-- table: (\S+) -->$", text, re.MULTILINE)
    if sorted(marked) != sorted(tables):
        raise ValueError(
            f"{where}: has marks of the tables {' '.join(sorted(marked)) or '(none)'}; "
            f"expected {' '.join(sorted(tables))}; write `<!-- table: NAME -->` "
            "and `<!-- end of table -->` on lines of their own where each belongs"
        )
    for name, table in tables.items():
        start = f"<!-- table: {name} -->\n"
        before, _, rest = text.partition(start)
        _, end, after = rest.partition("<!-- end of table -->")
        if not end:
            raise ValueError(f"{where}: `<!-- table: {name} -->` has no `<!-- end of table -->` after it")
        text = f"{before}{start}{table}\n{end}{after}"
    return text
