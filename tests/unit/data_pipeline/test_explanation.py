"""What a step shows, told without training: the samples that the order gives, on every rank, around skipped spans."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.augment import CenterCrop
from data_pipeline.explanation import Explanation, batch_start, explain
from data_pipeline.manifest import Manifest, write_manifest
from data_pipeline.order import Order, Plan
from data_pipeline.rows import Part
from data_pipeline.stream import Stream
from data_pipeline.survey_config import ExplainConfig

MakeDataset = Callable[..., Manifest]


def on_disk(manifest: Manifest) -> Manifest:
    """With its manifest.json, and the keys that tars of others have listed beside their indexes."""
    sample = 0
    for shard in manifest.split("train").shards:
        lines = [f"train-{number:09d}\n" for number in range(sample, sample + shard.samples)]
        assert isinstance(manifest.folder, Path)
        (manifest.folder / shard.names).write_text("".join(lines))
        sample += shard.samples
    write_manifest(manifest)
    return manifest


def order_of(manifest: Manifest, plan: Plan, seed: int) -> Order:
    split = manifest.split("train")
    sizes = [shard.samples for shard in split.shards], [shard.bytes for shard in split.shards]
    return Order(*sizes, fingerprint=split.fingerprint, plan=plan, seed=seed)


def samples(explanation: Explanation) -> list[int]:
    return [row.facts.sample for row in explanation.rows]


@pytest.mark.parametrize("world", [1, 3])
def test_ranks_together_have_the_batch(make_dataset: MakeDataset, world: int) -> None:
    data = on_disk(make_dataset([20, 33, 17]))
    order = order_of(data, Plan(views=2), seed=4)
    found: dict[int, int] = {}
    for rank in range(world):
        config = ExplainConfig(6, data=(str(data.folder),), batch_size=24, rank=rank, world=world, seed=4, views=2)
        explanation = explain(config)
        assert (explanation.start, explanation.stop) == (120, 144)
        assert len(explanation.rows) == 24 // world
        for row in explanation.rows:
            assert row.position % world == rank
            assert (row.epoch, row.dataset) == (row.position // 140, 0)
            found[row.position] = row.facts.sample
    assert [found[position] for position in range(120, 144)] == order.locate(np.arange(120, 144)).sample.tolist()


def test_a_row_says_where_its_sample_lies(make_dataset: MakeDataset) -> None:
    data = on_disk(make_dataset([20, 33, 17]))
    explanation = explain(ExplainConfig(1, data=(str(data.folder),), batch_size=70))
    assert sorted(samples(explanation)) == list(range(70))
    for row in explanation.rows:
        facts = row.facts
        shard = int(facts.sample >= 20) + int(facts.sample >= 53)
        assert facts.shard == f"train-{shard:06d}.tar"
        assert facts.row == facts.sample - (0, 20, 53)[shard]
        assert facts.key == f"train-{facts.sample:09d}"
        assert (facts.label, facts.class_name) == (facts.sample % 10, str(facts.sample % 10))
    lines = explanation.table().splitlines()
    assert lines[0].startswith(f"step 1: positions 0 to 70 of {data.folder} [train], seed 0, 240 lanes; 70 of them on")
    assert lines[2].split() == ["position", "epoch", "shard", "row", "key", "class"]
    assert len(lines) == 3 + 70
    first = explanation.rows[0].facts
    assert lines[3].split() == ["0", "0", first.shard, str(first.row), first.key, *[str(first.label)] * 2]
    told = json.loads(json.dumps(explanation.to_json()))
    assert told["rows"][0] == {
        **{"position": 0, "dataset": 0, "epoch": 0, "view": 0, "replaced_by": None},
        **first._asdict(),
    }


def test_a_mixture_names_the_dataset_of_each_row(make_dataset: MakeDataset) -> None:
    data = [on_disk(make_dataset([20, 33])), on_disk(make_dataset([15], size=9))]
    config = ExplainConfig(1, data=tuple(str(each.folder) for each in data), batch_size=960, weights=(3, 1))
    explanation = explain(config)
    assert np.bincount([row.dataset for row in explanation.rows]).tolist() == [720, 240]
    assert all(row.facts.sample < 15 for row in explanation.rows if row.dataset == 1)
    assert str(data[1].folder) in explanation.table()


def spans_of_a_stream(batch_size: int, skipped: list[tuple[int, int]], count: int) -> list[int]:
    """Where the first batches begin by the rule of the stream: one that would touch a span is not taken."""
    starts, start = [], 0
    while len(starts) < count:
        over = [last for first, last in skipped if first < start + batch_size and start < last]
        if over:
            start = max(over)
        else:
            starts.append(start)
            start += batch_size
    return starts


@given(st.integers(1, 5), st.lists(st.tuples(st.integers(0, 60), st.integers(1, 4)), max_size=4))
def test_skipped_spans_are_stepped_over(batch_size: int, spans: list[tuple[int, int]]) -> None:
    skipped, end = [], 0
    for start, batches in sorted(spans):  # as `Stream.skip` takes them: whole batches, one behind the other
        first = max(start, end)
        end = first + batches * batch_size
        skipped.append((first, end))
    expected = spans_of_a_stream(batch_size, skipped, 40)
    assert [batch_start(step, batch_size, skipped[::-1]) for step in range(1, 41)] == expected


def write_run(folder: Path, data: Manifest, plan: Plan, **changes: Any) -> Path:
    stream = {
        "fingerprints": [data.split("train").fingerprint],
        "plan": asdict(plan) | {"weights": list(plan.weights)},
        "seed": 9,
        "position": 64,
        "substitutions": [],
        "skipped": [],
    }
    path = folder / "checkpoints/step-00000008"
    path.mkdir(parents=True)
    config = {"data": str(data.folder), "split": "train", "batch_size": 8, "out": str(folder)}
    (folder / "config.json").write_text(json.dumps(config))
    state = json.dumps({"step": 8, "stream": stream | changes})
    (path / "state.json").write_text(state)
    sums = {"state.json": hashlib.sha256(state.encode()).hexdigest()}
    (path / "checksums.json").write_text(json.dumps(sums))
    (folder / "checkpoints/latest").write_text(path.name + "\n")
    return folder


def test_a_run_says_its_own_plan(make_dataset: MakeDataset, tmp_path: Path) -> None:
    data, plan = on_disk(make_dataset([20, 33, 17])), Plan(lanes=12)
    order = order_of(data, plan, seed=9)
    plain = explain(ExplainConfig(5, run=str(write_run(tmp_path / "plain", data, plan))))
    assert samples(plain) == order.locate(np.arange(32, 40)).sample.tolist()
    assert plain.plan == plan
    skipping = explain(ExplainConfig(5, run=str(write_run(tmp_path / "skipping", data, plan, skipped=[[8, 24]]))))
    assert samples(skipping) == order.locate(np.arange(48, 56)).sample.tolist()
    first = samples(plain)[0]
    other = (first + 1) % 70
    changes = {"substitutions": [[0, first, other, "no image"]]}
    replaced = explain(ExplainConfig(5, run=str(write_run(tmp_path / "replaced", data, plan, **changes))))
    assert [row.replaced_by for row in replaced.rows] == [f"train-{other:09d}", *[None] * 7]
    assert f"(does not decode: train-{other:09d} is shown)" in replaced.table()


@pytest.mark.parametrize("world", [1, 2])
def test_it_is_what_the_stream_hands_out(make_dataset: MakeDataset, tmp_path: Path, world: int) -> None:
    data, plan = on_disk(make_dataset([20, 33, 17])), Plan(lanes=12)
    streams = [
        Stream(
            [Part(data, "train")], CenterCrop((8, 8)), batch_size=8, seed=9, plan=plan, rank=rank, world=world, epochs=2
        )
        for rank in range(world)
    ]
    for rank, stream in enumerate(streams):
        stream.skip(24, 40)
        shown = [batch.samples.tolist() for batch in stream]
        state = stream.state()
        run = write_run(tmp_path / f"run-{rank}", data, Plan(**state.pop("plan")), **state)
        for step, expected in enumerate(shown, 1):
            found = explain(ExplainConfig(step, run=str(run), rank=rank, world=world))
            assert samples(found) == expected


@pytest.mark.parametrize("views", [1, 3])
def test_a_row_says_which_of_the_fixed_views_it_shows(make_dataset: MakeDataset, tmp_path: Path, views: int) -> None:
    data, plan = on_disk(make_dataset([20, 33, 17])), Plan(lanes=12, views=views)
    part = Part(data, "train")
    stream = Stream([part], CenterCrop((8, 8)), batch_size=8, seed=9, plan=plan, epochs=3, fixed_views=4)
    batches = list(stream)
    run = write_run(tmp_path / "run", data, plan, fixed_views=stream.state()["fixed_views"])
    for step in (1, 3 * views, len(batches)):
        found, batch = explain(ExplainConfig(step, run=str(run))), batches[step - 1]
        assert samples(found) == batch.samples.tolist()
        assert [row.view for row in found.rows] == batch.epochs.tolist()
        assert [row.epoch for row in found.rows] == [row.position // (70 * views) for row in found.rows]
    table = found.table().splitlines()
    assert table[0].endswith("; 8 of them on rank 0 of 1; 4 fixed views of each sample, in turn")
    assert table[2].split() == ["position", "epoch", "shard", "row", "key", "view", "class"]
    assert found.to_json()["fixed_views"] == 4


def test_a_run_of_other_data_is_refused(make_dataset: MakeDataset, tmp_path: Path) -> None:
    data, other = on_disk(make_dataset([20, 33, 17])), on_disk(make_dataset([20, 33, 18]))
    run = write_run(tmp_path / "run", data, Plan())
    with pytest.raises(ValueError, match=r"has the fingerprint \w{16}, .*run was trained on \w{16}: other data"):
        explain(ExplainConfig(1, run=str(run), data=(str(other.folder),)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 0, "run": "r"}, "--step is 0, expected at least 1: the first step of a run is 1"),
        ({"step": 1}, "expected --run RUN, or --data DATASET and --batch-size N"),
        ({"step": 1, "data": ("d",)}, "expected --run RUN, or --data DATASET and --batch-size N"),
        ({"step": 1, "run": "r", "batch_size": 3}, "--run r tells what --batch-size would: drop one of them"),
        ({"step": 1, "run": "r", "rank": 2, "world": 2}, "--rank 2 --world 2: expected a rank from 0 to world - 1"),
        ({"step": 1, "data": ("d",), "batch_size": 3, "weights": (1, 2)}, "--weights: 2 given for 1 of --data"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExplainConfig(**options)


def test_a_batch_that_ranks_cannot_share_is_refused(make_dataset: MakeDataset, tmp_path: Path) -> None:
    data = on_disk(make_dataset([20]))
    with pytest.raises(ValueError, match="--world 3: so many processes cannot share a batch of 8 equally"):
        explain(ExplainConfig(1, data=(str(data.folder),), batch_size=8, world=3))
    np.save(tmp_path / "floats.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"float64 of shape \(3,\), expected a list of integers"):
        explain(ExplainConfig(1, data=(str(data.folder),), batch_size=8, members=str(tmp_path / "floats.npy")))
