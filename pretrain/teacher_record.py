"""Who teaches a run, written down in its folder: a teacher's place may change, its weights may not."""

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
    path = run.path / TEACHER_FILE
    if not path.is_file() or not has_checkpoints(run.checkpoints):
        run.write_json(path, {"name": source.name, "architecture": source.backbone.name, "sha256": sha256})
        return
    before = read_json(path)
    if before["sha256"] != sha256:
        raise ValueError(
            f"--teacher {source.name}: the run in {run.path} was begun with another teacher, {before['name']} "
            f"(weights {before['sha256'][:16]}, now {sha256[:16]}); give that one, or another --out"
        )
