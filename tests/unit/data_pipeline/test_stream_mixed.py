"""Streams of several datasets, some of them in a store, with samples withdrawn: exact and elastic like one."""

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipeline.augment import RandomResizedCrop
from data_pipeline.manifest import Manifest, Split, read_manifest
from data_pipeline.order import Order, Plan
from data_pipeline.rows import Part
from data_pipeline.stream import Stream

VIEW = RandomResizedCrop((8, 8))
MakeDataset = Callable[..., Manifest]
Row = tuple[int, int, int, bytes]


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SHERD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SHERD_CACHE_BYTES", "50000000")
    yield
    fsspec.filesystem("memory").store.clear()


def upload(manifest: Manifest) -> Manifest:
    """The same dataset in a store (in memory, so only this process sees it)."""
    assert isinstance(manifest.folder, Path)
    (manifest.folder / "manifest.json").write_text(json.dumps(manifest.to_json()))
    url = f"memory://{manifest.folder.name}"
    fsspec.filesystem("memory").put(str(manifest.folder), f"/{manifest.folder.name}", recursive=True)
    return read_manifest(url)


def withdraw(manifest: Manifest, share: int) -> Manifest:
    """Every so-many-th sample takes no part any more."""
    split = manifest.split("train")
    numbers = tuple(range(0, split.samples, share)) if share < split.samples else ()
    return replace(manifest, splits={"train": replace(split, withdrawn=numbers)})


def rows(parts: Sequence[Manifest], world: int, steps: int, *, batch: int, plan: Plan, state: dict | None = None):
    """The rows of each of the next global batches, put together from all ranks, in order of position."""
    by_rank = []
    for rank in range(world):
        stream = Stream(
            [Part(manifest, "train") for manifest in parts],
            VIEW,
            batch_size=batch,
            seed=3,
            plan=plan,
            rank=rank,
            world=world,
        )
        if state is not None:
            stream.load_state(state)
        by_rank.append(list(itertools.islice(stream, steps)))
        stream.close()
    found: list[list[tuple[int, Row]]] = []
    for batches in zip(*by_rank, strict=True):
        found.append(
            sorted(
                (int(position), (int(dataset), int(sample), int(epoch), image.numpy().tobytes()))
                for part in batches
                for position, dataset, sample, epoch, image in zip(
                    part.positions, part.datasets, part.samples, part.epochs, part.images, strict=True
                )
            )
        )
    return found


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    sizes=st.lists(st.lists(st.integers(1, 25), min_size=1, max_size=3), min_size=1, max_size=3),
    weights=st.lists(st.integers(1, 4), min_size=3, max_size=3),
    lanes=st.sampled_from([1, 6, 12, 240]),
    world=st.integers(1, 5),
    per_rank=st.integers(1, 6),
    share=st.sampled_from([2, 5, 1000]),
    stored=st.integers(0, 7),
    resume=st.integers(0, 3),
)
def test_any_mixture_from_anywhere(make_dataset: MakeDataset, **drawn):
    """Any world, resumed anywhere, from disks and stores: the batches of one process that reads local folders."""
    parts = [withdraw(make_dataset(shards), drawn["share"]) for shards in drawn["sizes"]]
    weights = tuple(drawn["weights"][: len(parts)])
    batch, plan = drawn["world"] * drawn["per_rank"], Plan(lanes=drawn["lanes"], weights=weights)
    whole = rows(parts, 1, 6, batch=batch, plan=plan)
    placed = [
        withdraw(upload(replace_folder(part)), drawn["share"]) if drawn["stored"] >> number & 1 else part
        for number, part in enumerate(parts)
    ]
    stream = Stream([Part(part, "train") for part in parts], VIEW, batch_size=batch, seed=3, plan=plan)
    list(itertools.islice(stream, drawn["resume"]))
    rest = rows(placed, drawn["world"], 2, batch=batch, plan=plan, state=stream.state())
    assert rest == whole[drawn["resume"] : drawn["resume"] + 2]
    stream.close()


def replace_folder(manifest: Manifest) -> Manifest:
    """As it is on the disk: without what this test has withdrawn."""
    return replace(manifest, splits={"train": replace(manifest.split("train"), withdrawn=())})


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    sizes=st.lists(st.lists(st.integers(2, 20), min_size=1, max_size=3), min_size=2, max_size=3),
    weights=st.lists(st.integers(1, 3), min_size=3, max_size=3),
    share=st.sampled_from([2, 3, 1000]),
)
def test_each_dataset_of_a_mixture_goes_through_its_own_epochs(make_dataset: MakeDataset, sizes, weights, share):
    parts = [withdraw(make_dataset(shards), share) for shards in sizes]
    plan = Plan(lanes=6, weights=tuple(weights[: len(parts)]))
    seen = [row for batch in rows(parts, 1, 30, batch=12, plan=plan) for _, row in batch]
    for number, part in enumerate(parts):
        split = part.split("train")
        times = Counter((epoch, sample) for dataset, sample, epoch, _ in seen if dataset == number)
        last = max((epoch for epoch, _ in times), default=0)
        for epoch in range(last):
            assert sorted(sample for each, sample in times if each == epoch) == split.members().tolist()
        assert set(times.values()) <= {1}
        assert not {sample for _, sample in times} & set(split.withdrawn)


@settings(max_examples=50, deadline=None)
@given(
    shards=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    lanes=st.sampled_from([1, 6, 240]),
    picks=st.sets(st.integers(0, 199)),
    epoch=st.integers(0, 3),
)
def test_withdrawing_equals_a_subset_without_the_withdrawn(shards, lanes, picks, epoch):
    """Which takes memory for those that stay, where withdrawing takes memory for those that go."""
    total = sum(shards)
    withdrawn = sorted(pick for pick in picks if pick < total)
    if len(withdrawn) == total:
        return
    members = np.setdiff1d(np.arange(total), withdrawn)
    sizes = [count * 1000 for count in shards]
    plan = Plan(lanes=lanes)
    orders = [
        Order(shards, sizes, fingerprint="ab" * 32, plan=plan, seed=1, **chosen)
        for chosen in ({"members": members}, {"withdrawn": withdrawn})
    ]
    positions = np.arange(epoch * len(members), (epoch + 1) * len(members))
    one, other = (order.locate(positions).sample for order in orders)
    assert np.array_equal(one, other)
    assert sorted(other) == members.tolist()


def test_the_fingerprint_tells_of_what_is_withdrawn(make_dataset: MakeDataset):
    split: Split = make_dataset([5]).split("train")
    fingerprints = {replace(split, withdrawn=numbers).fingerprint for numbers in ((), (1,), (2,), (1, 2))}
    assert len(fingerprints) == 4
    assert replace(split, withdrawn=(1,)).present == 4
    assert replace(split, withdrawn=(1,)).members(2).tolist() == [0, 2]
