"""Places of rare classes: as many as the rule says, shared evenly among a class's images, whatever the numbers are."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import balance
from data_pipeline.augment import RandomResizedCrop
from data_pipeline.balance import balanced_samples
from data_pipeline.manifest import Manifest
from data_pipeline.order import Plan, subset_hash
from data_pipeline.rows import Part
from data_pipeline.stream import Stream
from data_pipeline.subset import read_labels


@pytest.fixture
def digits(make_dataset: Callable[..., Manifest]) -> Manifest:
    """17 images, of noise, of each of ten classes."""
    return make_dataset([100, 70], array=(3, "uint8"))


def rare(digits: Manifest) -> np.ndarray:
    """4 images of class 0, 9 of class 1, 16 of class 2, none of the others."""
    labels = read_labels(digits, "train")
    return np.sort(np.concatenate([np.flatnonzero(labels == c)[:n] for c, n in ((0, 4), (1, 9), (2, 16))]))


@pytest.mark.parametrize(("power", "expected"), [(1, (16, 16, 16)), (0.5, (8, 12, 16)), (0.25, (6, 10, 16))])
def test_places_of_a_class_follow_the_power(digits: Manifest, power: float, expected: tuple[int, ...]):
    chosen, rule = balanced_samples(digits, "train", rare(digits), power, seed=0)
    assert np.bincount(read_labels(digits, "train")[chosen]).tolist() == list(expected)
    assert rule == f"balanced-{float(power)}-{subset_hash(chosen)}"


def test_classes_of_one_size_stay_as_they_are(digits: Manifest):
    chosen, _ = balanced_samples(digits, "train", None, 1, seed=0)
    assert chosen.tolist() == list(range(170))


@settings(max_examples=60)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=300), st.floats(0.01, 1), st.integers(0, 2**40))
def test_every_image_once_at_least_and_a_class_shared_to_within_one(labels: list[int], power: float, seed: int):
    manifest = Manifest(Path("x"), tuple(map(str, range(13))), None, {}, {})  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(balance, "read_labels", lambda *_: np.asarray(labels))
        chosen, _ = balanced_samples(manifest, "train", None, power, seed)
        again, _ = balanced_samples(manifest, "train", np.arange(len(labels)), power, seed)
    assert chosen.tolist() == sorted(chosen.tolist()) == again.tolist()
    copies = np.bincount(chosen, minlength=len(labels))
    counts = Counter(labels)
    for label, count in counts.items():
        own = copies[np.asarray(labels) == label]
        assert own.min() >= 1
        assert own.max() - own.min() <= 1
        assert abs(own.sum() - count ** (1 - power) * max(counts.values()) ** power) <= 0.5 + 1e-6


def test_which_images_come_once_more_follows_the_seed(digits: Manifest):
    one, same, other = (balanced_samples(digits, "train", rare(digits), 0.5, seed)[0] for seed in (0, 0, 1))
    assert one.tolist() == same.tolist() != other.tolist()
    assert len(one) == len(other)


def test_the_choice_never_changes(digits: Manifest):
    """Frozen: a plan records its hash, and a run that is resumed must find the same."""
    assert balanced_samples(digits, "train", rare(digits), 0.5, seed=3)[1] == "balanced-0.5-6fd380051ca0bf54"


def test_other_powers_and_images_without_labels_are_refused(digits: Manifest):
    for power in (0, -1, 1.5):
        with pytest.raises(ValueError, match=rf"a power of {power}; expected more than 0 and at most 1"):
            balanced_samples(digits, "train", None, power, seed=0)
    with pytest.raises(ValueError, match=r"\[train\]: no image that takes part has a label"):
        balanced_samples(digits, "train", np.empty(0, np.int64), 1, seed=0)
    with pytest.raises(ValueError, match="this dataset has no labels"):
        balanced_samples(replace(digits, classes=None), "train", None, 1, seed=0)


@pytest.mark.parametrize("cache", ["none", "memory", "device"])
def test_a_stream_shows_each_copy_with_an_augmentation_of_its_own(digits: Manifest, cache):
    members, subset = balanced_samples(digits, "train", rare(digits), 1, seed=0)
    plan = Plan(lanes=12, subset=subset)

    def shown(rank: int, world: int) -> list[tuple[int, int, int, bytes]]:
        stream = Stream(
            [Part(digits, "train")],
            RandomResizedCrop((8, 8)),
            batch_size=12,
            seed=0,
            plan=plan,
            members=[members],
            rank=rank,
            world=world,
            epochs=1,
            cache=cache,
        )
        rows = [
            (int(position), int(sample), int(label), image.numpy().tobytes())
            for batch in stream
            for position, sample, label, image in zip(
                batch.positions, batch.samples, batch.labels, batch.images, strict=True
            )
        ]
        stream.close()
        return rows

    rows = shown(0, 1)
    assert sorted(sample for _, sample, _, _ in rows) == members.tolist()
    assert Counter(label for _, _, label, _ in rows) == {0: 16, 1: 16, 2: 16}
    for sample in rare(digits).tolist():
        pixels = [image for _, own, _, image in rows if own == sample]
        assert len(set(pixels)) == len(pixels)
    assert sorted(shown(0, 2) + shown(1, 2)) == rows


def test_a_stream_goes_on_where_its_state_was_taken(digits: Manifest):
    members, subset = balanced_samples(digits, "train", rare(digits), 1, seed=0)

    def stream() -> Stream:
        plan = Plan(lanes=12, subset=subset)
        part, view = Part(digits, "train"), RandomResizedCrop((8, 8))
        return Stream([part], view, batch_size=12, seed=0, plan=plan, members=[members], epochs=2)

    first = stream()
    batches = iter(first)
    for _ in range(5):
        next(batches)
    state, rest = first.state(), list(batches)
    resumed = stream()
    resumed.load_state(state)
    for one, other in zip(resumed, rest, strict=True):
        assert one.samples.tolist() == other.samples.tolist()
        assert one.images.equal(other.images)
