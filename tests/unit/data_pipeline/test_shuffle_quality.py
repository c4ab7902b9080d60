"""Expectations against enumeration, figures against counting, and verdicts that tell good from poor."""

import io
from collections.abc import Callable
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pytest

from data_pipeline.manifest import Manifest, locate_sample, sample_starts
from data_pipeline.order import Plan, block_bounds
from data_pipeline.recorded_run import Ingredient, make_orders
from data_pipeline.shuffle_quality import (
    Figure,
    ShuffleQuality,
    expected_distinct,
    expected_run,
    measure_shuffle,
    run_lengths,
)
from data_pipeline.survey_config import ShuffleQualityConfig
from launch.console import Console

MakeDataset = Callable[..., Manifest]


@pytest.mark.parametrize("sizes", [[3, 4], [1, 1, 5], [2, 2, 2, 1], [6]])
@pytest.mark.parametrize("drawn", [1, 2, 4])
def test_distinct_groups_as_enumerated(sizes: list[int], drawn: int) -> None:
    group = np.repeat(np.arange(len(sizes)), sizes)
    met = [len(set(group[list(chosen)].tolist())) for chosen in combinations(range(len(group)), drawn)]
    assert expected_distinct(sizes, drawn) == pytest.approx(np.mean(met))


def test_runs_as_enumerated() -> None:
    labels = np.asarray([0, 0, 0, 1, 1, 2])
    runs = [run_lengths(labels[list(order)])[1] for order in permutations(range(6))]
    assert expected_run(np.bincount(labels), 6) == pytest.approx(6 / np.mean(runs))
    assert run_lengths(np.asarray([1, 1, 2, 2, 2, 1])) == (3, 3)
    assert run_lengths(np.asarray([4])) == (1, 1)


def figures(found: ShuffleQuality) -> dict[str, Figure]:
    return {figure.name.split(",")[0]: figure for figure in found.figures}


def measured(manifest: Manifest, **options: Any) -> ShuffleQuality:
    return measure_shuffle(manifest, "train", ShuffleQualityConfig("d", **options), Console(stream=io.StringIO()))


def test_figures_are_those_of_the_stream(make_dataset: MakeDataset) -> None:
    data = make_dataset([90, 60, 150])
    found = measured(data, batch_size=50, steps=3, seed=2)
    split = data.split("train")
    plan = Plan()
    (order,) = make_orders([Ingredient(data, "train", None)], plan, 2)
    batches = [np.arange(start, start + 50) for start in (0, 100, 200)]
    chosen = [order.locate(batch).sample for batch in batches]
    sizes = np.asarray([shard.samples for shard in split.shards]), np.asarray([s.bytes for s in split.shards])
    bounds = block_bounds(*sizes, plan)
    expected = {
        "distinct shards": np.mean([len(set(locate_sample(sample_starts(split), s)[0].tolist())) for s in chosen]),
        "distinct blocks": np.mean([len(set(np.searchsorted(bounds, s, "right").tolist())) for s in chosen]),
        "way of a sample from its place in the tars": np.mean(
            [np.abs(batch - s).mean() / 3 for batch, s in zip(batches, chosen, strict=True)]
        ),
        "samples of one class in a row": np.mean([50 / run_lengths(s % 10)[1] for s in chosen]),
        "longest such run": np.mean([run_lengths(s % 10)[0] for s in chosen]),
    }
    assert {name: figure.found for name, figure in figures(found).items()} == pytest.approx(expected)
    assert (found.steps, found.samples, found.shards, found.blocks) == (3, 300, 3, len(bounds) - 1)


def test_displacement_of_a_whole_epoch_is_a_third(make_dataset: MakeDataset) -> None:
    way = figures(measured(make_dataset([90, 60, 150]), batch_size=50, steps=100))[
        "way of a sample from its place in the tars"
    ]
    assert way.uniform == pytest.approx(100 * (300**2 - 1) / (3 * 300) / 300)
    assert way.found == pytest.approx(way.uniform, rel=0.15)


def test_a_small_dataset_is_mixed_as_a_uniform_shuffle(make_dataset: MakeDataset) -> None:
    found = measured(make_dataset([100] * 6), batch_size=60, steps=10)
    assert {figure.verdict for figure in found.figures} == {"good"}
    assert found.table().endswith("All is as a uniform shuffle would have it, or better.")
    assert found.to_json()["figures"][0]["verdict"] == "good"


def test_poor_figures_say_what_to_do() -> None:
    figure = Figure("distinct shards", 2.0, 20.0, 0.1, "take a larger --batch-size")
    found = ShuffleQuality(
        "d",
        "train",
        9,
        1,
        1,
        240,
        8,
        1,
        0,
        (
            figure,
            Figure("b", 6.0, 10.0, 0.6, "no"),
        ),
    )
    assert [each.verdict for each in found.figures] == ["poor", "fair"]
    assert "poor: distinct shards: take a larger --batch-size" in found.table()


def test_withdrawn_samples_do_not_count(make_dataset: MakeDataset) -> None:
    whole, less = make_dataset([30, 30]), make_dataset([30, 30], withdrawn=range(20))
    found = measured(less, batch_size=4, steps=5)
    assert found.samples == 40
    expected = expected_distinct([10, 30], 4)
    assert figures(found)["distinct shards"].uniform == pytest.approx(expected)
    assert figures(measured(whole, batch_size=4, steps=5))["distinct shards"].uniform != pytest.approx(expected)


def test_a_batch_larger_than_the_split_is_refused(make_dataset: MakeDataset) -> None:
    with pytest.raises(ValueError, match="--batch-size 256: split train has 30 samples; give at most that"):
        measured(make_dataset([30]))
