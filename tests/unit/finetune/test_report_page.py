"""The whole page: what each kind of folder shows, what is said of what is missing, and that all text is escaped."""

import html.parser
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipeline.config import ShardConfig
from data_pipeline.sharding import shard_dataset
from finetune.report_blocks import Table
from finetune.report_folders import read_folder
from finetune.report_page import build_page
from finetune.report_teacher import teacher_blocks
from launch.console import Console
from launch.strict_json import to_json
from pretrain.architectures import create_backbone, keywords
from pretrain.backbone_config import BackboneConfig
from pretrain.config import EncoderConfig
from pretrain.distillation_config import DistillationConfig
from pretrain.encoder import create_classifier, create_encoder, initialize_encoder
from pretrain.model_folder import Prepared, save_folder, save_model
from pretrain.pixels import Normalization
from pretrain.teacher_cache_config import TeacherCacheConfig

ENCODER = EncoderConfig("vit_tiny_patch16_224", (8, 8), (2, 2), width=24, depth=2, heads=3)
HALF = Normalization((0.5,) * 3, (0.5,) * 3)
HOSTILE = '<script>alert("&")</script>'


class _Elements(html.parser.HTMLParser):
    """Names and attributes of all elements, and the text outside of styles; fails where tags do not match."""

    VOID = frozenset({"meta", "link", "img", "wbr", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data

    def all(self, attribute: str) -> list[str]:
        return [value for _, attributes in self.found if (value := attributes.get(attribute)) is not None]


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def _page(*folders: Path) -> _Elements:
    said: list[str] = []
    page = build_page([read_folder(str(folder)) for folder in folders], 2, said.append)
    assert [line.split()[1] for line in said] == [str(folder) for folder in folders]
    return _Elements(page)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of a few images in two classes."""
    folder = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cats & dogs", "fish"):
            (folder / "images" / split / name).mkdir(parents=True)
            for number in range(2):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "images" / split / name / f"{number}.png")
    config = ShardConfig(source=str(folder / "images"), out=str(folder / "data"), workers=1)
    shard_dataset(config, Console(rank=1))
    return folder / "data"


@pytest.fixture(scope="module")
def pretrained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished pre-training run."""
    run = tmp_path_factory.mktemp("pretrained") / "run"
    config = {"recipe": "digits", "encoder": {"image_size": [8, 8]}, "batch_size": 64, "data": str(data)}
    _write(run / "config.json", {**config, "split": "train", "held_out": "test", "objective": {"mask_ratio": 0.75}})
    _write(run / "environment.json", {"versions": {"torch": "2"}})
    _write(run / "exit.json", {"status": "done", "step": 30})
    rates = {"lr": 1e-3, "images_per_second": 640.0, "data_wait": 0.1, "memory": 1}
    lines = [{"step": step, "epoch": step / 10, "loss": 1 / step, **rates} for step in range(1, 31)]
    lines.append({"step": 30, "epoch": 3.0, "knn_top1": 0.75, "evaluation_seconds": 1.0})
    _write(run / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    (run / "figures").mkdir()
    Image.new("RGB", (30, 20)).save(run / "figures/reconstruction-epoch-00003.0.png")
    encoder = create_encoder(ENCODER)
    initialize_encoder(encoder, torch.Generator().manual_seed(0))
    save_model(run / "encoder", encoder, ENCODER, HALF)
    return run


@pytest.fixture(scope="module")
def tuned(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished fine-tuning run, its classes with a name that would be a script."""
    run = tmp_path_factory.mktemp("tuned") / "run"
    config = json.loads((pretrained / "config.json").read_text())
    del config["objective"]
    _write(run / "config.json", {**config, "init": HOSTILE, "labels": 5, "mixing": {"mixup": 0.8, "cutmix": 0.0}})
    for name in ("environment.json", "exit.json", "metrics.jsonl"):
        shutil.copy(pretrained / name, run / name)
    accuracies = {"top1": 0.75, "top5": 1.0, "mean_class_accuracy": 0.75, "nll": 0.5}
    sizes = {"step": 30, "split": "test", "images": 4, "undecodable": 0}
    classes = {"classes": [HOSTILE, "fish"], "images_per_class": [2, 2], "confusion": [[1, 1], [0, 2]]}
    _write(run / "evaluation.json", {**sizes, **accuracies, **classes})
    model = create_classifier(ENCODER, classes=2, pool="mean", drop_path=0.0)
    initialize_encoder(model, torch.Generator().manual_seed(0))
    save_model(run / "model", model, ENCODER, HALF, class_names=(HOSTILE, "fish"))
    return run


def test_a_page_needs_nothing_else_and_its_links_lead_somewhere(pretrained: Path, tuned: Path):
    page = _page(pretrained, tuned)
    ids = page.all("id")
    assert len(ids) == len(set(ids))
    assert all(source.startswith("data:image/") for source in page.all("src"))
    links = [link for link in page.all("href") if link != "data:,"]
    assert all(link.startswith("#") and link[1:] in ids for link in links)
    assert not {"script", "iframe", "object"} & {tag for tag, _ in page.found}
    assert [attributes for tag, attributes in page.found if tag == "img" and not attributes.get("alt")] == []
    assert "default-src 'none'" in str(page.all("content"))


def test_every_figure_has_a_caption_that_names_its_file(pretrained: Path, tuned: Path):
    page = build_page([read_folder(str(pretrained)), read_folder(str(tuned))], 1, lambda _: None)
    figures = re.findall(r"<figure.*?</figure>", page, re.DOTALL)
    assert len(figures) >= 14
    assert all(re.search(r"<figcaption>\w[^<]{20,}<span class=\"sources\"><code>", figure) for figure in figures)


def test_a_pre_training_run(pretrained: Path, data: Path):
    page = _page(pretrained)
    for text in ("pre-training", "75.0% k-NN top-1", "30", "0:00:04", "mask_ratio", "Reconstructions", "640"):
        assert text in page.text, text
    assert f"on images of {data} [test]" in page.text
    tiles = [label for label in page.all("alt") if label.startswith(("mean:", "head "))]
    assert len(tiles) == 2 * 4
    assert any("cats & dogs" in label for label in tiles) or any("fish" in label for label in tiles)
    assert "objective.mask_ratio" in page.text
    assert "Not shown" not in page.text


def test_a_fine_tuning_run_with_everything_escaped(tuned: Path):
    page = _page(tuned)
    assert "fine-tuning, 5 labels a class" in page.text
    assert page.text.count(HOSTILE) >= 4  # in the matrix, twice in its margins, among the bars, in the settings
    assert any(title.startswith(f"{HOSTILE} taken for fish: 1 (50.0 %)") for title in page.all("title"))
    assert "not by its class token" in page.text
    assert "of mixed images and labels" in page.text


def _taught(run: Path, like: Path, **settings: Any) -> dict[str, Any]:
    """Turn a copy of a finished run into one that was taught; its settings."""
    shutil.copytree(like, run)
    config = json.loads((like / "config.json").read_text())
    config = {name: value for name, value in config.items() if name != "objective"} | settings
    _write(run / "config.json", config)
    _write(run / "teacher.json", {"name": "/runs/big", "architecture": "resnet18", "sha256": "5" * 64})
    lines = [json.loads(line) for line in (like / "metrics.jsonl").read_text().splitlines()]
    more = {"teacher": 0.4, "teacher_loss": 0.7, "agreement": 0.625} if "distillation" in settings else {"teacher": 0.4}
    more |= {} if "distillation" in settings else {"class_distance": 0.3, "patch_distance": 0.2}
    lines = [{**line, **more} if "loss" in line else line for line in lines]
    _write(run / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    return config


def test_a_distilled_run(tuned: Path, tmp_path: Path):
    run = tmp_path / "run"
    soft = {"distillation": to_json(DistillationConfig("soft", alpha=0.25, temperature=3.0))}
    cache = {"cache_teacher": to_json(TeacherCacheConfig(views=4, classes=16))}
    config = _taught(run, tuned, **soft, **cache, teacher="/runs/big", labels=5)
    page = _page(run)
    for text in (
        "distillation, 5 labels a class",
        "resnet18",
        "5" * 64,
        "soft: the teacher's probabilities, at temperature 3; alpha 0.25",
        "computed once, of 4 fixed views of each image, the 16 likeliest classes of each",
        "share of the time in training40.0%",
        "the teacher's part in it before weighing",
        "at the end 62.5%",
        "and in which the teacher computes (mean 40.0%)",
    ):
        assert text in page.text.replace("\n", ""), text
    assert "Not shown" not in page.text
    _write(run / "config.json", {**config, "teacher": "own"})
    (table,) = teacher_blocks(read_folder(str(run)), "")
    assert isinstance(table, Table)
    assert ("trained", "first, by this run, on the same labels") in table.rows
    (run / "teacher.json").unlink()
    with pytest.raises(ValueError, match=r"^teacher\.json is not there$"):
        teacher_blocks(read_folder(str(run)), "")


def test_a_run_without_a_teacher_has_a_distillation_token_and_maps(tuned: Path, tmp_path: Path):
    run = tmp_path / "run"
    _taught(run, tuned, distillation={}, teacher="none", init="none")
    backbone = BackboneConfig("deit_tiny_distilled_patch16_224", (8, 8), (2, 2), width=24, depth=2, heads=3)
    model = create_backbone(backbone, classes=2, pool="own", drop_path=0.0, seed=0)
    shutil.rmtree(run / "model")
    how = Prepared((3, 8, 8), HALF, 1.0)
    save_folder(run / "model", model, keywords(backbone, "own"), how, class_names=("a", "b"), guard=None)
    page = _page(run)
    assert "the rest stays on the class and the distillation token" in page.text
    assert "of the 4 x 4 to those of all patches" in page.text
    assert "training from scratch, 5 labels a class" in page.text
    assert "Not shown" not in page.text


def test_an_encoder_from_features(pretrained: Path, tmp_path: Path):
    run = tmp_path / "run"
    cache = {"cache_teacher": to_json(TeacherCacheConfig(views=2))}
    _taught(run, pretrained, class_weight=1.0, patch_weight=0.5, teacher="/runs/big", **cache)
    page = _page(run)
    assert "computed once, of 2 fixed views of each image" in page.text
    assert "feature distillation" in page.text
    assert "by their cosines, the teacher's class token (weight 1) and patch tokens (0.5)" in page.text
    assert "class token and patches in it before weighing" in page.text
    assert "Reconstructions" not in page.text
    assert "Not shown" not in page.text


def test_what_is_missing_is_told(pretrained: Path, tuned: Path, tmp_path: Path):
    config = json.loads((pretrained / "config.json").read_text())
    _write(tmp_path / "begun/config.json", {**config, "data": "/gone"})
    _write(tmp_path / "failed/config.json", config)
    _write(tmp_path / "failed/exit.json", {"status": "failed", "error": f"a {HOSTILE} was met"})
    shutil.copytree(tuned, tmp_path / "damaged")
    damaged = {name: value for name, value in config.items() if name != "objective"}
    _write(tmp_path / "damaged/config.json", {**damaged, "init": "none", "labels": None, "data": "/gone"})
    _write(tmp_path / "damaged/evaluation.json", '{"step": 1')
    (tmp_path / "damaged/model/model.safetensors").write_bytes(b"torn")
    shutil.copytree(pretrained, tmp_path / "moved")
    _write(tmp_path / "moved/config.json", {**config, "data": "/gone"})
    page = _page(tmp_path / "begun", tmp_path / "failed", tmp_path / "damaged", tmp_path / "moved")
    for told in (
        "exit.json is not there: the run is still going on, or was killed.",
        "metrics.jsonl holds no training step yet: no loss curve.",
        "metrics.jsonl holds no rates: no throughput.",
        "figures/ holds no reconstruction yet",
        "environment.json is not there: no environment.",
        "this run has no finished encoder",
        f"The run failed: a {HOSTILE} was met",
        "evaluation.json: not valid JSON",
        "dataset folder /gone is not there",
        "model.safetensors is not a readable safetensors file",
    ):
        assert told in page.text, told
    assert "training from scratch" in page.text


def test_a_damaged_dataset_costs_only_the_attention(pretrained: Path, data: Path, tmp_path: Path):
    shutil.copytree(pretrained, tmp_path / "run")
    shutil.copytree(data, tmp_path / "data")
    config = json.loads((pretrained / "config.json").read_text())
    _write(tmp_path / "run/config.json", {**config, "data": str(tmp_path / "data")})
    (shard,) = (tmp_path / "data").glob("test-*.tar")
    shard.write_bytes(bytes(shard.stat().st_size))
    page = _page(tmp_path / "run")
    assert "Not shown: " in page.text
    assert shard.name in page.text
    assert "Cosine similarity of the position embedding" in page.text


def test_without_a_held_out_split_the_images_are_of_the_training_split(pretrained: Path, data: Path, tmp_path: Path):
    shutil.copytree(pretrained, tmp_path / "run")
    config = json.loads((pretrained / "config.json").read_text())
    _write(tmp_path / "run/config.json", {**config, "held_out": "validation"})
    assert f"on images of {data} [train]" in _page(tmp_path / "run").text


def test_results_alone_are_enough(tmp_path: Path):
    row = {"labels": 10, "images": 100, "seeds": [0], "pixels_1nn": [0.5], "scratch": {"top1": [0.4]}}
    found = {"data": "d", "init": "i", "rows": [{**row, "pretrained": {"top1": [0.625]}}]}
    _write(tmp_path / "benchmark/benchmark.json", found)
    page = _page(tmp_path / "benchmark")
    assert "62.5% pre-trained" in page.text
    assert "running or killed" not in page.text
    assert "+22.5" in page.text
