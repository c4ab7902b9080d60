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
        """Where an unfinished dataset keeps its partial files and records; absent from a finished one."""
        return self.path / WORK_FOLDER

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

    def check(self, options: dict[str, Any]) -> None:
        """Refuse a folder in which an unfinished dataset cannot be begun or continued.

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
        if foreign:
            raise ValueError(
                f"--out {self.path}: not empty and no dataset of ours: it holds {', '.join(foreign[:3])}"
                f"{', ...' if len(foreign) > 3 else ''}; give a new or empty folder"
            )

    def begin(self, options: dict[str, Any], digest: str) -> bool:
        """Make ready for the shards of the plan with that digest; whether an earlier run's shards may be there.

        Shards that were written from another listing, since the source has changed, are removed.
        """
        started, indexes = self.work / _STARTED, self.path / INDEX_FOLDER
        continues = started.is_file()
        for path in self.work.glob("*.partial"):
            path.unlink()
        if continues:
            clean_partials(self.path)
            clean_partials(indexes)
        if continues and read_json(started)["plan"] != digest:
            for path in (*self.path.glob("*.tar"), *indexes.glob("*"), *self.work.glob("*.tar.json")):
                path.unlink()
            continues = False
        write_json(started, {"options": options, "plan": digest})
        indexes.mkdir(exist_ok=True)
        return continues

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
                path = self.path / shard.file
                found = path.stat().st_size if path.is_file() else None
                repair = f"rewrite it with: {manifest.repair(shard.file)}"
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
