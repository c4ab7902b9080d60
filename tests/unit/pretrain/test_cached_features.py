"""A cache of features: what is kept of them, what training finds in it, and that no cache of logits is taken for it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data_pipeline.augment import RandomResizedCrop
from data_pipeline.batch import Batch
from data_pipeline.order import Plan
from data_pipeline.rows import Part
from data_pipeline.stream import Stream
from launch.console import Console
from pretrain import cache_filling
from pretrain.cache_identity import CacheIdentity, FeatureIdentity, LogitIdentity, TeacherFacts
from pretrain.cached_features import FeatureFormat
from pretrain.erasing import erase
from pretrain.feature_student import cosine_distance
from pretrain.feature_teacher import TeacherFeatures
from pretrain.fixed_views import FixedViews
from pretrain.pixels import Normalization
from pretrain.row_format import are_finite
from pretrain.teacher_cache import TeacherCache, open_or_fill
from pretrain.teacher_cache_config import TeacherCacheConfig
from pretrain.world import World

HALF = 2.0**-11  # rounding to half precision changes a number by no more than this share of it
WIDTHS, GRID = (5, 3), (2, 2)
PLAIN = Normalization((0.5,) * 3, (0.25,) * 3)
TEACHER = TeacherFacts("runs/teacher", "f" * 64, (4, 4), PLAIN, None, "a small one")


def draw(rows: int, scale: float = 1.0) -> TeacherFeatures:
    generator = torch.Generator().manual_seed(rows)
    image, places = (torch.randn(rows, *shape, generator=generator) for shape in ((WIDTHS[0],), (4, WIDTHS[1])))
    return TeacherFeatures(image * scale, places * scale)


@pytest.mark.parametrize("scale", [0.01, 1.0, 10_000.0])
def test_numbers_are_kept_to_half_precision_and_cosines_better(scale: float):
    rows, features = FeatureFormat(WIDTHS, 4), draw(64, scale)
    assert rows.fits(features).all()
    columns = rows.pack(features)
    assert {name: (column.dtype, column.shape[1:]) for name, column in columns.items()} == rows.columns
    found = rows.unpack(columns)
    for kept, given, others in zip(found, features, draw(64), strict=True):
        assert torch.equal(kept.float(), given.half().float())
        changed = (cosine_distance(others, kept) - cosine_distance(others, given)).abs()
        assert (changed <= 1.05 * HALF).all()


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf, 65_520.0, -1e6])
def test_rows_that_half_precision_does_not_hold_are_told(number: float):
    rows, features = FeatureFormat(WIDTHS, 4), draw(3)
    features.image[0, 4] = 65_504.0
    features.places[2, 3, 1] = number
    assert rows.fits(features).tolist() == [True, True, False]
    assert are_finite({"places": features.places.half().numpy()}).tolist() == [True, True, False]


def test_finite_rows_are_told_in_each_type_of_column():
    halves, singles = np.ones((4, 2, 2), np.float16), np.ones(4, np.float32)
    halves[1, 1, 0], singles[3] = -np.inf, np.nan
    halves[0, 0, 0] = np.finfo(np.float16).min
    assert are_finite({"a": halves, "b": singles, "c": np.ones((4, 2), np.uint8)}).tolist() == [
        True,
        False,
        True,
        False,
    ]


@dataclass(frozen=True)
class Case:
    """A run, as far as a cache is concerned: its images are noise, its teacher a linear layer."""

    views: FixedViews
    folder: Path | None = None
    factor: float = 1.0

    @property
    def identity(self) -> FeatureIdentity:
        return FeatureIdentity(TEACHER, "fp32", self.views.facts, PLAIN, 0.5, GRID, WIDTHS)

    @property
    def logits(self) -> LogitIdentity:
        """Of a cache of logits of the same teacher."""
        return LogitIdentity(replace(TEACHER, classes=5), "fp32", self.views.facts, PLAIN, 0.5, None)

    def prepare(self, batch: Batch) -> Tensor:
        images = PLAIN.normalize(batch.images)
        return erase(images, batch.view_keys(), probability=0.5, seed=self.views.seed)

    def features(self, images: Tensor) -> TeacherFeatures:
        numbers = WIDTHS[0] + 4 * WIDTHS[1]
        weights = torch.randn(images[0].numel(), numbers, generator=torch.Generator().manual_seed(1))
        found = images.flatten(1) @ weights * self.factor
        return TeacherFeatures(found[:, : WIDTHS[0]], found[:, WIDTHS[0] :].unflatten(1, (4, WIDTHS[1])))

    def open(self, judge: Any = None, identity: Any = None, said: StringIO | None = None) -> TeacherCache[Any]:
        made_from: CacheIdentity[Any] = identity or self.identity
        return open_or_fill(
            TeacherCacheConfig(self.views.views, None, None if self.folder is None else str(self.folder)),
            made_from,
            self.views,
            prepare=self.prepare,
            judge=judge or self.features,
            world=World("fp32"),
            console=Console(0, said or StringIO()),
            workers=0,
        )

    def stream(self, epochs: float) -> Iterator[Batch]:
        part, plan, views = self.views.part, Plan(lanes=12), self.views
        yield from Stream(
            [part], views.view, batch_size=16, seed=views.seed, plan=plan, epochs=epochs, fixed_views=views.views
        )


@pytest.fixture
def case(tmp_path: Path, datasets: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Case:
    """Two views of each of 37 images, in pieces of 16 rows."""
    monkeypatch.setattr(cache_filling, "_rows_together", lambda _: 16)
    manifest = datasets.write_dataset(tmp_path / "data", [20, 17], array=(3, "uint8"))
    return Case(FixedViews(Part(manifest, "train"), None, RandomResizedCrop((4, 4)), 5, 2))


def test_training_finds_the_features_of_the_very_pixels_and_a_second_run_computes_none(case: Case):
    said = StringIO()
    cache = case.open(said=said)
    assert cache.files.folder == case.views.part.manifest.folder / ".teacher" / case.identity.key
    assert said.getvalue().startswith(
        "computing the teacher's features of 2 views of 37 images, to keep them in 0.00 MB"
    )
    assert "teacher's features 74/74  " in said.getvalue()
    assert cache.files.size == sum(path.stat().st_size for path in cache.files.folder.glob("*.npy"))
    assert cache.files.size == 2 * 128 + 74 * 2 * (5 + 4 * 3)

    def nobody(_: Tensor) -> TeacherFeatures:
        raise AssertionError

    again = StringIO()
    cache = case.open(nobody, said=again)
    assert (
        again.getvalue() == f"the teacher's features of 2 views of 37 images are there already: {cache.files.folder}\n"
    )
    for batch in case.stream(epochs=2.5):
        for found, live in zip(cache.lookup(batch), case.features(case.prepare(batch)), strict=True):
            torch.testing.assert_close(found.float(), live, rtol=1.05 * HALF, atol=1e-6)


@pytest.mark.parametrize("factor", [torch.nan, 1e6])
def test_features_that_cannot_be_kept_are_refused(case: Case, factor: float):
    message = (
        r"^--teacher: its features of sample 0 of .*data \[train\] are NaN, infinite, or beyond the 65,504 that half "
        r"precision ends at, .* or ask it anew each time: --cache-teacher.views 0$"
    )
    with pytest.raises(ValueError, match=message):
        replace(case, factor=factor).open()


def test_a_cache_of_the_other_kind_is_refused(case: Case, tmp_path: Path):
    case = replace(case, folder=tmp_path / "cache")
    case.open()
    seeded = replace(case, views=replace(case.views, seed=6))
    message = (
        r"cache: holds a teacher's features that were made from something else: kind there features, here logits "
        r"\(the recipe\); images.seed there 5, here 6 \(--seed\); give the options"
    )
    with pytest.raises(ValueError, match=message):
        seeded.open(identity=seeded.logits)
    other = replace(case, folder=tmp_path / "logits")
    other.open(lambda images: case.features(images).image, identity=case.logits)
    message = "logits: holds a teacher's logits that .* else: kind there logits, here features .the recipe.; give the"
    with pytest.raises(ValueError, match=message):
        other.open()


def test_all_that_features_depend_on_is_compared(case: Case, tmp_path: Path):
    case = replace(case, folder=tmp_path / "cache")
    case.open()
    asked: list[tuple[dict[str, Any], str]] = [
        (
            {"teacher": replace(TEACHER, size=(8, 8))},
            r"teacher.size there \[4, 4\], here \[8, 8\] \(--teacher, --teacher-image-size\)",
        ),
        ({"grid": (1, 4)}, r"grid there \[2, 2\], here \[1, 4\] \(--encoder.image-size, --encoder.patch-size\)"),
        ({"widths": (5, 4)}, r"widths there \[5, 3\], here \[5, 4\] \(--teacher\)"),
    ]
    for options, message in asked:
        other = replace(case.identity, **options)
        assert other.key != case.identity.key
        with pytest.raises(ValueError, match=f"made from something else: {message}; give the options"):
            case.open(identity=other)


def test_damage_is_found_when_it_is_looked_up(case: Case, monkeypatch: pytest.MonkeyPatch):
    path = case.open().files.path("places")
    monkeypatch.setattr("pretrain.cache_files._MOST_HASHED", 0)  # as where files are large
    path.write_bytes(path.read_bytes()[:-2] + np.float16(np.inf).tobytes())
    cache = case.open()
    with pytest.raises(ValueError, match=r"the features of sample 36 are not finite: damaged; remove the folder"):
        [cache.lookup(batch) for batch in case.stream(epochs=2)]


def test_a_full_disk_is_told_with_what_takes_less(case: Case, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    message = (
        r"the teacher's features of 2 views of 37 images take 2,772 bytes, 1,000 are free; free some space, keep fewer"
    )
    with pytest.raises(OSError, match=message):
        case.open()
