"""A file read once, from its start to its end, and hashed as it passes."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.location import RemotePath

_WINDOW = 8_000_000


class Tape:
    """The bytes of a local or remote file, in windows of 8 MB."""

    def __init__(self, path: Path | RemotePath, size: int) -> None:
        self._windows = _windows(path, size)
        self._ahead = bytearray()
        self.position = 0
        self.sha256 = hashlib.sha256()
        self._is_at_end = False

    def take(self, count: int) -> bytes:
        """The next bytes; fewer where the file ends.

        Raises:
            OSError: it cannot be read.
        """
        while len(self._ahead) < count and not self._is_at_end:
            window = next(self._windows, b"")
            self._is_at_end = not window
            self.sha256.update(window)
            self._ahead += window
        with memoryview(self._ahead) as ahead:
            taken = bytes(ahead[:count])
        del self._ahead[:count]
        self.position += len(taken)
        return taken

    def skip(self, count: int | None = None) -> None:
        """Pass over so many bytes, or over all that are left."""
        while count is None or count > 0:
            passed = len(self.take(_WINDOW if count is None else min(count, _WINDOW)))
            if not passed:
                return
            count = None if count is None else count - passed


def _windows(path: Path | RemotePath, size: int) -> Iterator[bytes]:
    if isinstance(path, Path):
        with path.open("rb", buffering=0) as file:
            while window := file.read(_WINDOW):
                yield window
    else:
        for start in range(0, size, _WINDOW):
            yield path.read_range(start, min(start + _WINDOW, size))
