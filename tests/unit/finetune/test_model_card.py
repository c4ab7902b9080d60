"""The card says what the run's files say, to the Hub and to people, and nothing of where they lay."""

import dataclasses
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from torch import nn

from data_pipeline.manifest import INDEX_DTYPE, Manifest, Shard, Split, Statistics
from finetune.card_figures import CardFigure
from finetune.card_scores import Measured, Score
from finetune.classify_config import ClassifyConfig
from finetune.finished_run import FinishedRun
from finetune.licences import Licence
from finetune.model_card import Published, render_card
from finetune.origins import Origin
from finetune.proof import Proof, StockPreparation
from finetune.publish_config import PublishConfig
from finetune.report_accuracy import EvaluationFile, EvaluationIntervals
from finetune.report_multi_label import MultiLabelFile, MultiLabelIntervals
from finetune.report_teacher import TeacherFile
from launch.run_folder import RunFolder
from pretrain.architectures import create_backbone
from pretrain.augment_config import AugmentationConfig, MixingConfig
from pretrain.backbone_config import BackboneConfig
from pretrain.checkpoint import Checkpoint
from pretrain.config import EncoderConfig, OptimizerConfig
from pretrain.distill_config import DistillConfig
from pretrain.distillation_config import DistillationConfig
from pretrain.encoder import create_classifier, create_encoder
from pretrain.feature_distill_config import FeatureDistillConfig
from pretrain.mae_config import MaeConfig
from pretrain.model_source import ModelSource, Preparation
from pretrain.pixels import Normalization
from pretrain.supervised_config import SupervisedConfig
from pretrain.teacher_cache_config import TeacherCacheConfig

UNSTATED = Licence("other", "no licence was stated")
NAMES = ("tabby | cat", "a_b*c", "<b>bold</b>", "plain", "`code` & $x$", "[link](x)")
ENCODER = EncoderConfig("vit_tiny_patch16_224", (8, 8), (2, 2), width=24, depth=2, heads=2)
BACKBONE = BackboneConfig("vit_tiny_patch16_224", (8, 8), (2, 2), width=24, depth=2, heads=2)
CLASSIFY = ClassifyConfig(
    encoder=BACKBONE,
    epochs=10.0,
    batch_size=8,
    optimizer=OptimizerConfig(warmup_epochs=1.0),
    data="/home/secret/flowers",
    init="/home/secret/runs/mae",
    out="/home/secret/out",
    labels=2,
    seed=3,
)
MAE = MaeConfig(encoder=ENCODER, epochs=100.0, batch_size=8, data="/home/secret/flowers", out="/home/secret/out")
DISTILL = DistillConfig(
    encoder=BACKBONE,
    epochs=10.0,
    batch_size=8,
    optimizer=OptimizerConfig(warmup_epochs=1.0),
    data="/home/secret/flowers",
    out="/home/secret/out",
    teacher="/home/secret/runs/big_one",
)
TEACHER = TeacherFile("/home/secret/runs/big_one", "resnet18", "9" * 64)
FEATURES = FeatureDistillConfig(
    encoder=ENCODER,
    epochs=100.0,
    batch_size=8,
    data="/home/secret/flowers",
    out="/home/secret/out",
    teacher="/home/secret/runs/big_one",
    patch_weight=0.5,
)
EVALUATION = EvaluationFile(
    step=40,
    split="test",
    images=8,
    undecodable=1,
    top1=0.75,
    top5=1.0,
    mean_class_accuracy=0.7,
    nll=0.5,
    classes=NAMES,
    confusion=((2, 0, 0, 0, 0, 0), *((0, 1, 0, 0, 0, 0),) * 4, (0, 0, 0, 0, 0, 2)),
)
PROOF = Proof(
    compared="logits",
    largest_difference=0.0,
    tolerance=1e-5,
    images=8,
    shape=(8, 6),
    split="test",
    split_fingerprint="f" * 64,
    inputs_sha256="e" * 64,
    stock_preparation=StockPreparation(0.00123, 7, 0.999),
    versions={"python": "3.11", "torch": "2.9", "timm": "1.0.99"},
    files={"config.json": "c" * 64, "model.safetensors": "d" * 64},
)


def manifest_in(folder: Path, **made: str) -> Manifest:
    """Two images of each class to train on and eight to test; only what is read without pixels exists."""
    folder.mkdir()
    splits = {}
    for name, labels in (("train", [*range(6), *range(6)]), ("test", [0] * 8)):
        index = np.zeros(len(labels), INDEX_DTYPE)
        index["label"] = labels
        np.save(folder / f"{name}.npy", index)
        digest = hashlib.sha256((folder / f"{name}.npy").read_bytes()).hexdigest()
        splits[name] = Split("png", (Shard(f"{name}.tar", len(labels), 1, name * 9, f"{name}.npy", digest),))
    statistics = Statistics((0.5,) * 3, (0.5,) * 3, (8, 8), (8, 8))
    made = {"command": "--source x", "source": "folder of images /home/secret/raw", **made}
    return Manifest(folder, NAMES, statistics, made, splits)


@pytest.fixture
def classifier(tmp_path: Path) -> FinishedRun:
    return finished(tmp_path, CLASSIFY)


@pytest.fixture
def encoder(tmp_path: Path) -> FinishedRun:
    return finished(tmp_path, MAE)


def finished(
    tmp_path: Path, config: SupervisedConfig | MaeConfig | FeatureDistillConfig, teacher: TeacherFile | None = None
) -> FinishedRun:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    environment = {
        "python": "3.11",
        "platform": "Linux-6",
        "cpu_count": 2,
        "hostname": "secret-host",
        "device": "AVX512",
        "world": 1,
        "threads": 4,
        "versions": {"torch": "2.9", "absent": None},
        "git": {"revision": "abc", "dirty": True},
        "command_line": ["/home/secret/classify.py"],
    }
    run.environment.write_text(json.dumps(environment))
    is_classifier = isinstance(config, SupervisedConfig)
    names = NAMES if is_classifier else None
    exported = ModelSource(
        "run",
        run.model,
        BACKBONE,
        Normalization((0.5,) * 3, (0.5,) * 3),
        Preparation("bicubic", 1.0, "center"),
        len(names or ()),
        names,
        pool="mean",
        is_ours=True,
        is_folder=True,
    )
    checkpoint = Checkpoint(run.checkpoints / "step-00000040", {"step": 40})
    evaluation = EVALUATION if is_classifier else None
    manifest = manifest_in(tmp_path / "flowers")
    return FinishedRun(run, "r", config, exported, checkpoint, manifest, evaluation, teacher)


@cache
def model_of(classes: int) -> nn.Module:
    if classes:
        return create_classifier(ENCODER, classes=classes, pool="mean", drop_path=0.0)
    return create_encoder(ENCODER)


def render(run: FinishedRun, name: str = "my_model", licence: str = "apache-2.0", **proof: Any) -> str:
    changed = dataclasses.replace(PROOF, **proof)
    return render_card(Published(name, run, model_of(run.exported.classes), changed, Licence(licence, "as stated")))


def render_published(run: FinishedRun, licence: Licence = UNSTATED, **more: Any) -> str:
    """With what else a card may show."""
    return render_card(Published("m", run, model_of(run.exported.classes), PROOF, licence, **more))


def html(card: str) -> str:
    """The card below its front matter, as a page."""
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(card.split("---\n", 2)[2])


def test_front_matter_of_a_classifier(classifier: FinishedRun):
    data = ModelCard(render(classifier)).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("timm", "image-classification", "apache-2.0")
    assert data.tags == ["timm", "image-classification", "vision-transformer"]
    assert data.model_name == "my_model"
    results = data.eval_results
    assert results is not None
    assert [(result.metric_name, result.metric_value) for result in results] == [
        ("Top-1", 0.75),
        ("Top-5", 1.0),
        ("Mean over classes", 0.7),
    ]
    assert {(result.dataset_name, result.dataset_split) for result in results} == {("flowers", "test")}


def test_front_matter_of_an_encoder_claims_no_accuracy(encoder: FinishedRun):
    card = render(encoder, compared="tokens", stock_preparation=StockPreparation(0.1, None, 0.98765432))
    found = yaml.safe_load(card.split("---\n")[1])
    assert found["pipeline_tag"] == "image-feature-extraction"
    assert not found.keys() & {"model-index", "metrics", "datasets"}
    assert "Nothing was measured." in card
    assert "cosine of at least **0.987654**" in card


def entries(card: str) -> list[dict[str, Any]]:
    """The model-index's metrics."""
    found = yaml.safe_load(card.split("---\n")[1])
    return [metric for result in found["model-index"][0]["results"] for metric in result["metrics"]]


def test_each_figure_says_how_sure_it_is(classifier: FinishedRun):
    ends = EvaluationIntervals(0.9, 1000, (0.612345, 0.8), (0.9, 1.0), (0.6, 0.8), (0.4, 0.6), (0.1, 0.2))
    evaluation = dataclasses.replace(EVALUATION, intervals=ends)
    top1, _, mean = entries(render(dataclasses.replace(classifier, evaluation=evaluation)))
    assert top1["args"] == {
        "confidence_interval": [0.6123, 0.8],
        "level": 0.9,
        "method": "bootstrap",
        "images": 8,
        "seed": 3,
    }
    assert mean["args"]["confidence_interval"] == [0.6, 0.8]
    assert entries(render(classifier))[0]["args"] == {"images": 8, "seed": 3}


def test_a_figure_of_several_labels_says_how_sure_it_is(classifier: FinishedRun):
    ends = MultiLabelIntervals(0.95, 1000, (0.5, 0.7))
    shares = (0.6, 0.5, 0.4, 0.3)
    evaluation = MultiLabelFile(40, "test", 8, 0, *shares, NAMES, (1, 1, 2, 2, 1, 1), (None, *(0.5,) * 5), ends)
    (found,) = entries(render(dataclasses.replace(classifier, evaluation=evaluation)))
    assert (found["type"], found["value"]) == ("mean_average_precision", 0.6)
    assert found["args"]["confidence_interval"] == [0.5, 0.7]


def test_an_encoders_figures_are_named_by_how_they_were_measured(encoder: FinishedRun):
    encoder.folder.append_metrics({"step": 40, "knn_top1": 0.625, "linear_top1": 0.75})
    card = render(encoder, compared="tokens")
    assert [(one["name"], one["value"]) for one in entries(card)] == [
        ("Top-1 of the 20 nearest neighbours", 0.625),
        ("Top-1 of ridge regression", 0.75),
    ]
    assert entries(card)[0]["args"]["method"] == "Wilson"
    assert "| Top-1 of ridge regression, 95 % interval | 40.93% to 92.85% |" in card


def test_front_matter_is_read_as_it_was_meant(classifier: FinishedRun):
    origin = Origin("meta/big", repository="meta/big", licence="other")
    licence = Licence("other", "that of big", (origin,), "big-licence", "https://example.com/LICENSE")
    card = render_published(classifier, licence=licence, library="transformers")
    data = ModelCard(card).data
    assert data.to_dict() == yaml.safe_load(card.split("---\n")[1])
    assert (data.base_model, data.license, data.license_name) == ("meta/big", "other", "big-licence")
    assert data.to_dict()["base_model_relation"] == "finetune"
    assert data.library_name == "transformers"
    assert data.tags is not None
    assert data.tags[0] == "transformers"
    assert "big-licence: that of big.\nIts text: <https://example.com/LICENSE>.\n" in card


def test_what_was_measured_elsewhere_comes_along(encoder: FinishedRun):
    score = Score("Top-1, fine-tuned, all labels", 0.9, {"seeds": [0]})
    measured = Measured("Fine-tuned on flowers:", (("Top-1", "90.00%, seed 0"),), "flowers", None, (score,))
    card = render_published(encoder, measured=(measured,))
    assert "\n\nFine-tuned on flowers:\n\n| measure | value |\n|---|--:|\n| Top-1 | 90.00%, seed 0 |\n\n" in card
    assert "Nothing was measured." not in card
    assert entries(card)[0]["args"] == {"seeds": [0]}


def test_pictures_are_shown_by_relative_links(encoder: FinishedRun):
    figure = CardFigure("figures/curves.png", "Curves over 3 epochs", "Training loss.")
    shown = html(render_published(encoder, figures=(figure,)))
    assert '<img src="figures/curves.png" alt="Curves over 3 epochs" />' in shown


def test_what_training_took_and_what_the_data_are(encoder: FinishedRun):
    encoder.folder.append_metrics({"step": 36, "epoch": 1.0, "loss": 1.0, "images_per_second": 0.08})
    card = render(encoder)
    assert "| Compute | 4 CPU core-hours, by 1 process of 4 threads on CPUs with AVX512 |" in card
    assert "| Source | folder of images raw |" in card
    assert f"| test | 8 | no labels | `{encoder.manifest.split('test').fingerprint}` |" in card
    assert "secret" not in card


def test_a_card_is_the_same_each_time(classifier: FinishedRun):
    assert render(classifier) == render(classifier)


def test_nearest_neighbours_are_an_encoders_result(encoder: FinishedRun):
    encoder.folder.append_metrics({"step": 20, "knn_top1": 0.5})
    encoder.folder.append_metrics({"step": 40, "knn_top1": 0.625})
    card = render(encoder, compared="tokens")
    assert "| Top-1 of the 20 nearest neighbours | 62.50% |" in card
    assert "8 images of flowers, split test, each once" in card
    assert "with 12 training images" in card


def test_what_it_tells_of_the_training(classifier: FinishedRun):
    card = render(classifier).replace("\N{NO-BREAK SPACE}", " ")
    for row in (
        "| Started from | the weights of mae |",
        "| Data | flowers, split train |",
        f"| Fingerprint of the split | `{classifier.manifest.split('train').fingerprint}` |",
        "| Images | 12 |",
        "| Labels | 2 images a class, chosen by the seed |",
        "| Epochs | 10, in 40 steps |",
        "| Seed | 3 |",
        "| Top-1 | 75.00% ± 15.31% |",
        "| Negative log-likelihood | 0.5 nats |",
        "| plain | 1 | 0.0% |",
        "| Versions | python 3.11, torch 2.9 |",
        "| Revision of sherd | `abc`, with changes |",
    ):
        assert row in card, row
    assert "8 images of flowers, split test, each once; 1 more do not decode" in card
    assert "same for **7 of 8**" in card
    assert "differ by at most 0.0012" in card
    assert "c" * 64 in card
    settings = json.loads(card.split("```json\n")[1].split("```")[0])
    assert settings["optimizer"]["warmup_epochs"] == 1.0
    assert "secret" not in card


def settings_of(card: str) -> dict[str, Any]:
    return json.loads(card.split("```json\n")[1].split("```", maxsplit=1)[0])


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        (
            {},
            (
                "Method | trained by distillation from a teacher's logits (arXiv:2012.12877), recipe r",
                f"Teacher | big\\_one (resnet18); SHA-256 of its weights `{'9' * 64}`",
                "Learnt of it | hard: the class that the teacher finds likeliest, as a label; alpha 0.5",
                "The teacher's logits | computed of every view as it is shown",
                "Started from | new weights",
                "Views in an epoch | 1 of each image",
                "Labels | all",
            ),
        ),
        (
            {
                "distillation": DistillationConfig("soft", alpha=0.7, temperature=3.0),
                "cache_teacher": TeacherCacheConfig(views=4, classes=5, folder="/home/secret/cache"),
                "mixing": MixingConfig(mixup=0.0, cutmix=0.0),
                "views": 3,
                "average": 0.999,
            },
            (
                "Learnt of it | soft: the teacher's probabilities, at temperature 3; alpha 0.7",
                "The teacher's logits | computed once, of 4 fixed views of each image, the 5 likeliest classes of each",
                "Views in an epoch | 3 of each image (repeated augmentation, arXiv:1901.09335)",
                "Weights | the average over training, with a decay of 0.999 a step",
            ),
        ),
        (
            {"labels": 1, "unlabelled": True},
            (
                "Images | 12",
                "Labels | 1 images a class, chosen by the seed; 6 of the images took part without a label",
            ),
        ),
        (
            {"teacher": "own"},
            (f"Teacher | resnet18, trained first on the same labels; SHA-256 of its weights `{'9' * 64}`",),
        ),
    ],
)
def test_what_it_tells_of_distillation(tmp_path: Path, changes: dict[str, Any], rows: tuple[str, ...]):
    config = dataclasses.replace(DISTILL, **changes)
    card = render(finished(tmp_path, config, TEACHER))
    for row in rows:
        assert f"| {row} |" in card, row
    assert "secret" not in card
    assert ("own_teacher" in settings_of(card)) == (config.teacher == "own")
    data = ModelCard(card).data
    assert data.tags is not None
    assert "knowledge-distillation" in data.tags
    assert ("Whether the licence of its teacher" in card) == (config.teacher != "own")


def test_training_without_a_teacher(tmp_path: Path):
    alone = dataclasses.replace(DISTILL, teacher="none", distillation=DistillationConfig("none"))
    run = finished(tmp_path, alone)
    card = render(run)
    assert "| Method | trained on labels alone, as DeiT (arXiv:2012.12877), recipe r |" in card
    assert "Teacher" not in card
    assert "knowledge-distillation" not in card
    third = dataclasses.replace(alone, augmentation=AugmentationConfig(rand_augment=None, three_augment=True))
    assert "as DeiT III (arXiv:2204.07118)" in render(dataclasses.replace(run, config=third))


def test_a_teacher_that_a_run_trained_for_itself(tmp_path: Path):
    shared = {field.name: getattr(CLASSIFY, field.name) for field in dataclasses.fields(SupervisedConfig)}
    card = render(finished(tmp_path, SupervisedConfig(**(shared | {"init": "none"}))))
    assert "| Method | trained on labels alone, to be the teacher of another model, recipe r |" in card


def test_a_teachers_licence_is_not_decided(tmp_path: Path):
    run = finished(tmp_path, DISTILL, dataclasses.replace(TEACHER, name="hf://some-one/big"))
    said = "Whether the licence of its teacher, some-one/big (resnet18), says anything about these weights is not decid"
    assert f"as stated.\n{said}" in render(run)


def test_two_heads_are_told_of(tmp_path: Path):
    backbone = dataclasses.replace(BACKBONE, name="deit_tiny_distilled_patch16_224")
    run = finished(tmp_path, DISTILL, TEACHER)
    run = dataclasses.replace(run, exported=dataclasses.replace(run.exported, backbone=backbone))
    model = create_backbone(backbone, classes=6, pool="own", drop_path=0.0, seed=0)
    card = render_card(Published("m", run, model, PROOF, Licence("mit", "as stated")))
    assert "A vision transformer that tells 6 classes" in card
    assert "`deit_tiny_distilled_patch16_224` with 2 blocks of width 24, 2 heads and patches of 2 x 2 pixels," in card
    assert "the mean of those of two heads: one learnt from labels, the other from a teacher." in card
    tuned = dataclasses.replace(run, config=CLASSIFY, teacher=None)
    card = render_card(Published("m", tuned, model, PROOF, Licence("mit", "as stated")))
    assert "the mean of those of two heads.\n" in card


def test_an_encoder_from_features(tmp_path: Path):
    run = finished(tmp_path, FEATURES, TEACHER)
    run.folder.append_metrics({"step": 40, "knn_top1": 0.625})
    card = render(run, compared="tokens")
    for text in (
        "| Method | pre-trained on the features of a teacher, recipe r |",
        "| Teacher | big\\_one (resnet18); SHA-256 of its weights",
        "| Learnt of it | by their cosines, the teacher's class token (weight 1) and patch tokens (0.5) |",
        "| Labels | none used |",
        "compared by their class token with 12 training images",
    ):
        assert text in card, text
    assert "secret" not in card
    assert ModelCard(card).data.tags == [
        "timm",
        "image-feature-extraction",
        "vision-transformer",
        "knowledge-distillation",
    ]


def test_names_are_shown_as_they_are(classifier: FinishedRun):
    shown = html(render(classifier, name="a_b*c*"))
    assert "<h1>a_b*c*</h1>" in shown
    for name in NAMES:
        escaped = name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        assert f"<td>{escaped}</td>" in shown, name
    assert "pixels: tabby | cat, a_b*c, &lt;b&gt;bold&lt;/b&gt;, plain," in shown


def test_very_many_classes_are_not_all_listed(classifier: FinishedRun):
    names = tuple(f"class-{number}" for number in range(1000))
    evaluation = dataclasses.replace(EVALUATION, classes=names, confusion=((0,) * 1000,) * 1000)
    exported = dataclasses.replace(classifier.exported, classes=1000, class_names=names)
    card = render(dataclasses.replace(classifier, exported=exported, evaluation=evaluation))
    assert "tells 1,000 classes apart" in card
    assert "class-49 and 950 more." in card
    assert "class-50" not in card
    assert len(card) < 10_000


def test_top5_of_five_classes_says_nothing(classifier: FinishedRun):
    evaluation = dataclasses.replace(EVALUATION, classes=NAMES[:5], confusion=((1, 0, 0, 0, 0),) * 5)
    card = render(dataclasses.replace(classifier, evaluation=evaluation))
    assert "Top-5" not in card


def test_a_proof_on_training_images_says_so(encoder: FinishedRun):
    assert "there is no other" not in render(encoder, compared="tokens")
    assert "split train (which the model was trained on: there is no other)" in render(encoder, split="train")


def test_a_dataset_of_the_hub_is_named(classifier: FinishedRun, tmp_path: Path):
    manifest = manifest_in(tmp_path / "copy", source="Hub dataset uoft-cs/cifar10")
    card = render(dataclasses.replace(classifier, manifest=manifest))
    data = ModelCard(card).data
    assert data.datasets == ["uoft-cs/cifar10"]
    assert data.eval_results is not None
    assert data.eval_results[0].dataset_type == "uoft-cs/cifar10"
    assert "| Data | uoft-cs/cifar10, split train |" in card


@pytest.mark.parametrize("spelling", ["Apache 2.0", "", "CC-BY-4.0", "mit\nx"])
def test_a_licence_is_spelled_as_on_the_hub(spelling: str):
    with pytest.raises(ValueError, match=r"--license .* is not spelled as on the Hub: .*, such as apache-2\.0"):
        PublishConfig(run="r", out="m", license=spelling)
