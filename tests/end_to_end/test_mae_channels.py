"""Images of any number of channels and any type of values, in rectangles: from arrays to an encoder that timm loads."""

import json
import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

Scenario = Callable[["Runs", Path, Path], None]

# 96 images in batches of 32, each 2 x 3 patches of 8 x 8 pixels or 4 x 3 of 4 x 8.
EPOCHS, STEPS = 20, 60
OPTIONS = (
    *("--encoder.image-size", 16, 24, "--batch-size", 32, "--epochs", EPOCHS, "--optimizer.base-lr", 2.4e-2),
    *("--checkpoint-steps", 25, "--evaluate-epochs", 0, "--workers", 0),
)


def write_arrays(source: Path, channels: int, dtype: str) -> None:
    """Ramps down or across, a class each, of images dark and bright; as microscopes and satellites have them: far from
    0, and in a small part of the type's range. One channel is stored without an axis for it.
    """
    noise = np.random.default_rng(0)
    rows, columns = np.mgrid[:20, :28] / 28
    for number in range(128):
        label = number % 2
        ramp = noise.normal() + 2 * (columns if label else rows)
        bands = np.stack([(1 + band) * ramp for band in range(channels)], axis=-1)
        values = 280 + 2 * bands if dtype == "float32" else (2000 + 100 * bands).round()
        path = source / ("train" if number < 96 else "test") / f"class {label}" / f"{number:03}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, (values[..., 0] if channels == 1 else values).astype(dtype))


def shard(runs: "Runs", folder: Path, channels: int, dtype: str) -> Path:
    """A dataset folder of such arrays, by the real command."""
    write_arrays(folder / "arrays", channels, dtype)
    options = ("--source", folder / "arrays", "--out", folder / "data", "--workers", 1)
    runs.Child(runs.python(runs.ROOT / "data_pipeline/shard.py", *options), folder / "shard").wait().expect(0)
    return folder / "data"


def assert_timm_loads(runs: "Runs", run: Path, data: Path, channels: int, patch: tuple[int, int]) -> None:
    """The exported weights are those of the last checkpoint, every one, and the folder says how to prepare images."""
    loaded = timm.create_model(f"local-dir:{run / 'encoder'}", pretrained=True).eval()
    weights = load_file(runs.newest(run) / "model.safetensors")
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, weights[f"encoder.{name}"]), name
    assert loaded.patch_embed.proj.weight.shape[1:] == (channels, *patch)
    assert loaded(torch.zeros(2, channels, 16, 24)).isfinite().all()
    statistics = json.loads((data / "manifest.json").read_text())["statistics"]
    described = timm.data.resolve_model_data_config(loaded)
    assert described["input_size"] == (channels, 16, 24)
    assert {each: list(described[each]) for each in ("mean", "std")} == {
        each: statistics[each] for each in ("mean", "std")
    }


def assert_learned(runs: "Runs", run: Path) -> None:
    losses = runs.losses(run)
    assert list(losses) == list(range(1, STEPS + 1)), "each step once, whatever came between"
    # Normalised pixels have a variance of 1, whatever their type and number of channels; a new model adds its own.
    assert 0.5 < losses[1] < 4
    assert losses[STEPS] < 0.5 * losses[1]
    assert len(list((run / "figures").iterdir())) >= 1


def five_channels_of_floats(runs: "Runs", digits: Path, folder: Path) -> None:
    data, run = shard(runs, folder, 5, "float32"), folder / "run"
    more = (*OPTIONS, "--encoder.channels", 5, "--encoder.patch-size", 4, 8)
    child = runs.train(data, run, *more)
    child.wait_until(lambda: runs.last_step(run) >= 5)
    (run / "stop").touch()
    child.wait().expect(0)
    assert runs.read_exit(run)["status"] == "preempted"
    assert "going on from" in runs.finish(data, run, *more, "--accumulate", 3).out
    assert_learned(runs, run)
    # By hand: base rate x batch / 256 = 3e-3 after half an epoch, 1.5 steps, then half a cosine over the other 58.5.
    rates = {line["step"]: line["lr"] for line in runs.metrics(run) if "lr" in line}
    expected = [3e-3 * (1 + math.cos(math.pi * (step - 2.5) / 58.5)) / 2 for step in range(3, STEPS + 1)]
    assert [rates[1], rates[2]] == pytest.approx([0, 3e-3 / 1.5])
    assert [rates[step] for step in range(3, STEPS + 1)] == pytest.approx(expected)
    assert_timm_loads(runs, run, data, 5, (4, 8))


def one_channel_of_sixteen_bits(runs: "Runs", digits: Path, folder: Path) -> None:
    data, run = shard(runs, folder, 1, "uint16"), folder / "run"
    normalized = ("--objective.normalize-targets", "--objective.mask-ratio", 0.75)
    runs.finish(data, run, *OPTIONS, "--encoder.channels", 1, "--encoder.patch-size", 8, 8, *normalized)
    assert_learned(runs, run)
    assert_timm_loads(runs, run, data, 1, (8, 8))


def one_channel_of_pictures(runs: "Runs", digits: Path, folder: Path) -> None:
    refused = runs.train(digits, folder / "run", "--encoder.channels", 1).wait().expect(1)
    assert refused.err == (
        f"mae.py: {digits} [train]: expected images of 1 channels, as many as the encoder takes, got 3 (grey pictures "
        "are read as RGB with equal channels); pass --encoder.channels 3\n"
    )


SCENARIOS: list[Scenario] = [five_channels_of_floats, one_channel_of_sixteen_bits, one_channel_of_pictures]


@pytest.fixture(scope="module")
def outcomes(
    runs: "Runs", digits: Path, side_by_side: ThreadPoolExecutor, tmp_path_factory: pytest.TempPathFactory
) -> dict[Scenario, Future[None]]:
    """All scenarios, some at a time; each test waits for its own."""
    return {each: side_by_side.submit(each, runs, digits, tmp_path_factory.mktemp(each.__name__)) for each in SCENARIOS}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_any_channels(outcomes: dict[Scenario, Future[None]], scenario: Scenario) -> None:
    outcomes[scenario].result()
