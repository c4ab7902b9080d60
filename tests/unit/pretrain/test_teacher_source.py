"""Where a teacher comes from: each way of naming one, and what is said where it names none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import PretrainedCfg, get_pretrained_cfg
from torch import nn

from pretrain import teacher_source, weight_files
from pretrain.architectures import complete, create_backbone, keywords
from pretrain.backbone_config import BackboneConfig
from pretrain.model_folder import Prepared, save_folder
from pretrain.model_source import ModelSource
from pretrain.pixels import Normalization
from pretrain.teacher_source import build_teacher, find_teacher, named_architecture

RESNET = BackboneConfig("test_resnet", (32, 32))
NORMALIZATION = Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def written(folder: Path, classes: int = 4) -> nn.Module:
    folder.parent.mkdir(exist_ok=True)
    model = create_backbone(RESNET, classes=classes, pool="own", drop_path=0.0, seed=0).eval()
    prepared = Prepared((3, 32, 32), NORMALIZATION, 0.9)
    save_folder(folder, model, keywords(complete(RESNET), "own"), prepared, class_names=None, guard=None)
    return model


def assert_is(source: ModelSource, model: nn.Module) -> None:
    found = build_teacher(source)
    assert not found.training
    assert not any(parameter.requires_grad for parameter in found.parameters())
    expected = model.state_dict()
    assert found.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())


def refusal(where: Path | str, architecture: BackboneConfig | None = None) -> str:
    with pytest.raises(ValueError, match="--teacher") as caught:
        find_teacher(str(where), architecture=architecture)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every repository of the Hub holds this model; which were asked for."""
    asked: list[str] = []
    written(tmp_path / "hub")

    def download(repository: str, **_: Any) -> str:
        asked.append(repository)
        return str(tmp_path / "hub")

    monkeypatch.setattr(weight_files, "snapshot_download", download)
    return asked


def test_a_model_folder_and_a_finished_run(tmp_path: Path):
    model = written(tmp_path / "run/model")
    (tmp_path / "run/config.json").write_text('{"recipe": "small"}')
    for where in (tmp_path / "run", tmp_path / "run/model"):
        source = find_teacher(str(where), architecture=None)
        assert (source.name, source.classes, source.normalization) == (str(where), 4, NORMALIZATION)
        assert source.backbone.size == (32, 32)
        assert_is(source, model)
    assert refusal(tmp_path / "run", RESNET) == (
        f"--teacher {tmp_path / 'run'}: is known to be a test_resnet; drop --teacher-architecture, which is for a file "
        "of weights"
    )
    (tmp_path / "run/model/model.safetensors").unlink()
    assert "this run has no finished encoder" in refusal(tmp_path / "run")
    assert "found a folder without config.json" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("where", "repository"),
    [
        ("regnety_160.deit_in1k", "timm/regnety_160.deit_in1k"),
        ("resnet18", "timm/resnet18.a1_in1k"),  # timm's default
        ("rdnet_tiny.nv_in1k", "naver-ai/rdnet_tiny.nv_in1k"),
        ("hf://timm/resnet18.a1_in1k", "timm/resnet18.a1_in1k"),
    ],
)
def test_a_name_of_timms_and_of_the_hub(hub: list[str], where: str, repository: str):
    source = find_teacher(where, architecture=None)
    assert hub == [repository]
    assert source.name == f"hf://{repository}"  # with the tag, for whoever left it out
    assert build_teacher(source)(torch.zeros(1, 3, 32, 32)).shape == (1, 4)
    assert "is known to be a" in refusal(where, RESNET)


def test_a_folder_goes_before_a_name_of_timms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: list[str]):
    monkeypatch.chdir(tmp_path)
    model = written(Path("resnet18"))
    assert_is(find_teacher("resnet18", architecture=None), model)
    assert hub == []


def test_names_without_weights_are_refused_with_the_closest_that_have_some(hub: list[str]):
    assert refusal("resnet18.a7_in1k").startswith(
        f"--teacher resnet18.a7_in1k: timm {timm.__version__} has no weights of this name, expected one that has some; "
        "the closest: resnet18.a"
    )
    assert "has no weights of this name, expected one that has some; the closest: cspresnet50, " in refusal(
        "cspresnet50d"
    )
    told = refusal("resnet_18")
    assert "--teacher resnet_18: expected a run folder that " in told
    assert "found no such file or folder, nor such a name; the closest names: resnet18, " in told
    assert hub == []


def test_weights_that_are_not_on_the_hub_are_to_be_downloaded(monkeypatch: pytest.MonkeyPatch, hub: list[str]):
    def stated(name: str) -> PretrainedCfg | None:
        found = get_pretrained_cfg(name)
        if found is not None:
            found.hf_hub_id, found.url = None, "https://somewhere.org/resnet18.pth"
        return found

    monkeypatch.setattr(teacher_source, "get_pretrained_cfg", stated)
    assert refusal("resnet18.a1_in1k") == (
        f"--teacher resnet18.a1_in1k: expected weights on the Hub, found that timm {timm.__version__} has them at "
        "https://somewhere.org/resnet18.pth alone; download that file and give its path, with --teacher-architecture "
        "resnet18"
    )
    assert hub == []


def test_what_is_nowhere(hub: list[str]):
    for where in ("timm/resnet18.a1_in1k", "hf-hub:timm/resnet18.a1_in1k"):
        told = refusal(where)
        assert told.endswith("found no such file or folder; on the Hub it would be hf://timm/resnet18.a1_in1k")
    assert refusal("runs/of/mine").endswith("found no such file or folder")
    assert "download the file and give its path" in refusal("https://somewhere.org/teacher.pth")
    assert "expected hf://user/name" in refusal("hf://teacher")
    assert "secret" not in refusal("s3://user:secret@bucket/teacher")
    assert hub == []


def resnet() -> nn.Module:
    return create_backbone(BackboneConfig("test_resnet"), classes=7, pool="own", drop_path=0.0, seed=0)


def distilled() -> nn.Module:
    config = complete(BackboneConfig("deit_tiny_distilled_patch16_224"))
    return create_backbone(config, classes=7, pool="own", drop_path=0.0, seed=0)


def mean_pooled() -> nn.Module:
    return create_backbone(BackboneConfig("test_vit", (160, 160)), classes=7, pool="mean", drop_path=0.0, seed=0)


@pytest.mark.parametrize(
    ("architecture", "create"),
    [("test_resnet", resnet), ("deit_tiny_distilled_patch16_224", distilled), ("test_vit", mean_pooled)],
)
def test_a_file_of_weights_is_what_its_names_and_shapes_say(
    tmp_path: Path, architecture: str, create: Callable[[], nn.Module]
):
    model, path = create(), tmp_path / "teacher.safetensors"
    save_file(model.state_dict(), path)
    source = find_teacher(str(path), architecture=BackboneConfig(architecture))
    stated = get_pretrained_cfg(architecture)
    assert stated is not None
    assert (source.classes, source.class_names, source.weights) == (7, None, path)
    assert source.normalization == Normalization(tuple(stated.mean), tuple(stated.std))
    assert source.backbone.size == stated.input_size[1:]
    assert_is(source, model)
    torch.save({"model": model.state_dict()}, path.with_suffix(".pth"))
    assert_is(find_teacher(str(path.with_suffix(".pth")), architecture=BackboneConfig(architecture)), model)


def test_weights_of_older_versions_of_timm_are_adapted(tmp_path: Path):
    arguments = ("embed_dim=12", "depths=(1,1,1,1)", "num_heads=(1,1,2,2)", "window_size=4")
    config = BackboneConfig("swin_tiny_patch4_window7_224", (32, 32), arguments=arguments)
    model, path = create_backbone(config, classes=7, pool="own", drop_path=0.0, seed=0), tmp_path / "w.safetensors"
    tables = {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(16, 16)}  # which it keeps no more
    save_file({**model.state_dict(), **tables}, path)
    source = find_teacher(str(path), architecture=config)
    assert source.classes == 7
    assert_is(source, model)


def test_a_file_without_a_head_is_a_model_without_one(tmp_path: Path):
    model, path = timm.create_model("test_resnet", num_classes=0), tmp_path / "w.safetensors"
    save_file(model.state_dict(), path)
    source = find_teacher(str(path), architecture=BackboneConfig("test_resnet"))
    assert source.classes == 0
    assert_is(source, model)


def test_files_that_do_not_say_what_they_are(tmp_path: Path):
    written(tmp_path / "model")
    weights = tmp_path / "model/model.safetensors"
    assert refusal(weights) == (
        f"--teacher {weights}: a file of weights does not say of which model they are; give its folder, "
        f"{tmp_path / 'model'}, which says it"
    )
    (tmp_path / "model/config.json").unlink()
    assert refusal(weights).endswith(
        "give its name in timm, such as --teacher-architecture resnet18, or a folder with a timm model"
    )
    assert "--teacher-architecture resnet_18: expected a model of timm" in refusal(weights, BackboneConfig("resnet_18"))
    assert "its images of 5 channels were normalised is not known" in refusal(
        weights, BackboneConfig("test_resnet", channels=5)
    )
    (tmp_path / "w.npz").write_bytes(b"")
    assert "w.npz: a file of another kind" in refusal(tmp_path / "w.npz", RESNET)


def test_weights_of_another_model_or_size_are_refused(tmp_path: Path):
    path = tmp_path / "w.safetensors"
    save_file(resnet().state_dict(), path)
    with pytest.raises(ValueError, match=r"w\.safetensors does not fit the model: missing "):
        build_teacher(find_teacher(str(path), architecture=BackboneConfig("test_vit")))
    model = timm.create_model("test_vit", img_size=192, num_classes=3)
    save_file(model.state_dict(), path)
    with pytest.raises(
        ValueError,
        match=r"a test_vit for images of 160 x 160, found others: pos_embed resized from 1 x 145 x 64 to 1 x",
    ):
        build_teacher(find_teacher(str(path), architecture=BackboneConfig("test_vit")))
    save_file({name: tensor for name, tensor in model.state_dict().items() if name != "head.bias"}, path)
    source = find_teacher(str(path), architecture=BackboneConfig("test_vit", (192, 192)))
    with pytest.raises(ValueError, match=r"of 192 x 192, found others: head\.bias is missing; give the model"):
        build_teacher(source)


def test_an_architecture_is_named_without_weights():
    assert named_architecture(None, 3) is None
    assert named_architecture("resnet18", 1) == BackboneConfig("resnet18", channels=1)
    with pytest.raises(ValueError, match=r"--teacher-architecture resnet18\.a1_in1k names .* such as resnet18; the"):
        named_architecture("resnet18.a1_in1k", 3)
