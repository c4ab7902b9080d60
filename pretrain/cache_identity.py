"""What a teacher's cache depends on, and whether one that is there was made from the same."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Generic, Literal

from jaxtyping import Float
from torch import Tensor

from launch.strict_json import ABSENT, differences, to_json
from pretrain.cached_features import FeatureFormat
from pretrain.cached_logits import LogitFormat
from pretrain.feature_teacher import TeacherFeatures
from pretrain.fixed_views import ViewFacts
from pretrain.pixels import Normalization
from pretrain.row_format import RowFormat, T

# Which option decides a field of an identity, or all fields inside it.
_OPTIONS = {
    "kind": "the recipe",
    "teacher": "--teacher",
    "precision": "--precision",
    "classes": "--cache-teacher.classes",
    "grid": "--encoder.image-size, --encoder.patch-size",
    "widths": "--teacher",
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
_UNTOLD = {"kind": "logits"}  # of which an identity says nothing


@dataclass(frozen=True)
class TeacherFacts:
    """Which teacher: its name as given, the SHA-256 of its weights, its input size, normalisation and classes (None
    where its features are asked for), and the model that the weights are put into, which may be more than one.
    """

    name: str
    sha256: str
    size: tuple[int, int]
    normalization: Normalization
    classes: int | None
    model: str


@dataclass(frozen=True)
class CacheIdentity(ABC, Generic[T]):
    """All that any cache depends on: the teacher, the precision it computes in, the views, and what is done to them
    before it sees them: the student's normalisation, and with what probability boxes are erased.
    """

    teacher: TeacherFacts
    precision: str
    images: ViewFacts
    normalization: Normalization
    erasing: float
    options: ClassVar[Mapping[str, str]] = _OPTIONS

    @property
    @abstractmethod
    def rows(self) -> RowFormat[T]:
        """How what is kept lies in files."""

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
        there, here = {**_UNTOLD, **made_from}, {**_UNTOLD, **self.to_json()}
        found = differences(there, here)
        if there["kind"] != here["kind"]:  # and with it which fields there are
            found = [change for change in found if change[1] not in (ABSENT, None) and change[2] not in (ABSENT, None)]
        changed = [change for change in found if change[0] != _NAME]
        if any(name.startswith("teacher.") for name, _, _ in changed):
            changed = found  # another teacher is easier to know by its name
        if changed:
            listed = "; ".join(f"{name} there {old}, here {new} ({self._option(name)})" for name, old, new in changed)
            raise ValueError(
                f"--cache-teacher.folder {where}: holds a teacher's {there['kind']} that were made from something "
                f"else: {listed}; give the options that it was made with, or another --cache-teacher.folder: without "
                "one each such cache has a folder of its own"
            )

    def _option(self, field: str) -> str:
        found = [option for name, option in self.options.items() if f"{field}.".startswith(f"{name}.")]
        return found[0] if found else "another version of sherd"


@dataclass(frozen=True)
class LogitIdentity(CacheIdentity[Float[Tensor, "b classes"]]):
    """Of a cache of logits; `classes`: how many of each view are kept, None for all."""

    classes: int | None

    @property
    def rows(self) -> LogitFormat:
        """All classes of each view, or the most probable ones."""
        assert self.teacher.classes is not None
        return LogitFormat(self.teacher.classes, self.classes)


@dataclass(frozen=True)
class FeatureIdentity(CacheIdentity[TeacherFeatures]):
    """Of a cache of features: the student's rows and columns of places, which they were interpolated to, and how many
    numbers a feature of the image and one of a place have.
    """

    grid: tuple[int, int]
    widths: tuple[int, int]
    kind: Literal["features"] = "features"
    options: ClassVar[Mapping[str, str]] = {"teacher.size": "--teacher, --teacher-image-size", **_OPTIONS}

    @property
    def rows(self) -> FeatureFormat:
        """All features of each view."""
        return FeatureFormat(self.widths, prod(self.grid))
