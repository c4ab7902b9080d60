"""The stream on real files: order, elasticity, resuming, faults."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from data_pipeline.augment import CenterCrop, MultiView, RandomResizedCrop, Views
from data_pipeline.chunks import chunks
from data_pipeline.manifest import DatasetError, Manifest
from data_pipeline.order import Plan
from data_pipeline.rows import Part
from data_pipeline.stream import Batch, Stream

VIEW = RandomResizedCrop((8, 8))
SEVERAL = MultiView(((RandomResizedCrop((8, 8)), 2), (RandomResizedCrop((4, 6), scale=(0.05, 0.4)), 3)))
PLAN = Plan(lanes=12)
MakeDataset = Callable[..., Manifest]


def part(manifest: Manifest) -> Part:
    return Part(manifest, next(iter(manifest.splits)))


def global_batches(manifest: Manifest, world: int, steps: int, start: dict | None = None, **options) -> list[tuple]:
    """The global batches put together from all ranks: (position, sample, label, *pixels) in order of position."""
    ranks: list[list[Batch]] = []
    for rank in range(world):
        stream = Stream([part(manifest)], **{"view": VIEW, "plan": PLAN, **options}, rank=rank, world=world, seed=3)
        if start is not None:
            stream.load_state(start)
        ranks.append(list(itertools.islice(stream, steps)))
        stream.close()
    result = []
    for batches in zip(*ranks, strict=True):
        rows = [
            (int(position), int(sample), int(label), *(pixels.numpy().tobytes() for pixels in shown))
            for batch in batches
            for position, sample, label, *shown in zip(
                batch.positions, batch.samples, batch.labels, *batch.views, strict=True
            )
        ]
        result.append(tuple(sorted(rows)))
    return result


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (2, 0), (3, 1), (4, 2), (1, 3), (6, 0), (1, 4)])
def test_any_world_and_workers_give_the_same_global_batches(make_dataset: MakeDataset, world: int, workers: int):
    manifest = make_dataset([7, 13, 5, 1])
    expected = global_batches(manifest, 1, 9, batch_size=12)
    assert global_batches(manifest, world, 9, batch_size=12, workers=workers) == expected


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shards=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    lanes=st.sampled_from([1, 6, 12, 240]),
    world=st.integers(1, 8),
    workers=st.integers(0, 4),
    rows=st.integers(1, 7),
    resume=st.integers(0, 4),
)
def test_any_sizes_any_world_any_workers_any_resume_point(make_dataset: MakeDataset, **drawn):
    check_elasticity(make_dataset(drawn["shards"]), VIEW, **drawn)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    array=st.sampled_from([None, (1, "uint8"), (4, "uint16"), (13, "uint16"), (13, "float32")]),
    view=st.sampled_from([VIEW, SEVERAL, MultiView(((CenterCrop((5, 3)), 1),))]),
    shards=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    lanes=st.sampled_from([1, 12]),
    world=st.integers(1, 4),
    workers=st.integers(0, 2),
    rows=st.integers(1, 5),
    resume=st.integers(0, 4),
)
def test_any_pixels_and_views_any_world_any_workers_any_resume_point(make_dataset: MakeDataset, array, view, **drawn):
    check_elasticity(make_dataset(drawn["shards"], array=array), view, **drawn)


def check_elasticity(manifest: Manifest, view: Views, *, shards, lanes, world, workers, rows, resume):
    """An epoch shows every sample once, and goes on from `resume` in this world as it does on one rank."""
    batch = world * rows
    options = {"batch_size": batch, "plan": Plan(lanes=lanes), "view": view}
    steps = max(6, -(-sum(shards) // batch))
    whole = global_batches(manifest, 1, steps, **options)
    epoch = [row[1] for rows in whole for row in rows][: sum(shards)]
    assert sorted(epoch) == list(range(sum(shards)))
    stream = Stream([part(manifest)], seed=3, **options)
    list(itertools.islice(stream, resume))
    rest = global_batches(manifest, world, 2, start=stream.state(), workers=workers, **options)
    assert rest == whole[resume : resume + 2]


def test_pixels_and_labels_belong_to_the_sample(make_dataset: MakeDataset):
    manifest = make_dataset([300, 45])
    stream = Stream([part(manifest)], CenterCrop((8, 8)), batch_size=15, seed=0, epochs=1)
    seen = [row for batch in stream for row in zip(batch.samples, batch.labels, batch.images, strict=True)]
    assert len(seen) == 345
    for sample, label, image in seen:
        assert label == sample % 10
        assert image[0, 0].tolist() == [sample % 256, sample // 256, 0]


@pytest.mark.parametrize("workers", [0, 2])
def test_withdrawn_samples_are_neither_shown_nor_stand_in_for_others(make_dataset: MakeDataset, workers: int):
    manifest = make_dataset([1000, 1000], broken=[1017], withdrawn=[5, 1018, 1999])
    stream = Stream([part(manifest)], VIEW, batch_size=1997, seed=3, plan=PLAN, epochs=1, workers=workers)
    (batch,) = stream
    assert sorted(batch.samples) == [number for number in range(2000) if number not in (5, 1018, 1999)]
    assert [row[:3] for row in stream.state()["substitutions"]] == [[0, 1017, 1019]]
    stream.close()
    shown = np.concatenate([chunk.samples for chunk in chunks(part(manifest), VIEW, 1000)])
    assert not {5, 1018, 1999} & set(shown.tolist())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_stream_goes_on_as_the_uninterrupted_one(make_dataset: MakeDataset, workers: int):
    manifest = make_dataset([11, 8])
    whole = global_batches(manifest, 1, 8, batch_size=6)
    stream = Stream([part(manifest)], VIEW, batch_size=6, seed=3, plan=PLAN, workers=workers)
    iterator = iter(stream)
    for _ in range(3):
        next(iterator)
    state = stream.state()
    assert state["position"] == 18  # what was filled ahead is not counted as consumed
    stream.close()
    for world in (1, 2, 3):
        assert global_batches(manifest, world, 5, start=state, batch_size=6, workers=workers) == whole[3:]


def test_iterating_again_after_a_break_goes_on(make_dataset: MakeDataset):
    manifest = make_dataset([30])
    stream = Stream([part(manifest)], VIEW, batch_size=5, seed=0, workers=2, epochs=1)
    first = [batch.samples for batch in itertools.islice(stream, 2)]
    rest = [batch.samples for batch in stream]
    assert sorted(np.concatenate(first + rest)) == list(range(30))
    stream.close()


def test_a_torch_dataloader_takes_it_whole(make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch):
    stream = Stream([part(make_dataset([23]))], VIEW, batch_size=5, seed=0, epochs=1)
    samples = np.concatenate([batch.samples for batch in DataLoader(stream, batch_size=None)])
    assert set(samples) == set(range(23))
    monkeypatch.setattr("data_pipeline.stream.get_worker_info", lambda: "a worker of the loader's")
    with pytest.raises(ValueError, match="num_workers=0"):
        next(iter(stream))


def test_skipped_batches_are_left_out_on_every_rank_and_recorded(make_dataset: MakeDataset):
    manifest = make_dataset([30])
    whole = global_batches(manifest, 1, 6, batch_size=6)
    stream = Stream([part(manifest)], VIEW, batch_size=6, seed=3, plan=PLAN)
    stream.skip(6, 18)
    state = stream.state()
    assert global_batches(manifest, 2, 4, start=state, batch_size=6) == [whole[0], *whole[3:]]
    with pytest.raises(ValueError, match="whole batches of 6"):
        stream.skip(0, 5)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_does_not_decode_is_substituted_by_the_next_and_recorded(make_dataset: MakeDataset, workers: int):
    manifest = make_dataset([1000, 1000], broken=[1017, 1018])
    stream = Stream([part(manifest)], VIEW, batch_size=100, seed=3, plan=PLAN, epochs=1, workers=workers)
    batches = list(stream)
    marked = [int(sample) for batch in batches for sample in batch.samples[batch.substituted.numpy()]]
    assert sorted(marked) == [1017, 1018]
    rows = {
        int(sample): (int(label), image)
        for batch in batches
        for sample, label, image in zip(batch.samples, batch.labels, batch.images, strict=True)
    }
    assert rows[1017][0] == rows[1018][0] == 9  # both show sample 1019
    assert rows[1017][1][0, 0].tolist() == [1019 % 256, 1019 // 256, 0]
    recorded = sorted(stream.state()["substitutions"])
    assert [row[:3] for row in recorded] == [[0, 1017, 1019], [0, 1018, 1019]]
    assert "not a whole image" in recorded[0][3]
    stream.close()


def test_too_many_that_do_not_decode_stop_the_run(make_dataset: MakeDataset):
    manifest = make_dataset([900], broken=[3])
    with pytest.raises(DatasetError, match=r"1 of 900 samples do not decode, more than 0\.1%.*train-000000\.tar"):
        list(Stream([part(manifest)], VIEW, batch_size=100, seed=0, epochs=1))


@pytest.mark.parametrize("workers", [0, 2])
def test_altered_bytes_stop_the_run_naming_shard_and_repair(make_dataset: MakeDataset, workers: int):
    manifest = make_dataset([20, 20])
    path = manifest.folder / "train-000001.tar"
    content = bytearray(path.read_bytes())
    content[512 + 40] ^= 1  # in the first image of the second shard
    path.write_bytes(content)
    stream = Stream([part(manifest)], VIEW, batch_size=4, seed=0, epochs=1, workers=workers)
    with pytest.raises(DatasetError, match=r"train-000001\.tar: sample 0, bytes 512 to \d+, stage read.*--only"):
        list(stream)


def test_a_cut_shard_is_named(make_dataset: MakeDataset):
    manifest = make_dataset([20])
    path = manifest.folder / "train-000000.tar"
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(DatasetError, match=r"shard train-000000\.tar: manifest lists \d+ bytes, found \d+; rewrite"):
        next(iter(Stream([part(manifest)], VIEW, batch_size=4, seed=0)))


def test_another_dataset_plan_or_seed_refuses_to_resume(make_dataset: MakeDataset):
    manifest = make_dataset([20])
    state = Stream([part(manifest)], VIEW, batch_size=4, seed=0).state()
    with pytest.raises(ValueError, match="cannot resume the stream: fingerprints"):
        Stream([part(make_dataset([21]))], VIEW, batch_size=4, seed=0).load_state(state)
    with pytest.raises(ValueError, match="cannot resume the stream: plan"):
        Stream([part(manifest)], VIEW, batch_size=4, seed=0, plan=PLAN).load_state(state)
    with pytest.raises(ValueError, match="cannot resume the stream: seed"):
        Stream([part(manifest)], VIEW, batch_size=4, seed=1).load_state(state)


def test_a_batch_that_ranks_cannot_share_is_refused(make_dataset: MakeDataset):
    with pytest.raises(ValueError, match=r"--batch-size 10 is not divisible by 4 processes; .*: 8, 12"):
        Stream([part(make_dataset([20]))], VIEW, batch_size=10, seed=0, world=4)


def test_read_factor_counts_how_often_lanes_are_shared(make_dataset: MakeDataset):
    manifest = make_dataset([20])
    assert Stream([part(manifest)], VIEW, batch_size=8, seed=0, world=8).read_factor == 1
    assert Stream([part(manifest)], VIEW, batch_size=14, seed=0, world=7).read_factor == 7


def test_a_mixture_gives_datasets_their_weights_each_exactly_once_an_epoch(make_dataset: MakeDataset):
    one, two = make_dataset([24]), make_dataset([9])
    plan = Plan(lanes=4, weights=(3, 1))
    parts = [part(one), part(two)]
    stream = Stream(parts, VIEW, batch_size=16, seed=0, plan=plan)
    batches = list(itertools.islice(stream, 9))
    datasets, samples = (
        np.concatenate([getattr(batch, name) for batch in batches]) for name in ("datasets", "samples")
    )
    assert np.bincount(datasets).tolist() == [108, 36]
    assert np.bincount(samples[datasets == 1]).tolist() == [4] * 9
    first = samples[datasets == 0]
    assert all(sorted(first[24 * epoch : 24 * epoch + 24]) == list(range(24)) for epoch in range(4))
    halves = [Stream(parts, VIEW, batch_size=16, seed=0, plan=plan, rank=rank, world=2) for rank in (0, 1)]
    shared = [itertools.islice(half, len(batches)) for half in halves]
    for batch, *parts_of_it in zip(batches, *shared, strict=True):
        joined = [row for half in parts_of_it for row in zip(half.positions, half.datasets, half.samples, strict=True)]
        assert sorted(joined) == list(zip(batch.positions, batch.datasets, batch.samples, strict=True))
    with pytest.raises(ValueError, match="2 weights for 1 datasets"):
        Stream(parts[:1], VIEW, batch_size=16, seed=0, plan=plan)


def test_evaluation_chunks_are_the_same_on_any_number_of_processes(make_dataset: MakeDataset):
    manifest = make_dataset([10, 13], broken=[4])
    view = CenterCrop((8, 8))
    alone = list(chunks(part(manifest), view, 5, workers=1))
    shared = sorted(
        (chunk for rank in range(3) for chunk in chunks(part(manifest), view, 5, rank=rank, world=3)),
        key=lambda chunk: chunk.number,
    )
    assert len(alone) == len(shared) == 5
    for one, other in zip(alone, shared, strict=True):
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("images", "labels", "valid"))
    samples, valid, labels = (
        torch.cat([getattr(chunk, name) for chunk in alone]) for name in ("samples", "valid", "labels")
    )
    assert samples.tolist() == [*range(23), -1, -1]
    assert valid.tolist() == [number not in (4, 23, 24) for number in range(25)]
    assert labels.tolist() == [sample % 10 if good else -1 for sample, good in zip(samples, valid, strict=True)]


def test_a_split_that_is_not_there_lists_those_that_are(make_dataset: MakeDataset):
    with pytest.raises(ValueError, match="no split 'validation'; it has: train"):
        Stream([Part(make_dataset([3]), "validation")], VIEW, batch_size=1, seed=0)


def test_a_manifest_survives_writing_and_reading(make_dataset: MakeDataset, tmp_path: Path):
    import json

    from data_pipeline.manifest import read_manifest

    manifest = make_dataset([3, 4])
    path = manifest.folder / "manifest.json"
    path.write_text(json.dumps(manifest.to_json()))
    assert read_manifest(manifest.folder) == replace(manifest)
    content = json.loads(path.read_text())
    content["splits"]["train"]["shards"][0]["samples"] = 5
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="not what its checksum says: copy it again"):
        read_manifest(manifest.folder)
    del content["checksum"]  # as the message says of changes on purpose
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="fingerprint does not match"):
        read_manifest(manifest.folder)
    with pytest.raises(FileNotFoundError, match=r"no manifest\.json.*shard\.py --source"):
        read_manifest(tmp_path / "nowhere")
