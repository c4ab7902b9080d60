"""Writing rows of a teacher's cache, by as many processes as compute them."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launch.atomic import explain_full_disk
from pretrain.cache_files import CacheFiles


class RowWriter:
    """Writes rows of all columns where they belong; several processes may, each rows of its own. Use it in a `with`."""

    def __init__(self, files: CacheFiles[Any]) -> None:
        self._files = files
        self._descriptors: dict[str, int] = {}
        self._unsynced = 0

    def write(self, first: int, columns: Mapping[str, NDArray[Any]]) -> None:
        """Rows from number `first` on. Raises OSError."""
        for name, descriptor in self._descriptors.items():
            data = np.ascontiguousarray(columns[name]).data.cast("B")
            place = self._files.offset(name, first)
            # Not through a map: those of two machines would write each other's old bytes of a page back.
            with explain_full_disk(self._files.path(name), len(data)):
                self._unsynced += len(data)
                while data:
                    written = os.pwrite(descriptor, data, place)
                    data, place = data[written:], place + written

    def sync(self) -> None:
        """Force what was written to the disk. Raises OSError."""
        with explain_full_disk(self._files.folder, self._unsynced):
            for descriptor in self._descriptors.values():
                os.fsync(descriptor)
        self._unsynced = 0

    def __enter__(self) -> "RowWriter":
        for name in self._files.format.columns:
            self._descriptors[name] = os.open(self._files.path(name), os.O_WRONLY)
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()
