"""The audit proves what is so, and finds what is not: other data, wrong counts, a place that does not fit."""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.audit import Audit, audit_run
from data_pipeline.augment import CenterCrop
from data_pipeline.balance import balanced_samples
from data_pipeline.ledger import Ledger, count_positions
from data_pipeline.manifest import Manifest, write_manifest
from data_pipeline.order import Located, Mixture, Plan
from data_pipeline.recorded_run import Ingredient, make_mixture
from data_pipeline.rows import Part
from data_pipeline.sample_rules import choose_samples
from data_pipeline.stream import Stream
from data_pipeline.subset import labelled_samples
from data_pipeline.survey_config import AuditConfig
from launch.console import Console

MakeDataset = Callable[..., Manifest]
BATCH = 8


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


def write_run(
    folder: Path, data: list[Manifest], position: int, plan: Plan | dict[str, Any] | None = None, **changes: Any
) -> Path:
    """A run folder with a checkpoint at this position of the stream."""
    plan = plan or Plan(lanes=12)
    recorded = plan if isinstance(plan, dict) else asdict(plan) | {"weights": list(plan.weights)}
    stream: dict[str, Any] = {
        "fingerprints": [each.split("train").fingerprint for each in data],
        "plan": recorded,
        "seed": 3,
        "position": position,
        "substitutions": [],
        "skipped": [],
    }
    stream |= changes
    skipped = sum(stop - start for start, stop in stream["skipped"] if start < position)
    step = (position - skipped) // BATCH
    path = folder / "checkpoints" / f"step-{step:08d}"
    path.mkdir(parents=True, exist_ok=True)
    places = [str(each.folder) for each in data]
    config = {"recipe": "x", "data": places[0], "also": places[1:], "out": str(folder), "split": "train"}
    (folder / "config.json").write_text(json.dumps(config | {"batch_size": BATCH, "seed": 3}))
    state = json.dumps({"step": step, "stream": stream})
    (path / "state.json").write_text(state)
    sums = {"state.json": hashlib.sha256(state.encode()).hexdigest()}
    (path / "checksums.json").write_text(json.dumps(sums))
    (folder / "checkpoints/latest").write_text(path.name)
    return folder


def audited(run: Path, **options: Any) -> Audit:
    return audit_run(AuditConfig(str(run), **options), Console(stream=io.StringIO()))


def brute_force(data: list[Manifest], plan: Plan, position: int, members: Any = None) -> list[Counter[int]]:
    located = make_mixture([Ingredient(each, "train", members) for each in data], plan, 3).locate(np.arange(position))
    return [Counter(located.sample[located.dataset == number].tolist()) for number in range(len(data))]


@pytest.mark.parametrize("position", [8, 40, 48, 136, 240])
@pytest.mark.parametrize("views", [1, 3])
def test_counts_are_those_of_every_position(
    make_dataset: MakeDataset, tmp_path: Path, position: int, views: int
) -> None:
    data, plan = on_disk(make_dataset([13, 15, 12])), Plan(lanes=12, views=views)
    found = audited(write_run(tmp_path / "run", [data], position, plan))
    assert found.faults == ()
    (part,) = found.parts
    counts = brute_force([data], plan, position)[0]
    assert part.seen == dict(sorted(Counter(counts[sample] for sample in range(40)).items()))
    assert (part.whole_epochs, part.partial) == divmod(position, 40 * views)
    assert (found.step, found.position) == (position // BATCH, position)


def test_the_statement_reads_as_one(make_dataset: MakeDataset, tmp_path: Path) -> None:
    data = on_disk(make_dataset([13, 15, 12]))
    whole = audited(write_run(tmp_path / "whole", [data], 80)).parts[0].statement
    assert whole == "40 samples, 2 whole epochs: every sample was due 2 times; seen: 40 samples 2 times"
    partial = audited(write_run(tmp_path / "partial", [data], 56)).parts[0].statement
    assert partial == (
        "40 samples, 1 whole epoch + 16/40 of one: every sample was due 1 or 2 times; "
        "seen: 24 samples 1 times, 16 samples 2 times"
    )


def test_skipped_positions_are_subtracted(make_dataset: MakeDataset, tmp_path: Path) -> None:
    data = on_disk(make_dataset([13, 15, 12]))
    found = audited(write_run(tmp_path / "run", [data], 80, skipped=[[40, 56], [8, 16]]))
    assert found.faults == ()
    assert found.parts[0].skipped == 24
    assert sum(seen * samples for seen, samples in found.parts[0].seen.items()) == 56
    assert "(before skipped positions and substitutions)" in found.parts[0].statement


def test_substituted_samples_are_named_and_moved(make_dataset: MakeDataset, tmp_path: Path) -> None:
    data = on_disk(make_dataset([13, 15, 12]))
    found = audited(write_run(tmp_path / "run", [data], 80, substitutions=[[0, 5, 6, "no image"]]))
    assert found.faults == ()
    assert found.parts[0].seen == {0: 1, 2: 38, 4: 1}
    line = "  train-000000005 does not decode (no image): train-000000006 was shown instead, 2 times"
    assert line in found.lines()


def test_withdrawn_samples_are_never_due(make_dataset: MakeDataset, tmp_path: Path) -> None:
    data = on_disk(make_dataset([13, 15, 12]))
    assert isinstance(data.folder, Path)
    (data.folder / "withdrawn.txt").write_text("train-000000002\ntrain-000000030  # asked for\n")
    split = replace(data.split("train"), withdrawn=(2, 30))
    withdrawn = replace(data, splits={"train": split})
    found = audited(write_run(tmp_path / "run", [withdrawn], 80))
    assert found.faults == ()
    assert found.parts[0].samples == 38
    assert found.parts[0].withdrawn_keys == ("train-000000002", "train-000000030")
    assert sum(found.parts[0].seen.values()) == 38
    shown = audited(write_run(tmp_path / "shown", [withdrawn], 80, substitutions=[[0, 1, 2, "no image"]]))
    assert "train-000000002 is withdrawn, but was shown instead of train-000000001" in shown.faults[0]


def test_the_state_of_a_stream_is_proven_by_what_it_handed_out(make_dataset: MakeDataset, tmp_path: Path) -> None:
    data, plan = on_disk(make_dataset([13, 15, 12])), Plan(lanes=12)
    stream = Stream([Part(data, "train")], CenterCrop((8, 8)), batch_size=BATCH, seed=3, plan=plan, epochs=3)
    stream.skip(16, 32)
    shown: Counter[int] = Counter()
    for batch in stream:
        shown.update(batch.samples.tolist())
        found = audited(write_run(tmp_path / "run", [data], **stream.state()))
        assert found.faults == ()
        assert found.parts[0].seen == dict(sorted(Counter(shown[sample] for sample in range(40)).items()))
    assert stream.position == 120


def test_a_run_from_before_a_withdrawal_is_not_proven(make_dataset: MakeDataset, tmp_path: Path) -> None:
    data = on_disk(make_dataset([13, 15, 12]))
    run = write_run(tmp_path / "run", [data], 80)
    assert isinstance(data.folder, Path)
    (data.folder / "withdrawn.txt").write_text("train-000000002\n")
    found = audited(run)
    assert found.parts == ()
    expected = data.split("train").fingerprint[:16]
    assert f"the run's is {expected}: other data, or samples were withdrawn since" in found.faults[0]


def test_a_place_that_does_not_fit_the_steps_is_a_fault(make_dataset: MakeDataset, tmp_path: Path) -> None:
    data = on_disk(make_dataset([13, 15, 12]))
    run = write_run(tmp_path / "run", [data], 83)
    assert "step-00000010: 10 steps of 8 are 80 positions, but the stream stands at 83" in audited(run).faults[0]
    assert audited(run).to_json()["proven"] is False


@pytest.mark.parametrize("per_class", [None, 2])
def test_subsets_are_chosen_anew(make_dataset: MakeDataset, tmp_path: Path, per_class: int | None) -> None:
    data = on_disk(make_dataset([13, 15, 12]))
    if per_class is None:  # a sample without a label
        path = data.folder / data.split("train").shards[0].index
        assert isinstance(path, Path)
        index = np.load(path)
        index["label"][4] = -1
        np.save(path, index)
        shards = list(data.split("train").shards)
        shards[0] = replace(shards[0], index_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        data = on_disk(replace(data, splits={"train": replace(data.split("train"), shards=tuple(shards))}))
    members, name = labelled_samples(data, "train", per_class, 3)
    assert members is not None
    plan = Plan(lanes=12, subset=name)
    run = write_run(tmp_path / "run", [data], 80, plan)
    found = audited(run)
    assert found.faults == ()
    assert found.parts[0].samples == len(members) == (39 if per_class is None else 20)
    np.save(tmp_path / "members.npy", members)
    assert audited(run, members=str(tmp_path / "members.npy")) == found
    np.save(tmp_path / "members.npy", members[1:])
    assert "not the samples of the plan's subset" in audited(run, members=str(tmp_path / "members.npy")).faults[0]
    other = write_run(tmp_path / "other", [data], 80, replace(plan, subset=name[:-1] + "x"))
    assert "subset" in audited(other).faults[0]


@pytest.mark.parametrize("views", [1, 2])
def test_places_of_balanced_classes_are_no_repeats(make_dataset: MakeDataset, tmp_path: Path, views: int) -> None:
    data = on_disk(make_dataset([13, 15, 12]))
    chosen = choose_samples(data, "train", seed=3, per_class=4, hold_out_share=0.25, balance=1)
    few, name = balanced_samples(data, "train", np.asarray([0, 1, 11, 21, 31]), 1, 3)
    assert few.tolist() == [0] * 4 + [1, 11, 21, 31]
    plan = Plan(lanes=12, views=views, subset=chosen.subset)
    assert audited(write_run(tmp_path / "even", [data], 80, plan)).faults == ()
    run = write_run(tmp_path / "run", [data], 16 * views, Plan(lanes=12, views=views, subset=name))
    np.save(tmp_path / "members.npy", few)
    found = audited(run, members=str(tmp_path / "members.npy"))
    assert found.faults == ()
    times = "2 times" if views == 1 else "4 times"
    assert found.parts[0].statement == (
        f"5 samples in 8 places, 2 whole epochs: every sample was due {times} for each of its places; "
        f"seen: 4 samples {2 * views} times, 1 samples {8 * views} times"
    )
    assert (found.parts[0].samples, found.parts[0].places) == (5, 8)


@pytest.mark.parametrize("share", [None, 0.25])
def test_everyone_takes_part_but_those_held_out(make_dataset: MakeDataset, tmp_path: Path, share: float | None) -> None:
    data = on_disk(make_dataset([13, 15, 12], unlabelled=[4, 17]))
    chosen = choose_samples(data, "train", seed=3, per_class=2, hold_out_share=share, everyone=True)
    count = 40 if share is None else 30
    run = write_run(tmp_path / "run", [data], 2 * 40, Plan(lanes=12, subset=chosen.subset))
    found = audited(run)
    assert found.faults == ()
    assert (found.parts[0].samples, found.parts[0].places) == (count, count)
    assert sum(seen * samples for seen, samples in found.parts[0].seen.items()) == 80
    np.save(tmp_path / "members.npy", chosen.training)
    assert audited(run, members=str(tmp_path / "members.npy")) == found
    other = write_run(tmp_path / "other", [data], 80, Plan(lanes=12, subset=chosen.subset), seed=4)
    assert "chosen anew it is '2-a-class-" in audited(other).faults[0]


def test_fixed_views_are_told_of_and_counted_as_any_others(make_dataset: MakeDataset, tmp_path: Path) -> None:
    data, plan = on_disk(make_dataset([13, 15, 12])), Plan(lanes=12, views=3)
    part = Part(data, "train")
    stream = Stream([part], CenterCrop((8, 8)), batch_size=BATCH, seed=3, plan=plan, epochs=1, fixed_views=4)
    shown = Counter(sample for batch in stream for sample in batch.samples.tolist())
    found = audited(write_run(tmp_path / "run", [data], **stream.state()))
    assert found.faults == ()
    assert found.parts[0].seen == {3: 40} == Counter(shown.values())
    assert found.lines()[0].endswith("15 steps of 8, position 120, seed 3, 4 fixed views of each sample, in turn")
    assert found.to_json()["fixed_views"] == 4
    new = audited(write_run(tmp_path / "new", [data], 120, plan))
    assert new.lines()[0].endswith("position 120, seed 3")
    assert new.to_json()["fixed_views"] is None


def test_an_unknown_rule_asks_for_its_members(make_dataset: MakeDataset, tmp_path: Path) -> None:
    data = on_disk(make_dataset([13, 15, 12]))
    found = audited(write_run(tmp_path / "run", [data], 80, Plan(lanes=12, subset="prettiest-0123")))
    assert "'prettiest-0123' is of no rule known here: give its sample numbers: --members FILE.npy" in found.faults[0]


@pytest.mark.parametrize("position", [96, 400])
def test_mixtures_are_counted_part_by_part(make_dataset: MakeDataset, tmp_path: Path, position: int) -> None:
    data = [on_disk(make_dataset([13, 15, 12])), on_disk(make_dataset([7, 10], size=9))]
    plan = Plan(lanes=12, weights=(2, 1))
    found = audited(write_run(tmp_path / "run", data, position, plan))
    assert found.faults == ()
    for part, counts, samples in zip(found.parts, brute_force(data, plan, position), (40, 17), strict=True):
        assert part.seen == dict(sorted(Counter(counts[sample] for sample in range(samples)).items()))
    with pytest.raises(ValueError, match="--data: 1 given, the run has 2 datasets"):
        audited(tmp_path / "run", data=(str(data[0].folder),))


class _Repeats(Mixture):
    """An order that shows sample 7 in the place of sample 9."""

    def locate(self, positions: np.ndarray) -> Located:
        located = super().locate(positions)
        return located._replace(sample=np.where(located.sample == 9, 7, located.sample))


@pytest.mark.parametrize("at_once", [1, 7, 40, 1000])
@pytest.mark.parametrize("position", [80, 95])
def test_an_order_that_repeats_is_found_out(make_dataset: MakeDataset, at_once: int, position: int) -> None:
    part = Ingredient(make_dataset([13, 15, 12]), "train", None)
    mixture = make_mixture([part], Plan(lanes=12), 3)
    honest, ledger = Ledger(part, 1), Ledger(part, 1)
    count_positions(mixture, [honest], position, [], lambda _: None, at_once=at_once)
    mixture.__class__ = _Repeats
    count_positions(mixture, [ledger], position, [], lambda _: None, at_once=at_once)
    for each in (honest, ledger):
        while each.epoch < position // 40:
            each.end_epoch()
        each.end(position % 40)
    assert honest.faults == []
    expected = "2 samples were not due as often as they should be; the first, sample 7, 2 times, expected 1"
    assert ledger.faults[:2] == [f"epoch {epoch}: {expected}" for epoch in range(2)]


def test_a_damaged_checkpoint_is_passed_over(make_dataset: MakeDataset, tmp_path: Path) -> None:
    data = on_disk(make_dataset([13, 15, 12]))
    run = write_run(tmp_path / "run", [data], 40)
    write_run(run, [data], 80)
    assert audited(run).step == 10
    path = run / "checkpoints/step-00000010/state.json"
    path.write_text(path.read_text().replace("80", "81"))
    assert audited(run).step == 5
    for state in run.rglob("state.json"):
        state.unlink()
    with pytest.raises(ValueError, match=r"none of its checkpoints up to step-00000010 has a whole state\.json"):
        audited(run)


def test_what_is_no_run_is_refused(make_dataset: MakeDataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--run .*: no config.json there; expected a run folder"):
        audited(tmp_path)
    run = write_run(tmp_path / "run", [on_disk(make_dataset([13, 15, 12]))], 40)
    (run / "checkpoints/latest").unlink()
    with pytest.raises(ValueError, match="no checkpoint yet"):
        audited(run)


def test_data_that_have_moved_are_found_where_told(make_dataset: MakeDataset, tmp_path: Path) -> None:
    data = on_disk(make_dataset([13, 15, 12]))
    run = write_run(tmp_path / "run", [data], 40)
    assert isinstance(data.folder, Path)
    data.folder.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=r"no manifest.json"):
        audited(run)
    assert audited(run, data=(str(tmp_path / "moved"),)).faults == ()
