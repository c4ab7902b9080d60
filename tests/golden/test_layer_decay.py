"""The learning rate and weight decay of every parameter of B, L and H and of Swin when fine-tuned, name by name.

Of a vision transformer of depth L, at rate d: patch embedding, tokens and positions d^(L+1), block i d^(L-i), final
norm and head 1; biases, norms, tokens and positions do not decay.
"""

from typing import Any

import pytest
import timm
import torch
from timm.optim._param_groups import param_groups_layer_decay
from torch import nn

from finetune.recipes import RECIPES
from pretrain.optimizer import exempt_parameters, parameter_groups, peak_learning_rate

RECIPES_BY_DEPTH = [("vit-b16-in1k", 12, 0.65), ("vit-l16-in1k", 24, 0.75), ("vit-h14-in1k", 32, 0.75)]


def create(name: str, **changes: Any) -> nn.Module:
    """Names and shapes are enough: H alone would take 2.5 GB."""
    with torch.device("meta"):
        return timm.create_model(name, num_classes=1000, **changes)


def create_transformer(name: str, pool: str) -> nn.Module:
    return create(name, global_pool="avg" if pool == "mean" else "token", fc_norm=pool == "mean")


def ours(model: nn.Module, decay: float) -> dict[str, tuple[float, float]]:
    """Scale of the learning rate and weight decay of each parameter."""
    groups = parameter_groups(model, 0.05, exempt=exempt_parameters(model), layer_decay=decay)
    return {name: (group["lr_scale"], group["weight_decay"]) for group in groups for name, _ in group["params"]}


def timms(model: nn.Module, decay: float) -> dict[str, tuple[float, float]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    exempt = exempt_parameters(model)
    groups = param_groups_layer_decay(model, 0.05, no_weight_decay_list=exempt, layer_decay=decay)
    return {names[some]: (group["lr_scale"], group["weight_decay"]) for group in groups for some in group["params"]}


@pytest.mark.parametrize(("name", "depth", "decay"), RECIPES_BY_DEPTH)
@pytest.mark.parametrize("pool", ["mean", "token"])
def test_the_table_of_every_parameter(name: str, depth: int, decay: float, pool: str):
    config = RECIPES[name].config
    weight_decay = config.optimizer.weight_decay
    assert (weight_decay, config.layer_decay) == (0.05, decay)
    model = create_transformer(config.encoder.name, pool)
    groups = parameter_groups(model, weight_decay, exempt=exempt_parameters(model), layer_decay=decay)
    peak = peak_learning_rate(config.optimizer, config.batch_size)
    found = {name: (peak * group["lr_scale"], group["weight_decay"]) for group in groups for name, _ in group["params"]}
    norm = "fc_norm" if pool == "mean" else "norm"
    lowest = peak * decay ** (depth + 1)
    expected = {
        "cls_token": (lowest, 0.0),
        "pos_embed": (lowest, 0.0),
        "patch_embed.proj.weight": (lowest, weight_decay),
        "patch_embed.proj.bias": (lowest, 0.0),
        f"{norm}.weight": (peak, 0.0),
        f"{norm}.bias": (peak, 0.0),
        "head.weight": (peak, weight_decay),
        "head.bias": (peak, 0.0),
    }
    for block in range(depth):
        rate = peak * decay ** (depth - block)
        for linear in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
            expected[f"blocks.{block}.{linear}.weight"] = (rate, weight_decay)
            expected[f"blocks.{block}.{linear}.bias"] = (rate, 0.0)
        for layer in ("norm1", "norm2"):
            expected[f"blocks.{block}.{layer}.weight"] = (rate, 0.0)
            expected[f"blocks.{block}.{layer}.bias"] = (rate, 0.0)
    assert found.keys() == expected.keys() == dict(model.named_parameters()).keys()
    for parameter, (rate, decays) in expected.items():
        assert found[parameter] == (pytest.approx(rate, rel=1e-12), decays), parameter


@pytest.mark.parametrize(("name", "depth", "decay"), RECIPES_BY_DEPTH)
def test_checkpoints_list_groups_from_the_input_to_the_head(name: str, depth: int, decay: float):
    """What decays first, in each layer; the order that the state of an optimizer is kept in."""
    model = create_transformer(RECIPES[name].config.encoder.name, "mean")
    groups = parameter_groups(model, 0.05, exempt=exempt_parameters(model), layer_decay=decay)
    assert [(group["lr_scale"], group["weight_decay"]) for group in groups] == [
        (decay ** (depth + 1 - layer), weight_decay) for layer in range(depth + 2) for weight_decay in (0.05, 0.0)
    ]


@pytest.mark.parametrize(("name", "depth", "decay"), RECIPES_BY_DEPTH)
def test_timm_has_the_same_table_but_for_the_norm_before_a_token_head(name: str, depth: int, decay: float):
    architecture = RECIPES[name].config.encoder.name
    model = create_transformer(architecture, "mean")
    assert ours(model, decay) == timms(model, decay)
    assert ours(model, decay)["blocks.0.norm1.bias"] == (decay**depth, 0.0)
    model = create_transformer(architecture, "token")
    found, expected = ours(model, decay), timms(model, decay)
    assert {name for name, value in expected.items() if found[name] != value} == {"norm.weight", "norm.bias"}
    assert (found["norm.weight"], expected["norm.weight"]) == ((1, 0.0), (decay, 0.0))


def test_a_distillation_token_learns_like_the_class_token_and_both_heads_alike():
    found = ours(create("deit_base_distilled_patch16_224"), 0.65)
    assert found["dist_token"] == found["cls_token"] == (0.65**13, 0.0)
    assert found["head_dist.weight"] == found["head.weight"] == (1, 0.05)


def test_the_last_block_learns_at_the_rate_itself_times_d():
    """Worked by hand: L = 12, d = .65."""
    scale = {name: scale for name, (scale, _) in ours(create("vit_base_patch16_224"), 0.65).items()}
    assert scale["head.weight"] == 1
    assert scale["blocks.11.norm1.weight"] == pytest.approx(0.65)
    assert scale["blocks.10.norm1.weight"] == pytest.approx(0.4225)
    assert scale["blocks.0.norm1.weight"] == pytest.approx(0.0056880, rel=1e-4)
    assert scale["cls_token"] == pytest.approx(0.0036972, rel=1e-4)


SWIN = {
    "patch_embed": 0.023757,
    "layers.0.blocks.0": 0.031676,
    "layers.0.blocks.1": 0.042235,
    "layers.1.downsample": 0.056314,
    "layers.1.blocks.0": 0.056314,
    "layers.1.blocks.1": 0.075085,
    "layers.2.downsample": 0.100113,
    "layers.2.blocks.0": 0.100113,
    "layers.2.blocks.1": 0.133484,
    "layers.2.blocks.2": 0.177979,
    "layers.2.blocks.3": 0.237305,
    "layers.2.blocks.4": 0.316406,
    "layers.2.blocks.5": 0.421875,
    "layers.3.downsample": 0.5625,
    "layers.3.blocks.0": 0.5625,
    "layers.3.blocks.1": 0.75,
    "norm": 0.75,
    "head": 1.0,
}
"""Swin-T's parts, of depths 2, 2, 6 and 2, and .75 to the powers 13 down to 0: timm's group matcher puts a stage's
downsampling with the block after it, and the final norm with the last block.
"""


def test_the_table_of_swin():
    model = create("swin_tiny_patch4_window7_224")
    found = ours(model, 0.75)
    assert found.keys() == dict(model.named_parameters()).keys()
    assert found == timms(model, 0.75)
    seen = set()
    for name, (scale, weight_decay) in found.items():
        (part,) = [part for part in SWIN if name.startswith(f"{part}.")]
        seen.add(part)
        assert scale == pytest.approx(SWIN[part], rel=2e-5), name
        is_weight = name.endswith(
            ("qkv.weight", "proj.weight", "fc1.weight", "fc2.weight", "reduction.weight", "fc.weight")
        )
        assert weight_decay == (0.05 if is_weight else 0.0), name
    assert seen == SWIN.keys()
