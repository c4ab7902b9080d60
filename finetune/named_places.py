"""Where the paths in a config.json lead, which are as a user once typed them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def places_named(where: str, config: Mapping[str, Any], folder: Path) -> tuple[Path, ...]:
    """What `where` may mean in the config.json of `folder`, the likeliest first.

    A relative path is meant from where the run was started, as far as its own `out` tells that, or else from here.
    """
    out, here = Path(str(config.get("out", ""))), folder.resolve()
    is_below = bool(out.parts) and not out.is_absolute() and here.parts[-len(out.parts) :] == out.parts
    return (here.parents[len(out.parts) - 1] / where, Path(where)) if is_below else (Path(where),)
