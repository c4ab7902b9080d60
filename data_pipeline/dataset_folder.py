"""The folder a dataset is written into: whether it may be, what an earlier run left there, when it is finished."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.manifest import MANIFEST, DatasetError, Manifest, read_manifest
from data_pipeline.shard_plan import INDEX_FOLDER, WORK_FOLDER
from launch.atomic import clean_partials, write_json
from launch.strict_json import ABSENT, differences, read_json

_STARTED = "started.json"


@dataclass(frozen=True)
class DatasetFolder:
    """A folder that holds a finished dataset, one that is being written, or nothing."""

    path: Path

    @property
    def work(self) -> Path:
        """Where an unfinished dataset keeps its listing, partial files and records; absent from a finished one."""
        return self.path / WORK_FOLDER

    @property
    def listing(self) -> Path:
        """The listing of the source."""
        return self.work / "listing"

    def finished(self, options: dict[str, Any]) -> Manifest | None:
        """The manifest, if the dataset is finished.

        Raises:
            ValueError: it is another dataset than `options` (as in ShardConfig.reproducing) describe.
        """
        if not (self.path / MANIFEST).is_file():
            return None
        manifest = read_manifest(self.path)
        self._compare(manifest.made.get("options", {}), options, "holds a dataset made")
        return manifest

    def check(self, options: dict[str, Any], in_place: bool = False) -> None:
        """Refuse a folder in which an unfinished dataset cannot be begun or continued; `in_place`: beside other files.

        Raises:
            ValueError: it is no folder, holds other files, or another unfinished dataset.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"--out {self.path}: a file is there; expected a new or empty folder")
        if (self.work / _STARTED).is_file():
            started = read_json(self.work / _STARTED)
            self._compare(started["options"], options, "holds an unfinished dataset, begun")
            return
        files = sorted(path.name for path in self.path.iterdir()) if self.path.exists() else []
        foreign = [name for name in files if name != WORK_FOLDER]
        if foreign and not in_place:
            raise ValueError(
                f"--out {self.path}: not empty and no dataset of ours: it holds {', '.join(foreign[:3])}"
                f"{', ...' if len(foreign) > 3 else ''}; give a new or empty folder"
            )

    def begin(self, options: dict[str, Any]) -> bool:
        """Make ready for a dataset with these options; whether an earlier run's work may be there."""
        started, indexes = self.work / _STARTED, self.path / INDEX_FOLDER
        continues = started.is_file()
        for path in self.work.glob("*.partial"):
            path.unlink()
        if continues:
            for folder in (self.path, indexes, self.work):
                clean_partials(folder)
        write_json(started, {"options": options})
        indexes.mkdir(exist_ok=True)
        return continues

    def forget(self) -> None:
        """Remove everything that was made from a listing that holds no longer, since the source has changed."""
        for path in (*self.work.glob("*.tar.json"), *self.path.glob("*.tar"), *(self.path / INDEX_FOLDER).glob("*")):
            path.unlink()
        for folder in (self.listing, self.work / "facts", self.work / "selection"):
            shutil.rmtree(folder, ignore_errors=True)

    def abandon(self) -> None:
        """Leave nothing of a dataset that could not even be listed."""
        shutil.rmtree(self.work, ignore_errors=True)
        for folder in (self.path / INDEX_FOLDER, self.path):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def end(self) -> None:
        """Remove what only an unfinished dataset needs."""
        shutil.rmtree(self.work, ignore_errors=True)

    def check_sizes(self, manifest: Manifest) -> None:
        """Look at each file of a finished dataset without reading it.

        Raises:
            DatasetError: a file is missing or of another size; names the command that writes it again.
        """
        for split in manifest.splits.values():
            for shard in split.shards:
                repair = manifest.repair(shard.file)
                path = manifest.tars / shard.file
                if isinstance(path, Path):
                    found = path.stat().st_size if path.is_file() else None
                    if found != shard.bytes:
                        state = "missing" if found is None else f"found {found}"
                        raise DatasetError(f"shard {shard.file}: manifest lists {shard.bytes} bytes, {state}; {repair}")
                if not (self.path / shard.index).is_file():
                    raise DatasetError(f"index {shard.index}: missing from {self.path}; {repair}")

    def _compare(self, there: dict[str, Any], here: dict[str, Any], what: str) -> None:
        changed = differences(there, here)
        if changed:
            listed = "; ".join(f"--{name} {_show(old)} there, {_show(new)} here" for name, old, new in changed)
            raise ValueError(
                f"--out {self.path}: {what} with other options: {listed}; give the same options, or another --out"
            )


def _show(value: Any) -> str:
    return "not given" if value is ABSENT else str(value)
