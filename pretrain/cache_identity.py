"""What a teacher's cache depends on, and whether one that is there was made from the same."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launch.strict_json import differences, to_json
from pretrain.fixed_views import ViewFacts
from pretrain.pixels import Normalization

# Which option decides a field of `CacheIdentity`, or all fields inside it.
_OPTIONS = {
    "teacher": "--teacher",
    "precision": "--precision",
    "classes": "--cache-teacher.classes",
    "images.data": "--data",
    "images.split": "--split",
    "images.members": "--labels, --validation",
    "images.view": "--augmentation, --encoder.image-size",
    "images.seed": "--seed",
    "images.views": "--cache-teacher.views",
    "normalization": "--normalization",
    "erasing": "--augmentation.erasing",
}
_NAME = "teacher.name"


@dataclass(frozen=True)
class TeacherFacts:
    """Which teacher: its name as given, the SHA-256 of its weights, its input size, normalisation and classes, and the
    model that the weights are put into, which may be more than one.
    """

    name: str
    sha256: str
    size: tuple[int, int]
    normalization: Normalization
    classes: int
    model: str


@dataclass(frozen=True)
class CacheIdentity:
    """All that a cache depends on: the teacher, the precision it computes in, the views, and what is done to them
    before it sees them: the student's normalisation, and with what probability boxes are erased.

    `classes`: how many of each view are kept, None for all.
    """

    teacher: TeacherFacts
    precision: str
    images: ViewFacts
    normalization: Normalization
    erasing: float
    classes: int | None

    def to_json(self) -> dict[str, Any]:
        """As the record of a cache holds it."""
        return json.loads(json.dumps(to_json(self)))

    @property
    def key(self) -> str:
        """Stands for all of it but the teacher's name, which may be another for the same weights."""
        content = self.to_json()
        del content["teacher"]["name"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def compare(self, made_from: Mapping[str, Any], where: str) -> None:
        """Compare with what the cache `where` was made from, as its record holds it.

        Raises:
            ValueError: they differ; names each field, what it is there and here, and its option.
        """
        found = differences(made_from, self.to_json())
        changed = [change for change in found if change[0] != _NAME]
        if any(name.startswith("teacher.") for name, _, _ in changed):
            changed = found  # another teacher is easier to know by its name
        if changed:
            listed = "; ".join(f"{name} there {old}, here {new} ({_option(name)})" for name, old, new in changed)
            raise ValueError(
                f"--cache-teacher.folder {where}: holds a teacher's logits that were made from something else: "
                f"{listed}; give the options that it was made with, or another --cache-teacher.folder: without one "
                "each such cache has a folder of its own"
            )


def _option(field: str) -> str:
    found = [option for name, option in _OPTIONS.items() if f"{field}.".startswith(f"{name}.")]
    return found[0] if found else "another version of sherd"
