"""The licence follows the weights back, however many runs lie between, and what is not commercial stays so."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from finetune.classify_config import ClassifyConfig
from finetune.finished_run import FinishedRun
from finetune.licences import Licence, find_licence
from finetune.released_weights import released_as, timm_licence
from launch.strict_json import to_json
from pretrain.backbone_config import BackboneConfig
from pretrain.config import EncoderConfig, OptimizerConfig
from pretrain.mae_config import MaeConfig

CLASSIFY = ClassifyConfig(
    encoder=BackboneConfig("vit_tiny_patch16_224", (8, 8), (2, 2), width=24, depth=2, heads=2),
    epochs=10.0,
    batch_size=8,
    optimizer=OptimizerConfig(warmup_epochs=1.0),
    data="/home/secret/pets",
    init="none",
    out="/home/secret/out",
)
ENCODER = EncoderConfig("vit_tiny_patch16_224", (8, 8), (2, 2), width=24, depth=2, heads=2)
MAE = MaeConfig(encoder=ENCODER, epochs=100.0, batch_size=8, data="/home/secret/pets", out="/home/secret/out")
NON_COMMERCIAL = "cc-by-nc-4.0"

Start = Callable[..., FinishedRun]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The Hub is out of reach, and its cache empty."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def start(tmp_path: Path, finish: Callable[..., FinishedRun]) -> Start:
    """A run that started from something, or went on from another run."""

    def started(init: object, resume: str | None = None) -> FinishedRun:
        return finish(tmp_path / "run", dataclasses.replace(CLASSIFY, init=str(init), resume=resume))

    return started


def run_in(folder: Path, config: ClassifyConfig | MaeConfig, **changes: Any) -> Path:
    """What is left of a run that a chain leads through."""
    (folder / "encoder").mkdir(parents=True)
    settings = {"recipe": "r", **to_json(dataclasses.replace(config, **changes))}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "encoder" / "config.json").write_text(json.dumps({"sherd": "0.1", "pretrained_cfg": {}}))
    return folder


def model_in(folder: Path, front_matter: str | None = None, **config: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    if front_matter is not None:
        (folder / "README.md").write_text(f"---\n{front_matter}\n---\n# x\n")
    return folder


def card_in_cache(cache: Path, repository: str, front_matter: str) -> None:
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("c" * 40)
    (folder / "snapshots" / ("c" * 40)).mkdir(parents=True)
    (folder / "snapshots" / ("c" * 40) / "README.md").write_text(f"---\n{front_matter}\n---\n")


@pytest.mark.parametrize(
    ("name", "licence"),
    [
        ("mae_pretrain_vit_base.pth", NON_COMMERCIAL),
        ("mae_visualize_vit_large_ganloss.pth", NON_COMMERCIAL),
        ("mae_finetuned_vit_huge_448.pth", NON_COMMERCIAL),
        ("facebook/vit-mae-large", NON_COMMERCIAL),
        ("timm/vit_base_patch16_224.mae", NON_COMMERCIAL),
        ("vit_huge_patch14_224.mae", NON_COMMERCIAL),
        ("facebook/deit-base-distilled-patch16-224", "apache-2.0"),
        ("deit_tiny_patch16_224-a1311bcf.pth", "apache-2.0"),
        ("timm/deit3_base_patch16_224.fb_in1k", "apache-2.0"),
        ("timm/vit_base_patch16_224.augreg_in21k", None),
        ("somebody/vit-mae-base", None),
        ("my_mae_pretrain_vit.pth", None),
    ],
)
def test_released_weights_are_known_by_name(name: str, licence: str | None):
    known = released_as(name)
    assert (None if known is None else known.licence) == licence


def test_what_timm_says_agrees_with_the_table():
    assert timm_licence("vit_base_patch16_224.mae") == NON_COMMERCIAL
    assert timm_licence("deit3_base_patch16_224.fb_in1k") == "apache-2.0"
    assert timm_licence("no_such_model.tag") is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("license: cc-by-nc-4.0", ("cc-by-nc-4.0", r"that of my\_base, which training started from")),
        ("license: [MIT]", ("mit", r"that of my\_base, which training started from")),
        ("license: other", ("other", "no licence was stated")),
        ("tags: [x]", ("other", "no licence was stated")),
        (None, ("other", "no licence was stated")),
    ],
)
def test_a_model_folders_card_says(start: Start, tmp_path: Path, content: str | None, expected: tuple[str, str]):
    found = find_licence(None, start(model_in(tmp_path / "my_base", content)))
    assert found.identifier == expected[0]
    assert found.reason.startswith(expected[1])
    assert found.chain == ""


def test_new_weights_have_the_licence_that_is_asked_for(start: Start):
    run = start("none")
    assert find_licence("mit", run) == Licence("mit", "as stated by who published it")
    assert find_licence(None, run).identifier == "other"


def test_a_licence_that_the_hub_has_no_name_for_is_passed_on(start: Start, cache: Path):
    card_in_cache(cache, "meta/big", "license: other\nlicense_name: big-licence\nlicense_link: LICENSE")
    found = find_licence(None, start("hf://meta/big"))
    assert (found.identifier, found.name, found.shown) == ("other", "big-licence", "big-licence")
    assert found.link == "https://huggingface.co/meta/big/blob/main/LICENSE"


def test_the_chain_goes_through_runs(start: Start, tmp_path: Path):
    first = run_in(tmp_path / "first", MAE, init_from="/gone/mae_visualize_vit_base.pth")
    second = run_in(tmp_path / "second", MAE, init_from=str(first))
    run = start(second / "encoder")
    found = find_licence(None, run)
    assert found.identifier == NON_COMMERCIAL
    assert found.reason == (
        r"that of mae\_visualize\_vit\_base.pth (MAE's released weights), which training started from by way of second "
        "and first"
    )
    assert found.chain == (
        r"Training started from second (a run), that from first (a run), that from mae\_visualize\_vit\_base.pth "
        "(cc-by-nc-4.0, of MAE's released weights)."
    )
    assert "/gone" not in found.chain
    assert find_licence("cc-by-nc-sa-4.0", run).chain == found.chain
    assert find_licence("cc-by-nc-sa-4.0", run).identifier == "cc-by-nc-sa-4.0"
    with pytest.raises(
        ValueError,
        match=r"--license apache-2\.0: training started from second .*mae.*: cc-by-nc-4\.0 allows no commercial use, "
        r".*give --license cc-by-nc-4\.0, or leave it out",
    ):
        find_licence("apache-2.0", run)


def test_a_run_that_goes_on_from_another_has_its_origins(start: Start, tmp_path: Path):
    other = run_in(tmp_path / "other", CLASSIFY, init="hf://facebook/vit-mae-base")
    found = find_licence(None, start("none", resume=str(other)))
    assert (found.identifier, found.base_model) == (NON_COMMERCIAL, "facebook/vit-mae-base")


def test_a_card_that_claims_more_than_its_base_model_allows(start: Start, tmp_path: Path):
    claimed = model_in(tmp_path / "tuned", "license: apache-2.0\nbase_model: facebook/vit-mae-base")
    assert find_licence(None, start(claimed)).identifier == NON_COMMERCIAL


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "vit_base_patch16_224", "pretrained_cfg": {"tag": "mae"}},
        {"architectures": ["ViTMAEForPreTraining"], "_name_or_path": "facebook/vit-mae-base"},
    ],
)
def test_a_copy_is_known_by_what_the_library_wrote_of_it(start: Start, tmp_path: Path, config: dict[str, Any]):
    copy = model_in(tmp_path / "copy", "license: apache-2.0", **config)
    assert find_licence(None, start(copy)).identifier == NON_COMMERCIAL


def test_a_folder_of_a_run_may_be_called_as_it_likes(start: Start, tmp_path: Path):
    mine = run_in(tmp_path / "mae_pretrain_vit_mine", MAE)
    asked = find_licence("mit", start(mine))
    assert (asked.identifier, asked.chain) == ("mit", "")


def test_a_licence_that_is_asked_for_hides_no_other(start: Start, tmp_path: Path):
    asked = find_licence("mit", start(model_in(tmp_path / "base", "license: gpl-3.0")))
    assert (asked.identifier, asked.chain) == ("mit", "Training started from base (gpl-3.0, says its card).")


def test_a_relative_path_is_meant_from_where_the_run_was_started(start: Start, tmp_path: Path):
    base = run_in(tmp_path / "work" / "base", MAE, out="base", init_from="released/mae_pretrain_vit_base")
    released = model_in_parents(tmp_path / "work" / "released" / "mae_pretrain_vit_base")
    assert released.is_dir()
    assert find_licence(None, start(base)).identifier == NON_COMMERCIAL


def model_in_parents(folder: Path) -> Path:
    folder.parent.mkdir(parents=True)
    return model_in(folder, architecture="vit_base_patch16_224")


def test_what_runs_in_a_circle_ends(start: Start, tmp_path: Path):
    run_in(tmp_path / "a", MAE, init_from=str(tmp_path / "b"))
    run_in(tmp_path / "b", MAE, init_from=str(tmp_path / "a"))
    assert find_licence(None, start(tmp_path / "a")).identifier == "other"


def test_the_hubs_card_is_read_from_its_cache(start: Start, cache: Path):
    card_in_cache(cache, "some-one/base", "license: bsd-3-clause")
    found = find_licence(None, start("hf://some-one/base"))
    assert (found.identifier, found.base_model) == ("bsd-3-clause", "some-one/base")
    assert found.reason == "that of some-one/base, which training started from"


def test_a_card_that_cannot_be_read_on_the_hub_is_told_of(start: Start):
    found = find_licence(None, start("hf://some-one/base"))
    assert found.identifier == "other"
    assert "some-one/base, which training started from, could not be looked up on the Hub" in found.reason
    assert find_licence(None, start("hf://timm/resnet18.a1_in1k")).reason.startswith("that of timm/resnet18.a1")


def test_what_is_gone_is_told_of(start: Start):
    found = find_licence(None, start("/home/secret/runs/old"))
    assert "old, which training started from, is not there any more" in found.reason
    assert "secret" not in found.reason + found.chain


@pytest.mark.parametrize("metadata", ["license: [", "just text"])
def test_a_damaged_card_asks_for_the_licence(start: Start, tmp_path: Path, metadata: str):
    run = start(model_in(tmp_path / "base", metadata))
    with pytest.raises(ValueError, match=r"README\.md: its front matter cannot be read .*; give --license"):
        find_licence(None, run)
    assert find_licence("mit", run).identifier == "mit"
