"""What a run says of its features: which numbers, of which images, in one line; and when it warns."""

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from beartype.roar import BeartypeDecorHintPep585DeprecationWarning
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_pipeline.augment import CenterCrop
from data_pipeline.chunks import chunks
from data_pipeline.config import ShardConfig
from data_pipeline.manifest import Manifest
from data_pipeline.rows import Part
from data_pipeline.sharding import shard_dataset
from launch.console import Console
from launch.run_folder import RunFolder
from pretrain.encoder import create_encoder
from pretrain.feature_spread import feature_deviation, rankme
from pretrain.health import knn_predict
from pretrain.mae_config import KnnConfig, MaeConfig
from pretrain.masked_autoencoder import MaskedAutoencoder
from pretrain.pixels import choose_normalization
from pretrain.recipes import RECIPES
from pretrain.ridge import STRENGTHS
from pretrain.world import World

with warnings.catch_warnings():
    # Of torch, whose IterableDataset is a typing.Iterable: beartype meets it in what `pretrain.session` imports.
    warnings.simplefilter("ignore", BeartypeDecorHintPep585DeprecationWarning)
    from pretrain import monitor as monitor_module
    from pretrain.monitor import Monitor
    from pretrain.session import Session

CONFIG = replace(RECIPES["digits"].config, data="d", out="o", knn=KnnConfig(most_train=400, most_held_out=100))
Features = Callable[[torch.Tensor], torch.Tensor]
Watch = Callable[..., tuple[Monitor, MaskedAutoencoder, Features, io.StringIO]]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("data") / "digits"
    return shard_dataset(ShardConfig(source="digits", out=str(folder), workers=1), Console(rank=1))


@pytest.fixture
def watch(tmp_path: Path, digits: Manifest) -> Watch:
    """A monitor, a fresh model, which has never seen a digit, its features, and what is said."""

    def build(manifest: Manifest = digits, config: MaeConfig = CONFIG):
        said = io.StringIO()
        model = MaskedAutoencoder(create_encoder(config.encoder), config.decoder, config.objective).eval()
        model.initialize(torch.Generator().manual_seed(0))
        session = Session(World("fp32"), Console(stream=said), RunFolder(tmp_path), {})
        normalization = choose_normalization("dataset", manifest)

        def features(images: torch.Tensor) -> torch.Tensor:
            return model.features(normalization.normalize(images)).mean

        return Monitor(config, manifest, session, 0), model, features, said

    return build


def expected_features(
    manifest: Manifest, split: str, model: MaskedAutoencoder, most: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """As the monitor must find them, all at once."""
    part, samples = Part(manifest, split), manifest.split(split).members(most)
    (chunk,) = chunks(part, CenterCrop((8, 8)), most, samples=samples)
    pixels = choose_normalization("dataset", manifest).normalize(chunk.images)
    return model.features(pixels).mean, chunk.labels


def test_with_labels_two_accuracies_and_two_measures_of_spread(watch: Watch, digits: Manifest):
    monitor, model, features, said = watch()
    results = monitor.measure(features, 50.0)
    train, labels = expected_features(digits, "train", model, 400)
    queries, expected = expected_features(digits, "test", model, 100)
    knn = knn_predict(train, labels, queries, neighbours=20, temperature=0.07)
    alphas = [400 * strength for strength in STRENGTHS]
    linear = make_pipeline(StandardScaler(), RidgeClassifierCV(alphas)).fit(train.double().numpy(), labels.numpy())
    assert results == pytest.approx(
        {
            "knn_top1": (knn == expected).double().mean().item(),
            "linear_top1": linear.score(queries.double().numpy(), expected.numpy()),
            "rankme": rankme(queries),
            "feature_deviation": feature_deviation(queries),
        },
        rel=1e-4,
    )
    assert 0.3 < results["knn_top1"] < results["linear_top1"] < 1
    number = r"\d+(\.\d+)?"
    line = rf"epoch 50  k-NN {number} %  linear {number} %  rankme {number} of 64  deviation {number}  on test\n"
    assert re.fullmatch(line, said.getvalue())
    assert f"linear {100 * results['linear_top1']:.1f} %" in said.getvalue()


def test_without_a_held_out_split_training_images_are_measured_and_said_to_be(watch: Watch, digits: Manifest):
    monitor, model, features, said = watch(replace(digits, splits={"train": digits.split("train")}))
    results = monitor.measure(features, 1.0)
    values, _ = expected_features(digits, "train", model, 100)
    expected = {"rankme": rankme(values), "feature_deviation": feature_deviation(values)}
    assert results == pytest.approx(expected, rel=1e-4)
    ending = "  on 100 training images, for there is no split test to hold out\n"
    assert said.getvalue().startswith("epoch 1  rankme ")
    assert said.getvalue().endswith(ending)


def test_the_split_that_is_trained_on_is_not_held_out(watch: Watch):
    monitor, _, features, said = watch(config=replace(CONFIG, held_out="train"))
    assert monitor.measure(features, 1.0).keys() == {"rankme", "feature_deviation"}
    assert "training images" in said.getvalue()


@pytest.mark.parametrize("unlabelled", ["train", "test"])
def test_without_labels_only_what_needs_none(
    watch: Watch, digits: Manifest, unlabelled: str, monkeypatch: pytest.MonkeyPatch
):
    splits = dict(digits.splits)
    splits[unlabelled] = replace(splits[unlabelled], class_counts=())
    extract = monitor_module.extract

    def without_labels(*arguments: Any, **named: Any):
        values, labels = extract(*arguments, **named)
        return values, torch.full_like(labels, -1) if arguments[1].split == unlabelled else labels

    monkeypatch.setattr(monitor_module, "extract", without_labels)
    monitor, _, features, said = watch(replace(digits, splits=splits))
    assert monitor.measure(features, 2.5).keys() == {"rankme", "feature_deviation"}
    assert re.fullmatch(r"epoch 2\.5  rankme \S+ of 64  deviation \S+  on test\n", said.getvalue())


def test_images_without_a_label_take_no_part_in_accuracies(
    watch: Watch, digits: Manifest, monkeypatch: pytest.MonkeyPatch
):
    extract = monitor_module.extract

    def some_labels(*arguments: Any, **named: Any):
        values, labels = extract(*arguments, **named)
        return values, labels.where(torch.arange(len(labels)) % 2 == 0, -1)

    monkeypatch.setattr(monitor_module, "extract", some_labels)
    monitor, model, features, _ = watch()
    results = monitor.measure(features, 1.0)
    train, labels = (tensor[::2] for tensor in expected_features(digits, "train", model, 400))
    queries, expected = (tensor[::2] for tensor in expected_features(digits, "test", model, 100))
    knn = knn_predict(train, labels, queries, neighbours=20, temperature=0.07)
    assert results["knn_top1"] == pytest.approx((knn == expected).double().mean().item())


def test_features_that_are_all_alike_are_a_collapse(watch: Watch):
    monitor, model, features, said = watch()
    with torch.no_grad():
        model.get_parameter("encoder.norm.weight").fill_(1e-4)
        model.get_parameter("encoder.norm.bias").fill_(1.0)
    assert monitor.measure(features, 3.0)["feature_deviation"] < 0.001
    warning = said.getvalue().splitlines()[1]
    assert warning.startswith("warning: epoch 3: features have collapsed")
    assert "below 0.01" in warning
    assert "--optimizer.base-lr" in warning


def test_features_that_are_not_numbers_are_said_and_not_measured(watch: Watch):
    monitor, model, features, said = watch()
    with torch.no_grad():
        model.get_parameter("encoder.norm.bias").fill_(torch.inf)
    assert monitor.measure(features, 3.0) == {}
    assert said.getvalue() == (
        "warning: epoch 3: features of 100 of 100 images of test are NaN or infinite, so nothing is measured on them\n"
    )
