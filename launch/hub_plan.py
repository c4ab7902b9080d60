"""What an upload would change: file by file against what the repository holds, and whether it may."""

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from launch.file_hash import file_sha256
from launch.hub_repository import Kind, RemoteFile, Snapshot

Change = Literal["new", "changed", "same", "deleted"]

CARD = "README.md"
"""What the Hub shows of a repository."""

_OF_THE_HUB = ".gitattributes"  # every repository begins with it
_SHOWN = 3


@dataclass(frozen=True)
class Upload:
    """Files for a repository, by their names there.

    Args:
        repository, kind: `user/name`, and of what.
        marker: the file that makes the others readable, and says that they are ours: it is committed last, and
            a repository without it that holds other files is not touched.
        written: the names of the files that an earlier upload wrote, from the bytes of its marker (itself included);
            ValueError where it is not one of ours.
        message: of the commits.
        sha256: what files must hash to, in hex; of some or all.
    """

    repository: str
    kind: Kind
    files: Mapping[str, Path]
    marker: str
    written: Callable[[bytes], Collection[str]]
    message: str = "Upload by sherd"
    sha256: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.marker in self.files


@dataclass(frozen=True)
class Plan:
    """What becomes of each file. `replaces`: there is a whole upload already, which readers must not see half new."""

    changes: dict[str, Change]
    sizes: dict[str, int]
    replaces: bool

    def names(self, *wanted: Change) -> list[str]:
        """The files of these kinds of change, in order."""
        return [name for name, change in self.changes.items() if change in wanted]

    @property
    def is_done(self) -> bool:
        """Whether the repository holds all of it, and nothing that should be gone."""
        return not self.names("new", "changed", "deleted")

    @property
    def bytes(self) -> int:
        """To be uploaded."""
        return sum(self.sizes[name] for name in self.names("new", "changed"))

    def lines(self) -> list[str]:
        """For people: a line a file, then the sums."""
        width = max(len(f"{size:,}") for size in self.sizes.values())
        listed = [f"  {change:8}{self.sizes[name]:>{width},}  {name}" for name, change in self.changes.items()]
        counts = ", ".join(f"{len(self.names(kind)):,} {kind}" for kind in ("new", "changed", "same", "deleted"))
        return [*listed, f"{counts}; {self.bytes:,} bytes to upload"]


class Digests:
    """Hashes of local files, each computed once."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files
        self._known: dict[str, str] = {}

    def sha256(self, name: str) -> str:
        """In hex."""
        if name not in self._known:
            self._known[name] = file_sha256(self._files[name])
        return self._known[name]

    def is_same(self, name: str, there: RemoteFile) -> bool:
        """Whether a file there has the same bytes."""
        path = self._files[name]
        if path.stat().st_size != there.size:
            return False
        if there.sha256 is not None:
            return self.sha256(name) == there.sha256
        with path.open("rb") as file:
            return _git_blob_id(file.read()) == there.blob_id


def make_plan(upload: Upload, there: Snapshot, marker: bytes | None, digests: Digests) -> Plan:
    """Compare an upload with a branch, whose marker has the bytes `marker`, None where it has none.

    Raises:
        ValueError: the branch holds files of others, which would be replaced or mixed with ours.
    """
    where = f"{upload.kind} {upload.repository}"
    earlier: set[str] = set()
    if marker is not None:
        try:
            earlier = {*upload.written(marker), upload.marker}
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{where}: its {upload.marker} is not one of ours ({' '.join(str(error).split())[:200]}); push to "
                "another name, or to a branch of its own with --hub.revision BRANCH"
            ) from error
    changes: dict[str, Change] = {}
    for name in upload.files:
        if name not in there.files:
            changes[name] = "new"
        else:
            changes[name] = "same" if digests.is_same(name, there.files[name]) else "changed"
    ours = {name for name, change in changes.items() if change == "same"} | earlier | {_OF_THE_HUB}
    foreign = sorted(set(there.files) - ours)
    if marker is not None:
        foreign = [name for name in foreign if name in upload.files]  # others may lie beside ours
    if foreign and foreign != [CARD]:
        shown = f"{', '.join(foreign[:_SHOWN])}{', ...' if len(foreign) > _SHOWN else ''}"
        raise ValueError(
            f"{where}: it holds {shown}, which no finished upload of ours has written; push to another name, or to a "
            "branch of its own with --hub.revision BRANCH"
        )
    gone = sorted((earlier & set(there.files)) - set(upload.files))
    changes |= dict.fromkeys(gone, "deleted")
    sizes = {name: path.stat().st_size for name, path in upload.files.items()}
    return Plan(changes, sizes | {name: there.files[name].size for name in gone}, marker is not None)


def check_content(upload: Upload, digests: Digests) -> None:
    """Refuse to upload files that have changed since they were described.

    Raises:
        ValueError: names the first.
    """
    for name, expected in upload.sha256.items():
        if digests.sha256(name) != expected:
            raise ValueError(
                f"{upload.files[name]}: has SHA-256 {digests.sha256(name)[:12]}, expected {expected[:12]} as "
                f"{upload.marker} says; nothing was uploaded: write it again"
            )


def _git_blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
