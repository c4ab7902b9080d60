"""Fixed views: always the same pixels for a sample and a slot, on any number of ranks, from any position."""

import itertools
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from data_pipeline.augment import RandomResizedCrop
from data_pipeline.manifest import Manifest
from data_pipeline.order import Plan
from data_pipeline.rows import Part
from data_pipeline.stream import Batch, Stream

MakeDataset = Callable[..., Manifest]
VIEW = RandomResizedCrop((4, 4))


@pytest.fixture
def noise(make_dataset: MakeDataset) -> Manifest:
    """29 images of noise in three shards, no two views of which are alike."""
    return make_dataset([9, 14, 6], array=(3, "uint8"), size=24)


def stream(manifests: Manifest | list[Manifest], views: int = 1, **options: Any) -> Stream:
    manifests = manifests if isinstance(manifests, list) else [manifests]
    plan = Plan(lanes=12, views=views, weights=options.pop("weights", (1,)))
    parts = [Part(manifest, "train") for manifest in manifests]
    return Stream(parts, VIEW, **{"batch_size": 6, "seed": 3, "plan": plan} | options)


def rows(batches: list[Batch]) -> list[tuple[int, int, int, int, bytes]]:
    """(position, dataset, sample, epoch or slot, pixels) of each row, by position."""
    return sorted(
        (int(position), int(dataset), int(sample), int(epoch), image.numpy().tobytes())
        for batch in batches
        for position, dataset, sample, epoch, image in zip(
            batch.positions, batch.datasets, batch.samples, batch.epochs, batch.images, strict=True
        )
    )


@pytest.mark.parametrize(("views", "count"), [(1, 1), (1, 3), (3, 4), (3, 2), (2, 6)])
def test_slots_are_shown_in_turn_and_show_what_epochs_of_one_view_do(noise: Manifest, views: int, count: int):
    plain = {row[2:4]: row[4] for row in rows(list(stream(noise, epochs=count)))}
    assert len(set(plain.values())) == len(plain) >= 29 * count, "views that are alike would prove nothing"
    slots = defaultdict(list)
    for _, _, sample, slot, pixels in rows(list(stream(noise, views, epochs=3, fixed_views=count))):
        assert pixels == plain[sample, slot]
        slots[sample].append(slot)
    assert sorted(slots) == list(range(29))
    for shown in slots.values():
        assert shown[: 3 * views] == [turn % count for turn in range(3 * views)]


def test_the_order_of_samples_and_what_else_a_batch_holds_stay(noise: Manifest):
    plain, fixed = (list(stream(noise, 3, epochs=2, fixed_views=count)) for count in (None, 4))
    for one, other in zip(plain, fixed, strict=True):
        for name in ("positions", "datasets", "samples", "labels"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_samples_that_were_chosen_have_slots_of_their_own_epochs(noise: Manifest):
    """In a mixture each dataset runs through epochs of its own, the small one through more."""
    plain = {(0, *row[2:4]): row[4] for row in rows(list(stream(noise, epochs=3)))}
    members = np.asarray([1, 5, 6, 22])
    found = rows(list(stream([noise, noise], epochs=1, fixed_views=3, members=[None, members], weights=(1, 1))))
    assert {row[3] for row in found if row[1] == 1} == {0, 1, 2}
    for _, _, sample, slot, pixels in found:
        assert pixels == plain[0, sample, slot]


def test_ranks_together_show_the_same(noise: Manifest):
    options = {"views": 3, "epochs": 2, "fixed_views": 4}
    both = [batch for rank in range(2) for batch in stream(noise, rank=rank, world=2, **options)]
    assert rows(both) == rows(list(stream(noise, **options)))


def test_it_goes_on_from_any_position(noise: Manifest):
    options: dict[str, Any] = {"views": 3, "epochs": 2, "fixed_views": 4}
    whole = list(stream(noise, **options))
    begun = stream(noise, **options)
    iterator = iter(begun)
    for done in range(1, len(whole)):
        next(iterator)
        resumed = stream(noise, **options)
        resumed.load_state(begun.state())
        assert rows(list(itertools.islice(resumed, 2))) == rows(whole[done : done + 2])


def test_a_state_tells_how_many_there_are(noise: Manifest):
    plain, three, four = (stream(noise, fixed_views=count) for count in (None, 3, 4))
    assert "fixed_views" not in plain.state(), "as states of before there could be any"
    assert three.state()["fixed_views"] == 3
    stream(noise, fixed_views=3).load_state(three.state())
    stream(noise).load_state(plain.state())
    for before, now, said in ((three, four, "3, now 4"), (three, plain, "3, now None"), (plain, three, "None, now 3")):
        with pytest.raises(
            ValueError, match=rf"resume the stream: fixed_views was {said}; other views would be shown: give as many"
        ):
            now.load_state(before.state())


@pytest.mark.parametrize("cache", ["memory", "device"])
def test_images_that_are_decoded_once_show_the_same(make_dataset: MakeDataset, cache: str):
    images = make_dataset([9, 14])
    expected = rows(list(stream(images, 2, epochs=2, fixed_views=3)))
    kept = stream(images, 2, epochs=2, fixed_views=3, cache=cache)
    assert rows(list(kept)) == expected
    assert kept.report.from_memory == kept.report.rows > 0
    kept.close()


def test_members_with_several_places_are_refused(noise: Manifest):
    copies = np.asarray([1, 4, 4, 9])
    with pytest.raises(
        ValueError, match=r"fixed_views 3: expected members that have one place .* and some have several"
    ):
        stream(noise, fixed_views=3, members=[copies])
    stream(noise, members=[copies])


@pytest.mark.parametrize("count", [0, -1])
def test_fewer_than_one_are_refused(noise: Manifest, count: int):
    with pytest.raises(ValueError, match=rf"fixed_views {count}: expected at least 1, or None for new views in every"):
        stream(noise, fixed_views=count)
