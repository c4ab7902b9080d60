"""Who teaches a run, written down in its folder: a teacher's place may change, its weights may not."""

from collections.abc import Callable

from launch.run_folder import RunFolder
from launch.strict_json import read_json
from pretrain.checkpoint import has_checkpoints
from pretrain.model_source import ModelSource

TEACHER_FILE = "teacher.json"
"""In the run folder: the name that was given, the architecture and the hash of the weights."""


def record_teacher(source: ModelSource, sha256: str, run: RunFolder) -> None:
    """Write down who teaches a run; to be called on rank 0 alone.

    Raises:
        ValueError: another teacher has taught it: there are checkpoints.
    """
    if not _has_taught(run):
        taught = {"name": source.name, "architecture": source.backbone.name, "sha256": sha256}
        run.write_json(run.path / TEACHER_FILE, taught)
        return
    before = read_json(run.path / TEACHER_FILE)
    if before["sha256"] != sha256:
        raise ValueError(
            f"--teacher {source.name}: the run in {run.path} was begun with another teacher, {before['name']} "
            f"(weights {before['sha256'][:16]}, now {sha256[:16]}); give that one, or another --out"
        )


def check_teacher(teacher: str, run: RunFolder, find: Callable[[], ModelSource]) -> None:
    """Make sure, before a run is gone on with and its options are written down anew, that a teacher of another name
    than the recorded one is the same; to be called on rank 0 alone.

    Raises:
        ValueError: it is another, or cannot be found.
    """
    if _has_taught(run) and read_json(run.path / TEACHER_FILE)["name"] != teacher:
        source = find()
        record_teacher(source, source.sha256, run)


def _has_taught(run: RunFolder) -> bool:
    return (run.path / TEACHER_FILE).is_file() and has_checkpoints(run.checkpoints)
