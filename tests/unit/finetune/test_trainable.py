"""What `--trainable` lets train, and that the rest stays as it is, statistics of batch norms included."""

import copy

import pytest
import timm
import torch
from torch import nn

from finetune.trainable import freeze
from finetune.trainable_config import Trainable, parse_trainable
from pretrain.config import OptimizerConfig
from pretrain.optimizer import create_optimizer, exempt_parameters


def create(name: str, **changes) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, num_classes=10, **changes)


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def parts(model: nn.Module, depth: int = 1) -> set[str]:
    return {".".join(name.split(".")[:depth]) for name in trained(model)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", Trainable("all")),
        ("head", Trainable("head")),
        ("last:4", Trainable("last", 4)),
        ("norms", Trainable("norms")),
        ("bias", Trainable("bias")),
    ],
)
def test_what_can_be_asked_for(text: str, expected: Trainable):
    assert parse_trainable(text) == expected


@pytest.mark.parametrize("text", ["", "last", "last:", "last:-1", "last:four", "Head", "last:4 "])
def test_anything_else_is_refused(text: str):
    message = rf"^--trainable expects all, head, last:N \(the head .*\), norms or bias, got {text}$"
    with pytest.raises(ValueError, match=message):
        parse_trainable(text)


def test_no_layer_before_the_head_is_the_head():
    with pytest.raises(ValueError, match=r"^--trainable last:0 trains no layer before the head, .*; pass head$"):
        parse_trainable("last:0")


def test_all_leaves_everything_as_it_is():
    model = create("test_vit")
    model.get_parameter("pos_embed").requires_grad_(False)
    total, fixed = sum(parameter.numel() for parameter in model.parameters()), model.get_parameter("pos_embed").numel()
    assert freeze(model, Trainable("all")) == (
        f"{total - fixed:,} of {total:,} parameters train ({1 - fixed / total:.2%}): whatever was not frozen before"
    )
    assert trained(model) == {name for name, _ in model.named_parameters()} - {"pos_embed"}
    assert freeze(create("vit_tiny_patch16_224"), Trainable("all")) == "all 5,526,346 parameters train"


def test_the_head_of_a_vision_transformer_has_the_final_norm():
    model = create("vit_tiny_patch16_224")
    assert freeze(model, Trainable("head")) == "2,314 of 5,526,346 parameters train (0.04%): norm, head"
    assert parts(model) == {"norm", "head"}


def test_the_last_blocks_and_the_head():
    model = create("vit_tiny_patch16_224")
    said = freeze(model, Trainable("last", 2))
    assert said == "892,042 of 5,526,346 parameters train (16.14%): from blocks.10 on, with norm, head"
    assert parts(model, 2) == {"blocks.10", "blocks.11", "norm.weight", "norm.bias", "head.weight", "head.bias"}
    freeze(model, Trainable("head"))
    assert parts(model) == {"norm", "head"}


def test_all_blocks_leave_the_embedding():
    model = create("vit_tiny_patch16_224")
    freeze(model, Trainable("last", 12))
    assert parts(model) == {"blocks", "norm", "head"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("swin_tiny_patch4_window7_224", {"layers.3", "norm.weight", "norm.bias", "head.fc"}),
        ("pvt_v2_b0", {"stages.2", "stages.3", "head.weight", "head.bias"}),
        ("coatnet_0_rw_224", {"stages.2", "stages.3", "norm.weight", "norm.bias", "head.fc"}),
        ("convnext_atto", {"stages.3", "head.norm", "head.fc"}),
        ("resnet18", {"layer4.0", "layer4.1", "fc.weight", "fc.bias"}),
        (
            "efficientnet_b0",
            {"blocks.5", "blocks.6", "conv_head.weight", "bn2.weight", "bn2.bias", "classifier.weight"}
            | {"classifier.bias"},
        ),
    ],
)
def test_the_last_two_layers_of_other_families(name: str, expected: set[str]):
    model = create(name)
    freeze(model, Trainable("last", 2))
    assert parts(model, 2) == expected


def test_more_layers_than_there_are_are_refused():
    model = create("vit_tiny_patch16_224")
    message = (
        r"^--trainable last:13: VisionTransformer has 12 layers between its first "
        r"\(cls_token, pos_embed, patch_embed\) and its head; pass at most last:12, or all$"
    )
    with pytest.raises(ValueError, match=message):
        freeze(model, Trainable("last", 13))
    with pytest.raises(ValueError, match=r"^MetaFormer has no group_matcher, .*; pass --trainable all$"):
        freeze(create("caformer_s18"), Trainable("head"))


def test_norms_or_biases_and_the_head():
    model = create("vit_tiny_patch16_224", depth=1)
    norms = {f"blocks.0.{norm}.{kind}" for norm in ("norm1", "norm2") for kind in ("weight", "bias")}
    head = {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    said = freeze(model, Trainable("norms"))
    assert said.endswith(": every norm, and norm, head")
    assert trained(model) == norms | head
    model = create("vit_tiny_patch16_224", depth=1)
    linears = {f"blocks.0.{layer}.bias" for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    assert freeze(model, Trainable("bias")).endswith(": every bias, and norm, head")
    biases = {name for name in norms if name.endswith("bias")}
    assert trained(model) == biases | linears | head | {"patch_embed.proj.bias"}


def test_biases_do_not_take_tables_of_biases_along():
    model = create("swin_tiny_patch4_window7_224")
    freeze(model, Trainable("bias"))
    assert not any("table" in name for name in trained(model))


def test_statistics_of_frozen_batch_norms_stay_and_those_of_others_move():
    model = timm.create_model("test_resnet", num_classes=3)
    said = freeze(model, Trainable("last", 1))
    frozen = {name for name, buffer in model.named_buffers() if not name.startswith("layer4")}
    counts = sum(name.endswith("running_mean") for name in frozen)
    assert said.endswith(f"from layer4 on, with fc; {counts} batch norms keep their running statistics")
    optimizer = create_optimizer(model, OptimizerConfig(), exempt=exempt_parameters(model), layer_decay=0.8)
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before = copy.deepcopy(model.state_dict())
    for _ in range(2):
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = 0.01
        model(images).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        model.eval()
        model(images)
    moving = trained(model) | {name for name, _ in model.named_buffers()} - frozen
    assert {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])} == moving
    assert any("running_mean" in name for name in moving)


def test_frozen_batch_norms_normalise_by_their_running_statistics():
    model = timm.create_model("test_resnet", num_classes=3)
    freeze(model, Trainable("head"))
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = model.eval()(images)
    torch.testing.assert_close(model.train()(images), expected)
    copied = copy.deepcopy(model).train()
    torch.testing.assert_close(copied(images), expected)


def test_a_batch_norm_without_parameters_goes_with_the_module_around_it():
    model = timm.create_model("test_resnet", num_classes=3)
    plain = nn.BatchNorm2d(64, affine=False)
    layer = model.get_submodule("layer1.0")
    layer.add_module("plain", plain)
    model.get_submodule("layer4.0").add_module("plain", nn.BatchNorm2d(64, affine=False))
    freeze(model, Trainable("last", 1))
    assert len(plain._forward_pre_hooks) == 1
    assert not model.get_submodule("layer4.0.plain")._forward_pre_hooks
