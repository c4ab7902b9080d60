"""A folder of results that a script may write anew, but only where all that lies there is its own."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from launch.atomic import replaced_folder
from launch.strict_json import read_json


@dataclass(frozen=True)
class WrittenFolder:
    """The folder `path`, which holds files of these names, among them a JSON file `mark` with this `format`."""

    path: Path
    names: frozenset[str]
    mark: str
    format: str

    def check(self) -> None:
        """Raise ValueError unless nothing is there, or what an earlier start of the same script has written."""
        path, another = self.path, "give another --out, or move it away"
        if not path.is_symlink() and (not path.exists() or (path.is_dir() and not any(path.iterdir()))):
            return
        if not path.is_dir() or path.is_symlink():
            raise ValueError(f"--out {path}: expected a new or an empty folder, found a file or a link; {another}")
        found = sorted(entry.name for entry in path.iterdir())
        if self.mark not in found or read_json(path / self.mark).get("format") != self.format:
            raise ValueError(
                f"--out {path}: expected a new folder or one that this command has written ({self.mark}), found one "
                f"with {', '.join(found[:3])}; {another}"
            )
        foreign = [name for name in found if name not in self.names]
        if foreign:
            raise ValueError(f"--out {path}: holds {foreign[0]}, which this command has not written; {another}")

    def replaced(self) -> AbstractContextManager[Path]:
        """An empty folder to write into, as of `launch.atomic.replaced_folder`, which asks `check` again."""
        return replaced_folder(self.path, self.check)
