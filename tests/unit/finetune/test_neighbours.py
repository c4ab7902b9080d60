"""k-NN of a probe: all k in one pass, the fixed one counts, limits are kept and said."""

import io
from dataclasses import replace

import pytest
import torch

from finetune.extraction import Features
from finetune.feature_probe_config import NeighboursConfig
from finetune.neighbours import probe_neighbours
from launch.console import Console
from pretrain.health import knn_predict

CPU = torch.device("cpu")
CONFIG = NeighboursConfig()


def clouds(count: int, seed: int, *, spread: float = 1.0) -> Features:
    """Four classes around the same centres whatever the seed."""
    centres = torch.randn(4, 6, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=generator)
    return Features(centres[labels] + spread * torch.randn(count, 6, generator=generator), labels)


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def test_every_k_is_what_it_gives_alone_and_the_fixed_one_counts(stream: io.StringIO):
    train, held_out = clouds(150, 0), clouds(90, 1)
    result = probe_neighbours(train, held_out, CONFIG, Console(stream=stream), device=CPU)
    assert [row["neighbours"] for row in result["sweep"]] == [1, 5, 10, 20, 50, 100]
    for row in result["sweep"]:
        predicted = knn_predict(*train, held_out.values, neighbours=row["neighbours"], temperature=0.07)
        assert row["top1"] == (predicted == held_out.labels).double().mean().item()
    assert (result["neighbours"], result["temperature"]) == (20, 0.07)
    assert result["top1"] == result["sweep"][3]["top1"]
    assert len({row["top1"] for row in result["sweep"]}) > 2
    said = stream.getvalue().splitlines()
    assert said[0] == f"k-NN {100 * result['top1']:.1f} % (k = 20)"
    assert said[1].startswith(f"k-NN by k: 1 {100 * result['sweep'][0]['top1']:.1f}, 5 ")


def test_the_held_out_images_choose_nothing(stream: io.StringIO):
    train, held_out = clouds(60, 2), clouds(40, 3)
    wrong = held_out._replace(labels=(held_out.labels + 1) % 4)
    found = [probe_neighbours(train, some, CONFIG, Console(stream=stream), device=CPU) for some in (held_out, wrong)]
    assert found[0]["neighbours"] == found[1]["neighbours"] == 20
    assert found[0]["top1"] > found[1]["top1"]


def test_with_fewer_images_than_k_all_vote(stream: io.StringIO):
    train, held_out = clouds(7, 4), clouds(40, 5)
    result = probe_neighbours(train, held_out, CONFIG, Console(stream=stream), device=CPU)
    assert result["neighbours"] == 7
    assert [row["neighbours"] for row in result["sweep"]] == [1, 5, 7]
    assert "(k = 7)" in stream.getvalue()


def test_limits_are_kept_and_said(stream: io.StringIO):
    train, held_out = clouds(90, 10), clouds(50, 11)
    limited = NeighboursConfig(neighbours=5, sweep=(1,), most_train=60, most_held_out=20)
    result = probe_neighbours(train, held_out, limited, Console(stream=stream), device=CPU)
    assert (result["train_images"], result["held_out_images"]) == (60, 20)
    assert [row["neighbours"] for row in result["sweep"]] == [1, 5]
    assert "% (k = 5, 60 of 90 training images)\n" in stream.getvalue()
    cut = [Features(some.values[:count], some.labels[:count]) for some, count in ((train, 60), (held_out, 20))]
    assert probe_neighbours(*cut, replace(limited, most_train=None), Console(rank=1), device=CPU) == result


def test_classes_that_training_lacks_are_wrong_and_no_error(stream: io.StringIO):
    train, held_out = clouds(200, 8, spread=0.01), clouds(40, 9, spread=0.01)
    strange = Features(held_out.values, held_out.labels.where(held_out.labels != 1, 17))
    result = probe_neighbours(train, strange, CONFIG, Console(stream=stream), device=CPU)
    assert result["top1"] == (held_out.labels != 1).double().mean().item()
