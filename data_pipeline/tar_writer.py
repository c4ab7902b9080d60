"""Plain USTAR with nothing in the headers but name and size, hashed as it is written."""

import hashlib
import os
import tarfile
from typing import BinaryIO

_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)


class TarWriter:
    """Writes members one after another; `position` is where the next header begins, `sha256` of all until there."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.position = 0
        self.sha256 = hashlib.sha256()

    def add(self, name: str, data: bytes) -> int:
        """Write a member; returns where its bytes begin."""
        header = tarfile.TarInfo(name)
        header.size, header.mode = len(data), 0o444
        start = self.position + _BLOCK
        self._write(header.tobuf(tarfile.USTAR_FORMAT))
        self._write(data)
        self._write(bytes(-len(data) % _BLOCK))
        return start

    def finish(self) -> None:
        """Write the end of the archive, and force all of it to the disk."""
        self._write(_END)
        self._file.flush()
        os.fsync(self._file.fileno())

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self.sha256.update(data)
        self.position += len(data)
