"""A teacher's cache: what training finds in it, interruptions, several processes, and what is refused."""

import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data_pipeline.augment import RandomResizedCrop
from data_pipeline.batch import Batch
from data_pipeline.location import RemotePath
from data_pipeline.manifest import Manifest
from data_pipeline.order import Plan
from data_pipeline.rows import Part
from data_pipeline.stream import Stream
from launch.console import Console
from launch.lock import WorldLock
from pretrain import cache_files, cache_filling, teacher_cache
from pretrain.cache_identity import LogitIdentity, TeacherFacts
from pretrain.erasing import erase
from pretrain.fixed_views import FixedViews
from pretrain.pixels import Normalization
from pretrain.teacher_cache import TeacherCache, open_or_fill
from pretrain.teacher_cache_config import TeacherCacheConfig
from pretrain.world import World

CLASSES = 10
HALVES = Normalization((0.5,) * 3, (0.25,) * 3)
TEACHER = TeacherFacts("runs/teacher", "f" * 64, (4, 4), HALVES, CLASSES, "a small one")
VIEW = RandomResizedCrop((4, 4))


@dataclass(frozen=True)
class Case:
    """A run, as far as a cache is concerned: its images are noise, its teacher one linear layer."""

    views: FixedViews
    classes: int | None = None
    teacher: TeacherFacts = TEACHER
    erasing: float = 0.5
    folder: Path | None = None
    fails_after: int | None = None

    @property
    def config(self) -> TeacherCacheConfig:
        return TeacherCacheConfig(self.views.views, self.classes, None if self.folder is None else str(self.folder))

    @property
    def identity(self) -> LogitIdentity:
        return LogitIdentity(self.teacher, "fp32", self.views.facts, HALVES, self.erasing, self.classes)

    def prepare(self, batch: Batch) -> Tensor:
        images = HALVES.normalize(batch.images)
        return erase(images, batch.view_keys(), probability=self.erasing, seed=self.views.seed)

    def logits(self, images: Tensor) -> Tensor:
        weights = torch.randn(images[0].numel(), CLASSES, generator=torch.Generator().manual_seed(1))
        return images.flatten(1) @ weights / 4

    def open(self, world: World | None = None, said: StringIO | None = None) -> TeacherCache[Tensor]:
        """Open or fill it; `fails_after` so many pieces the teacher raises an error."""
        judged = 0

        def logits(images: Tensor) -> Tensor:
            nonlocal judged
            judged += 1
            if judged - 1 == self.fails_after:
                raise RuntimeError("killed")
            return self.logits(images)

        world = world or World("fp32")
        return open_or_fill(
            self.config,
            self.identity,
            self.views,
            prepare=self.prepare,
            judge=logits,
            world=world,
            console=Console(world.rank, said or StringIO()),
            workers=0,
        )

    def stream(self, epochs: float, views: int = 1) -> Iterator[Batch]:
        part, members = self.views.part, self.views.members
        plan = Plan(lanes=12, views=views)
        options = {"batch_size": 16, "seed": self.views.seed, "plan": plan, "members": [members], "epochs": epochs}
        yield from Stream([part], self.views.view, fixed_views=self.views.views, **options)


class Two(World):
    """One of two processes, which are threads here."""

    def __init__(self, rank: int, meeting: threading.Barrier, told: list[list[Any]]) -> None:
        self.rank, self.size = rank, 2
        self._meeting, self._told = meeting, told

    def gather(self, items: list[Any]) -> list[Any]:
        self._told[self.rank] = items
        self._meeting.wait()
        found = [*self._told[0], *self._told[1]]
        self._meeting.wait()
        return found

    def any(self, flag: bool) -> bool:
        return any(self.gather([flag]))

    def barrier(self) -> None:
        self._meeting.wait()


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_filling, "_rows_together", lambda _: 16)
    monkeypatch.setattr(cache_filling, "_PIECES", 2)
    monkeypatch.setattr(teacher_cache, "_WAIT", 0.05)


@pytest.fixture
def make(tmp_path: Path, datasets: ModuleType) -> Callable[..., Case]:
    """A run on 61 images of noise in three shards: `make(views=3, members=...)`."""
    manifest = datasets.write_dataset(tmp_path / "data", [20, 24, 17], array=(3, "uint8"))

    def make(views: int = 3, members: Any = None, seed: int = 5, **options: Any) -> Case:
        return Case(FixedViews(Part(manifest, "train"), members, VIEW, seed, views), **options)

    return make


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def edit(folder: Path, **values: Any) -> None:
    record = json.loads((folder / "cache.json").read_text())
    (folder / "cache.json").write_text(json.dumps({**record, **values}))


@pytest.mark.parametrize("classes", [None, 4])
@pytest.mark.parametrize(("views", "repeats"), [(3, 1), (4, 3), (1, 2)])
def test_training_finds_what_the_teacher_says_of_the_very_pixels(
    make: Callable[..., Case], classes: int | None, views: int, repeats: int
):
    case = make(views=views, classes=classes)
    cache = case.open()
    slots = set()
    for batch in case.stream(epochs=2.5, views=repeats):
        live = case.logits(case.prepare(batch))
        found = cache.lookup(batch)
        assert torch.equal(found.argmax(1), live.argmax(1))
        kept = live.topk(classes or CLASSES, dim=1).indices
        torch.testing.assert_close(
            found.softmax(1).gather(1, kept), live.softmax(1).gather(1, kept), rtol=0.02, atol=1e-6
        )
        slots |= set(batch.epochs.tolist())
    assert slots == set(range(views))


def test_a_cache_of_some_samples_holds_these_alone(make: Callable[..., Case]):
    whole, members = make(), np.asarray([3, 4, 17, 30, 31, 32, 60])
    case = make(members=members)
    cache = case.open()
    assert cache.files.samples == 7
    for batch in case.stream(epochs=3):
        live = case.logits(case.prepare(batch))
        torch.testing.assert_close(cache.lookup(batch).softmax(1), live.softmax(1), rtol=0.02, atol=1e-6)
    batch = next(whole.stream(epochs=1))
    outside = batch.samples[~np.isin(batch.samples, members)][0]
    with pytest.raises(
        ValueError, match=rf"data \[train\]: sample {outside} is none of the 7 of which views are known"
    ):
        cache.lookup(batch)


def test_withdrawn_samples_take_no_part(datasets: ModuleType, tmp_path: Path):
    manifest = datasets.write_dataset(tmp_path / "less", [9, 8], array=(3, "uint8"), withdrawn=[2, 11])
    everyone = FixedViews(Part(manifest, "train"), None, VIEW, 0, 1)
    assert everyone.samples == 15
    assert everyone.places(np.asarray([0, 1, 3, 10, 12, 16])).tolist() == [0, 1, 2, 9, 10, 14]
    assert replace(everyone, members=np.asarray([1, 2, 3])).samples == 2
    with pytest.raises(ValueError, match="sample 11 is none of the 15"):
        everyone.places(np.asarray([1, 11]))


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("pieces", [0, 1, 3, 11])
def test_what_was_interrupted_goes_on_to_the_same_bytes(make: Callable[..., Case], classes: int | None, pieces: int):
    """Rows that were written and not put down yet are computed again; those that were are not."""
    undisturbed = make(classes=classes, folder=None).open().files.folder
    expected = files_of(undisturbed)
    shutil.rmtree(undisturbed)
    case = make(classes=classes, fails_after=pieces)
    with pytest.raises(RuntimeError, match="killed"):
        case.open()
    record = json.loads((undisturbed / "cache.json").read_text())
    assert (record["rows"], record["files"]) == (pieces // 2 * 32, {})
    left = -(-3 * 61 // 16) - pieces // 2 * 2
    with pytest.raises(RuntimeError, match="killed"):
        replace(case, fails_after=left - 1).open()
    assert files_of(replace(case, fails_after=left).open().files.folder) == expected
    assert replace(case, fails_after=0).open().files.folder == undisturbed, "whole: the teacher is not asked"


@pytest.mark.parametrize("fails_after", [None, 2])
def test_two_processes_write_the_same_bytes(make: Callable[..., Case], tmp_path: Path, fails_after: int | None):
    case = make(classes=3)
    expected = files_of(case.open().files.folder)
    case = replace(case, folder=tmp_path / "by-two")
    if fails_after is not None:  # what one process has begun, two finish
        with pytest.raises(RuntimeError, match="killed"):
            replace(case, fails_after=fails_after).open()
    meeting, told = threading.Barrier(2, timeout=30), [[], []]
    threads = [threading.Thread(target=case.open, args=(Two(rank, meeting, told),)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert files_of(tmp_path / "by-two") == expected


def test_each_teacher_seed_and_number_of_views_has_a_cache_of_its_own(make: Callable[..., Case]):
    case = make()
    others = [
        make(seed=6),
        make(views=2),
        make(classes=3),
        make(erasing=0.0),
        make(members=np.arange(20)),
        make(teacher=replace(TEACHER, sha256="e" * 64)),
        make(teacher=replace(TEACHER, size=(8, 8))),
        make(teacher=replace(TEACHER, model="vit_base_patch16_clip_quickgelu_224")),
        replace(case, views=replace(case.views, view=RandomResizedCrop((4, 4), scale=(0.5, 1.0)))),
    ]
    keys = {one.identity.key for one in (case, *others)}
    assert len(keys) == 1 + len(others)
    assert make(teacher=replace(TEACHER, name="hf://user/teacher")).identity.key == case.identity.key
    assert case.open().files.folder == case.views.part.manifest.folder / ".teacher" / case.identity.key


def test_the_cache_of_another_run_is_refused_with_all_that_differs(make: Callable[..., Case], tmp_path: Path):
    make(folder=tmp_path / "cache").open()
    asked: dict[str, tuple[dict[str, Any], str]] = {
        "teacher": (
            {"teacher": replace(TEACHER, name="runs/other", sha256="e" * 64)},
            rf"made from something else: teacher.name there runs/teacher, here runs/other \(--teacher\); "
            rf"teacher.sha256 there {'f' * 64}, here {'e' * 64} \(--teacher\); give the options",
        ),
        "seed": ({"seed": 6}, r"something else: images.seed there 5, here 6 \(--seed\); give the options that it was"),
        "views": ({"views": 2}, r"something else: images.views there 3, here 2 \(--cache-teacher.views\); give"),
        "classes": ({"classes": 4}, r"something else: classes there None, here 4 \(--cache-teacher.classes\); give"),
        "erasing": ({"erasing": 0.0}, r"erasing there 0.5, here 0.0 \(--augmentation.erasing\); give"),
        "members": (
            {"members": np.arange(20), "seed": 7},
            r"images.members there all, here 20 of hash \w+ \(--labels, --validation\); "
            r"images.seed there 5, here 7 \(--seed\); give",
        ),
    }
    for options, message in asked.values():
        with pytest.raises(ValueError, match=message) as refused:
            make(folder=tmp_path / "cache", **options).open()
        assert str(refused.value).startswith(f"--cache-teacher.folder {tmp_path / 'cache'}: holds a teacher's logits")
        assert str(refused.value).endswith("without one each such cache has a folder of its own")


def test_another_view_is_refused(make: Callable[..., Case], tmp_path: Path):
    case = make(folder=tmp_path / "cache")
    case.open()
    other = replace(case, views=replace(case.views, view=RandomResizedCrop((4, 4), mirror=0.0)))
    with pytest.raises(
        ValueError, match=r"images.view there RandomResizedCrop.*mirror=0.5.*, here .*mirror=0.0.* \(--aug"
    ):
        other.open()


def test_a_name_alone_makes_no_other_cache(make: Callable[..., Case], tmp_path: Path):
    make(folder=tmp_path / "cache").open()
    said = StringIO()
    make(folder=tmp_path / "cache", teacher=replace(TEACHER, name="elsewhere")).open(said=said)
    assert said.getvalue() == f"the teacher's logits of 3 views of 61 images are there already: {tmp_path / 'cache'}\n"


def test_it_says_what_it_computes_and_how_much_that_takes(make: Callable[..., Case], tmp_path: Path):
    said = StringIO()
    make(folder=tmp_path / "cache", classes=4).open(said=said)
    first, progress, last = said.getvalue().splitlines()
    size = sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.npy"))
    assert size == 3 * 128 + 183 * (4 * 2 + 4 * 1 + 4)
    what = "the teacher's logits of 3 views of 61 images"
    assert first == f"computing {what}, to keep them in 0.00 MB: {tmp_path / 'cache'}"
    assert re.match(r"teacher's logits 183/183  ", progress)
    assert re.fullmatch(rf"computed {what} in [\d.]+ s", last)


def test_damage_is_found_and_refused(make: Callable[..., Case], monkeypatch: pytest.MonkeyPatch):
    case = make()
    folder = case.open().files.folder
    path, again = folder / "logits.npy", "damaged; remove the folder, and the same command fills it anew$"
    whole = path.read_bytes()

    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=rf"^{folder}: logits.npy has 3,787 bytes, expected 3,788: {again}"):
        case.open()
    path.write_bytes(whole[:-40] + b"\0" + whole[-39:])
    with pytest.raises(
        ValueError, match=f"the bytes of logits.npy are not those that its SHA-256 in cache.json.*{again}"
    ):
        case.open()

    # Files so large that opening does not read them through.
    monkeypatch.setattr(cache_files, "_MOST_HASHED", 0)
    path.write_bytes(whole[:-2] + np.float16(np.nan).tobytes())
    cache = case.open()
    with pytest.raises(ValueError, match=f"the logits of sample 60 are not finite: {again}"):
        [cache.lookup(batch) for batch in case.stream(epochs=3)]
    path.write_bytes(b"x" + whole[1:])
    with pytest.raises(ValueError, match=f"logits.npy does not begin as such an array does: {again}"):
        case.open()

    path.unlink()
    with pytest.raises(ValueError, match=r"logits.npy has 0 bytes, expected 3,788"):
        case.open()
    edit(folder, version=7)
    with pytest.raises(ValueError, match=r"cache.json: expected version 1 of a teacher's cache, found 7; remove"):
        case.open()
    (folder / "cache.json").write_text("{")
    with pytest.raises(ValueError, match=r"cache.json: not valid JSON"):
        case.open()
    shutil.rmtree(folder)
    case.open()
    assert path.read_bytes() == whole


def test_an_unfinished_cache_whose_files_are_gone_begins_anew(make: Callable[..., Case]):
    case = make(classes=3, fails_after=5)
    with pytest.raises(RuntimeError, match="killed"):
        case.open()
    (case.views.part.manifest.folder / ".teacher" / case.identity.key / "rest.npy").unlink()
    cache = replace(case, fails_after=None).open()
    for batch in case.stream(epochs=3):
        assert torch.equal(cache.lookup(batch).argmax(1), case.logits(case.prepare(batch)).argmax(1))


def test_folders_that_cannot_be_are_refused(make: Callable[..., Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    (tmp_path / "photos" / "b.jpg").touch()
    with pytest.raises(
        ValueError, match=r"photos: holds a.jpg and 1 more, but no cache.json; expected a new folder, or"
    ):
        make(folder=tmp_path / "photos").open()
    with pytest.raises(ValueError, match=r"a.jpg: is a file; expected a folder"):
        make(folder=tmp_path / "photos" / "a.jpg").open()
    with pytest.raises(OSError, match=r"cannot be kept there \(Not a directory\); give a folder that can be written"):
        make(folder=tmp_path / "photos" / "a.jpg" / "cache").open()

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=r"take 3,788 bytes, 1,000 are free; free some space, keep fewer classes of each"):
        make(folder=tmp_path / "full").open()


def test_a_dataset_in_a_store_needs_a_folder(make: Callable[..., Case], tmp_path: Path):
    case = make()
    there = case.views.part.manifest
    manifest = Manifest(RemotePath("s3://bucket/data"), there.classes, there.statistics, there.made, there.splits)
    remote = replace(case, views=replace(case.views, part=Part(manifest, "train")))
    with pytest.raises(ValueError, match=r"is in a store, s3://bucket/data, where no cache .* --cache-teacher.folder"):
        remote.open()
    named = replace(remote, folder=tmp_path / "cache")
    assert teacher_cache.cache_folder(named.config, named.identity, named.views) == tmp_path / "cache"


def test_rows_computed_together_depend_on_the_teachers_input_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    sizes = [(32, 32), (224, 224), (384, 384), (2048, 2048)]
    assert [cache_filling._rows_together(size) for size in sizes] == [256, 128, 32, 16]


def test_logits_that_are_not_finite_are_never_kept(make: Callable[..., Case], monkeypatch: pytest.MonkeyPatch):
    case = make()
    monkeypatch.setattr(Case, "logits", lambda _, images: torch.full((len(images), CLASSES), torch.nan))
    with pytest.raises(ValueError, match=r"^--teacher: its logits of sample 0 of .*data \[train\] are NaN or infinite"):
        case.open()


def test_a_cache_that_another_run_fills_is_waited_for(make: Callable[..., Case], tmp_path: Path):
    case, said = make(folder=tmp_path / "cache"), StringIO()
    other = WorldLock(tmp_path / "cache")
    other.acquire()
    thread = threading.Thread(target=case.open, kwargs={"said": said})
    thread.start()
    while "waiting" not in said.getvalue() and thread.is_alive():
        thread.join(0.01)
    assert not (tmp_path / "cache" / "cache.json").exists()
    other.release()
    thread.join()
    assert said.getvalue().startswith(
        f"waiting for another run to fill the teacher's cache: {tmp_path / 'cache'} is in"
    )
    assert said.getvalue().count("waiting") == 1
    assert case.open().files.rows == 183


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": -1}, "^--cache-teacher.views -1: expected a number of views, or 0 for no cache$"),
        ({"views": 1, "classes": 0}, "^--cache-teacher.classes 0: expected at least 1, such as 16; leave it out"),
        (
            {"views": 1, "folder": "s3://b/c?key=1"},
            "^--cache-teacher.folder s3://...: expected a folder on this machine",
        ),
        ({"classes": 16}, "^--cache-teacher.classes without --cache-teacher.views: nothing is kept"),
        ({"folder": "x"}, "^--cache-teacher.folder without --cache-teacher.views: nothing is kept"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        TeacherCacheConfig(**options)
