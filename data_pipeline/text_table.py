"""Plain tables for a terminal or a log file."""

from collections.abc import Sequence


def text_table(heading: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as they need to be; integers with separators, and like other numbers to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    right = [all(isinstance(row[column], (int, float)) for row in rows) for column in range(len(heading))]
    widths = [max(len(line[column]) for line in (heading, *cells)) for column in range(len(heading))]
    lines = [
        "  ".join(
            text.rjust(width) if is_right else text.ljust(width)
            for text, width, is_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in (heading, *cells)
    ]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
