"""Steps that are not finite: what is written and said of them, and when they are too many."""

import io
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_pipeline.manifest import Manifest, Statistics
from data_pipeline.rows import Part
from data_pipeline.sample_facts import SampleFacts
from data_pipeline.stream import Batch
from launch.console import Console
from launch.run_folder import RunFolder
from pretrain import anomalies as module
from pretrain.ahead import Taken
from pretrain.anomalies import Skipped, TooManyError, Watch
from pretrain.anomaly_config import AnomalyConfig
from pretrain.step import Outcome
from pretrain.world import World

ROWS = 4
NAMES = ["weight", "bias"]
NAN, INFINITY = math.nan, math.inf


class Beside(World):
    """A world with a second process, whose items are those of this one as `of_other` makes them."""

    def __init__(self, of_other: Callable[[Any], Any]) -> None:
        super().__init__("fp32")
        self._of_other = of_other

    def gather(self, items: list[Any]) -> list[Any]:
        return [self._of_other(item) for item in items] + items


@dataclass
class Watched:
    """A watch, where it writes and what it has said."""

    watch: Watch
    folder: Path
    stream: io.StringIO

    def note(
        self, step: int, losses: Iterable[float] = (), norm: float | None = None, scale: float | None = None
    ) -> None:
        """A step, of 4 images at the positions from 4 (step - 1) on, which are samples ten times these numbers.

        losses: of the first images, those of the others are 1; norm: NaN unless all losses are finite, or given.
        """
        of_rows = torch.tensor([*losses, *[1.0] * ROWS][:ROWS])
        whole = NAN if not of_rows.isfinite().all() else 1.0
        norms = torch.tensor([whole if norm is None else norm, 2.0])
        total = norms[0] if norm is None else torch.tensor(norm)
        outcome = Outcome({}, of_rows, norms, total, None if scale is None else torch.tensor(scale))
        positions = np.arange(ROWS * (step - 1), ROWS * step)
        zeros = np.zeros(ROWS, np.int64)
        images = torch.zeros(ROWS, 1, 2, 2, 3, dtype=torch.uint8)
        batch = Batch((images,), torch.zeros(ROWS, dtype=torch.int64), positions, zeros, 10 * positions, zeros)
        self.watch.note(step, Taken(batch, (), ROWS * (step - 1), ROWS * step), outcome)

    def look_at(self, skipped: Iterable[int], *, until: int, since: int = 1) -> None:
        """Note the steps from one to another, of which some are skipped, and look."""
        for step in range(since, until + 1):
            self.note(step, [NAN] if step in set(skipped) else [])
        self.watch.look()

    def read(self, name: str) -> dict[str, Any]:
        return json.loads((self.folder / "anomalies" / name).read_text())

    @property
    def said(self) -> list[str]:
        return self.stream.getvalue().splitlines()

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("anomalies/*"))


Make = Callable[..., Watched]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A watch of a run in `tmp_path`; options are those of `AnomalyConfig`, or the world."""

    def look_up(manifest: Any, split: str, samples: list[int]) -> list[SampleFacts]:
        return [SampleFacts(number, f"{split}-0.tar", number, f"key-{number}", None, None, None) for number in samples]

    monkeypatch.setattr(module, "look_up", look_up)
    parts = [Part(Manifest(Path("data"), None, Statistics((0.5,) * 3, (0.2,) * 3, (1, 1), (1, 1)), {}, {}), "train")]

    def watched(world: World | None = None, **options: int) -> Watched:
        stream = io.StringIO()
        console, config = Console(stream=stream), AnomalyConfig(**options)
        watch = Watch(world or World("fp32"), RunFolder(tmp_path), console, parts=parts, names=NAMES, config=config)
        return Watched(watch, tmp_path, stream)

    return watched


def test_steps_that_are_finite_leave_nothing(make: Make):
    watched = make(most_skipped=1)
    watched.watch.look()
    watched.look_at([], until=3)
    assert watched.watch.tell() == 0
    assert watched.said == watched.files == []


def test_one_image_is_named_and_only_that_one(make: Make, tmp_path: Path):
    watched = make()
    watched.note(6)
    watched.note(7, [1.0, INFINITY])
    assert watched.files == [], "written before anybody looked"
    watched.watch.look()
    path = tmp_path / "anomalies/step-00000007.json"
    assert watched.files == [path.name]
    assert watched.said == [
        f"warning: step 7 skipped: loss not finite for 1 of 4 images (key-250 of train-0.tar); {path}"
    ]
    described = watched.read(path.name)
    assert described["step"] == 7
    assert described["positions"] == [24, 28]
    assert described["gradient_norm"] == "nan"
    assert described["loss_scale"] is None
    assert described["images_with_a_loss_that_is_not_finite"] == 1
    (image,) = described["images"]
    assert image == {
        "data": "data",
        "split": "train",
        "sample": 250,
        "shard": "train-0.tar",
        "row": 250,
        "key": "key-250",
        "name": None,
        "label": None,
        "class_name": None,
        "position": 25,
        "loss": "inf",
    }
    assert described["gradient_norms"] == {"weight": "nan", "bias": 2.0}
    assert described["parameters_with_a_gradient_that_is_not_finite"] == 1


def test_of_many_images_the_first_are_named(make: Make, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_SHOWN", 2)
    watched = make()
    watched.note(1, [NAN, NAN, NAN])
    watched.watch.look()
    named = "loss not finite for 3 of 4 images (key-0 of train-0.tar, key-10 of train-0.tar and 1 more); "
    assert named in watched.said[0]
    assert len(watched.read("step-00000001.json")["images"]) == 3


def test_where_all_losses_are_bad_no_image_is_blamed(make: Make):
    watched = make()
    watched.note(1, [NAN] * ROWS)
    watched.watch.look()
    assert "step 1 skipped: loss not finite for any of 4 images; " in watched.said[0]
    assert len(watched.read("step-00000001.json")["images"]) == ROWS


def test_a_gradient_without_a_loss_to_blame_is_of_the_whole_batch(make: Make):
    watched = make()
    watched.note(1, norm=INFINITY)
    watched.watch.look()
    assert "step 1 skipped: gradient not finite, though the loss of every image is; " in watched.said[0]
    described = watched.read("step-00000001.json")
    assert described["images_with_a_loss_that_is_not_finite"] == 0
    assert [(image["position"], image["loss"]) for image in described["images"]] == [(n, 1.0) for n in range(ROWS)]


def test_images_of_all_processes_are_put_together_in_order(make: Make):
    def of_other(row: Any) -> Any:
        position, dataset, sample, _ = row
        return position + ROWS, dataset, sample + 1, NAN if position == 1 else 1.0

    watched = make(Beside(of_other))
    watched.note(1, [1.0, 1.0, NAN])
    watched.watch.look()
    images = watched.read("step-00000001.json")["images"]
    assert [(image["position"], image["key"]) for image in images] == [(2, "key-20"), (5, "key-11")]
    assert "loss not finite for 2 of 8 images (key-20 of train-0.tar, key-11 of train-0.tar); " in watched.said[0]


def test_too_many_within_the_window_lead_back_and_those_before_it_do_not_count(make: Make):
    watched = make(most_skipped=3, within_steps=10)
    watched.look_at([1, 6], until=6)
    watched.look_at([11], since=7, until=11)  # the first is 10 steps ago
    with pytest.raises(TooManyError) as caught:
        watched.look_at([15], since=12, until=20)
    assert caught.value.skipped == (Skipped(6, 20, 24), Skipped(11, 40, 44), Skipped(15, 56, 60))


@pytest.mark.parametrize("look_every", [1, 2, 7, 40])
def test_how_seldom_anybody_looks_changes_nothing(make: Make, look_every: int):
    """Of steps 8, 12 and 17 no more than two lie within 9; of 17, 24 and 25 three do."""
    watched = make(most_skipped=3, within_steps=9)

    def train() -> None:
        for since in range(1, 41, look_every):
            watched.look_at([8, 12, 17, 24, 25], since=since, until=since + look_every - 1)

    with pytest.raises(TooManyError) as caught:
        train()
    assert [skipped.step for skipped in caught.value.skipped] == [17, 24, 25]


def test_those_that_follow_before_the_look_are_left_out_too(make: Make):
    watched = make(most_skipped=2, within_steps=3)
    with pytest.raises(TooManyError) as caught:
        watched.look_at([2, 3, 15], until=20)
    assert [skipped.step for skipped in caught.value.skipped] == [2, 3, 15]


def test_after_as_many_ways_back_as_are_allowed_an_account_ends_it(make: Make, tmp_path: Path):
    watched = make(most_skipped=2, most_rollbacks=1)
    with pytest.raises(TooManyError):
        watched.look_at([1, 2], until=3)
    watched.watch.went_back()
    assert watched.watch.tell() == 0
    watched.look_at([1], until=1)  # what led to the way back is forgotten
    with pytest.raises(FloatingPointError) as caught:
        watched.look_at([3], since=2, until=3)
    message = str(caught.value)
    assert message.startswith("losses or gradients of 2 steps from 1 to 3 are not finite, after 1 ways back to a ")
    assert (
        f"; {tmp_path / 'anomalies'} says of which images and parameters. Withdraw images that are to blame " in message
    )
    # A step that came again, of another batch, does not take the place of what was told of it first.
    assert watched.files == [
        "step-00000001-after-way-back-1.json",
        "step-00000001.json",
        "step-00000002.json",
        "step-00000003-after-way-back-1.json",
    ]


@pytest.mark.parametrize(("losses", "scale", "is_anomaly"), [([], 2.0, False), ([], 1.0, True), ([NAN], 2.0, True)])
def test_an_overflow_of_fp16_is_no_anomaly_unless_the_scale_is_least(
    make: Make, losses: list[float], scale: float, is_anomaly: bool
):
    watched = make(most_skipped=4)
    for step in (1, 2, 3):
        watched.note(step, losses, norm=INFINITY, scale=scale)
    watched.watch.look()
    assert watched.watch.tell() == 3
    assert watched.watch.tell() == 0
    assert watched.watch.overflows == (0 if is_anomaly else 3)
    assert len(watched.files) == len(watched.said) == (3 if is_anomaly else 0)
    watched.note(4, losses, norm=INFINITY, scale=scale)
    if is_anomaly:
        assert watched.read("step-00000001.json")["loss_scale"] == scale
        with pytest.raises(TooManyError):
            watched.watch.look()
    else:
        watched.watch.look()


def test_a_state_goes_on_where_it_was_taken(make: Make):
    watched = make(most_skipped=3, within_steps=10, most_rollbacks=1)
    watched.watch.went_back()
    watched.look_at([2, 4], until=7)
    state = json.loads(json.dumps(watched.watch.state()))
    other = make(most_skipped=3, within_steps=10, most_rollbacks=1)
    other.watch.load_state(state)
    assert other.watch.state() == state
    assert other.watch.tell() == watched.watch.tell() == 2
    for one in (watched, other):
        with pytest.raises(FloatingPointError, match="of 3 steps from 2 to 11 are not finite, after 1 ways back"):
            one.look_at([11], since=8, until=11)
