"""Percentiles from counts against sorted values, and what is told of a dataset."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.manifest import Manifest
from data_pipeline.statistics_table import dataset_statistics, tables
from data_pipeline.text_table import text_table
from data_pipeline.value_counts import ValueCounts

MakeDataset = Callable[..., Manifest]


@given(
    st.lists(st.one_of(st.integers(0, 5000), st.integers(0, 2**52)), min_size=1, max_size=40),
    st.sampled_from([0, 1, 5, 50, 95, 99, 100]),
)
def test_percentiles_are_those_of_sorted_values(values: list[int], percent: int) -> None:
    counts = ValueCounts()
    for part in np.array_split(np.asarray(values, np.uint64), 3):
        counts.add(part)
    rank = max(1, int(np.ceil(len(values) * percent / 100)))
    exact = sorted(values)[rank - 1]
    assert counts.total == len(values)
    assert exact * (1 - 1 / 2048) <= counts.percentile(percent) <= exact
    if exact < 4096 or percent in (0, 100):
        assert counts.percentile(percent) == exact


def statistics(manifest: Manifest) -> dict:
    done: list[int] = []
    found = dataset_statistics(manifest, done.append)
    assert sum(done) == manifest.split("train").samples
    return json.loads(json.dumps(found, allow_nan=False))


def test_a_dataset_is_told_of(make_dataset: MakeDataset) -> None:
    data = make_dataset([23, 18], withdrawn=[3, 9])
    found = statistics(data)
    train = found["splits"]["train"]
    assert (train["samples"], train["withdrawn"], train["shards"]) == (41, 2, 2)
    assert train["class_counts"] == {str(digit): 4 + (digit == 0) for digit in range(10)}
    assert train["sizes"]["height"]["50"] == 8
    assert train["sizes"]["aspect"]["50"] == 1.0
    text = tables(found)
    assert data.split("train").fingerprint[:16] in text
    assert "the largest class has 1.2 times the images of the smallest" in text
    assert "made by: python data_pipeline/shard.py --source X" in text


def test_many_classes_are_cut_in_the_middle(make_dataset: MakeDataset) -> None:
    data = make_dataset([30])
    found = statistics(replace(data, classes=tuple(f"class {number}" for number in range(40))))
    lines = tables(found).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("train: class"))
    assert lines[start + 21] == "... 15 more ..."
    assert lines[start + 27] == "30 of 40 classes have no image in this split"


def test_images_without_a_label(make_dataset: MakeDataset) -> None:
    data = replace(make_dataset([12]), classes=None)
    found = statistics(data)
    assert found["classes"] is None
    assert found["splits"]["train"]["class_counts"] == {}
    assert "no classes" in tables(found)


def test_what_was_left_out_is_counted_by_reason(make_dataset: MakeDataset) -> None:
    data = make_dataset([5])
    assert isinstance(data.folder, Path)
    reasons = ["not a whole JPEG: premature end", "not a whole JPEG: bad marker", "same bytes as a/1.jpg"]
    reasons += ["same bytes as a/2.jpg", "9 x 100 pixels: too narrow"] + [
        f"odd {chr(number)}" for number in range(65, 190)
    ]
    lines = [json.dumps({"split": "train", "name": f"{n}", "reason": reason}) for n, reason in enumerate(reasons)]
    (data.folder / "quarantine.jsonl").write_text("\n".join(lines) + "\n")
    found = statistics(data)
    expected = {"not a whole JPEG": 2, "same bytes as another": 2, "# x # pixels": 1, "other reasons": 28, "odd A": 1}
    assert {reason: found["left_out"][reason] for reason in expected} == expected
    assert len(found["left_out"]) == 101
    assert "left out: 2 not a whole JPEG" in tables(found)
    (data.folder / "quarantine.jsonl").write_text(lines[0] + "\nnonsense\n")
    with pytest.raises(ValueError, match=r"quarantine\.jsonl: line 2 is not an object with a reason"):
        statistics(data)


def test_tables_align_numbers_to_the_right() -> None:
    table = text_table(("name", "count", "share"), [("a", 1234, 0.5), ("longer", 7, 12.25)])
    assert table.splitlines() == ["name    count  share", "a       1,234   0.50", "longer      7  12.25"]
