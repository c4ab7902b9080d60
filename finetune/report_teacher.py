"""What a report shows of a run's teacher: who it was, what was learnt of it, and what that cost."""

from collections.abc import Iterator
from dataclasses import dataclass

from finetune.report_blocks import Block, Caption, Table
from finetune.report_facts import gather_facts
from finetune.report_folders import Folder, read_known
from launch.strict_json import from_json
from pretrain.distill_config import NO_TEACHER, OWN
from pretrain.distillation_config import DistillationConfig
from pretrain.teacher_cache_config import TeacherCacheConfig
from pretrain.teacher_record import TEACHER_FILE

_CONFIG = "config.json"


@dataclass(frozen=True)
class TeacherFile:
    """What pretrain/distill.py writes into teacher.json: the name as it was given, and the hash of the weights."""

    name: str
    architecture: str
    sha256: str


def has_teacher(folder: Folder) -> bool:
    """Whether somebody teaches a run."""
    is_told = folder.kind == "distillation" and folder.config.get("teacher") != NO_TEACHER
    return is_told or folder.kind == "feature distillation"


def teacher_blocks(folder: Folder, _: str) -> list[Block]:
    """All about the teacher as a table.

    Raises:
        ValueError: no teacher.json, or it or the settings are not what distill.py writes.
    """
    found, facts = read_known(TeacherFile, folder.path / TEACHER_FILE), gather_facts(folder)
    rows = [("model", found.name), ("architecture", found.architecture), ("SHA-256 of its weights", found.sha256)]
    if folder.config["teacher"] == OWN:
        rows.insert(1, ("trained", "first, by this run, on the same labels"))
    rows += _learnt(folder)
    files = [TEACHER_FILE, _CONFIG]
    if facts.teacher is not None:
        rows.append(("share of the time in training", f"{facts.teacher:.1%}"))
        files.append("metrics.jsonl")
    text = "Who taught this model, and what it learnt of the teacher."
    caption = Caption(text, tuple(f"{folder.name}/{file}" for file in files))
    return [Table(("teacher", "value"), tuple(rows), frozenset(), caption)]


def _learnt(folder: Folder) -> Iterator[tuple[str, str]]:
    config, where = folder.config, f"{folder.name}/{_CONFIG}"
    cache = from_json(TeacherCacheConfig, config["cache_teacher"], where)
    if folder.kind == "feature distillation":
        yield "learnt", learnt_features(config["class_weight"], config["patch_weight"])
        yield "its features", how_often_asked(cache)
    else:
        yield "learnt", learnt_logits(from_json(DistillationConfig, config["distillation"], where))
        yield "its logits", how_often_asked(cache)


def learnt_logits(how: DistillationConfig) -> str:
    """What of a teacher's logits is learnt, as a clause."""
    if how.kind == "hard":
        return f"hard: the class that the teacher finds likeliest, as a label; alpha {how.alpha:g}"
    return f"soft: the teacher's probabilities, at temperature {how.temperature:g}; alpha {how.alpha:g}"


def learnt_features(class_weight: float, patch_weight: float) -> str:
    """What of a teacher's features is learnt, as a clause."""
    return f"by their cosines, the teacher's class token (weight {class_weight:g}) and patch tokens ({patch_weight:g})"


def how_often_asked(cache: TeacherCacheConfig) -> str:
    """How often a teacher is asked, as a clause."""
    if not cache.is_on:
        return "computed of every view as it is shown"
    kept = "" if cache.classes is None else f", the {cache.classes:,} likeliest classes of each"
    return f"computed once, of {cache.views:,} fixed views of each image{kept}"
