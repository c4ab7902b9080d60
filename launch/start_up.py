"""What makes programs start sooner."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """In here, and for what was made in here also later, nobody looks for garbage.

    For imports: torch, timm and accelerate make a million objects that all stay, and searching them again and again is
    a quarter of the start (4.5 s of CPU against 3.3 without, 2026-11-26, AMD EPYC).
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
