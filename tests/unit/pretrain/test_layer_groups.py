"""Which layer a parameter belongs to: our formula for vision transformers, timm's grouping for the others."""

import pytest
import timm
import torch
from torch import nn

from pretrain.layer_groups import has_layers, layers_of, names_of_layers
from pretrain.optimizer import exempt_parameters, parameter_groups


def create(name: str, **changes) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, num_classes=10, **changes)


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("vit_tiny_patch16_224", ["cls_token", "pos_embed", "patch_embed"], ["norm", "head"]),
        (
            "deit_tiny_distilled_patch16_224",
            ["cls_token", "pos_embed", "dist_token", "patch_embed"],
            ["norm", "head", "head_dist"],
        ),
        ("vit_tiny_r_s16_p8_224", ["cls_token", "pos_embed", "patch_embed"], ["norm", "head"]),
        (
            "vit_small_patch14_reg4_dinov2",
            ["cls_token", "reg_token", "pos_embed", "patch_embed"],
            ["norm", "head"],
        ),
        ("vit_base_patch32_clip_224", ["cls_token", "pos_embed", "patch_embed", "norm_pre"], ["norm", "head"]),
        ("vit_base_patch16_siglip_224", ["pos_embed", "patch_embed"], ["norm", "attn_pool", "head"]),
        ("vit_base_patch16_rpn_224", ["pos_embed", "patch_embed"], ["fc_norm", "head"]),
    ],
)
def test_a_vision_transformer_is_what_precedes_the_blocks_the_blocks_and_norm_and_head(
    name: str, first: list[str], last: list[str]
):
    layers, count = layers_of(create(name))
    names = names_of_layers(layers)
    assert sorted(names[0]) == sorted(first)
    assert sorted(names[-1]) == sorted(last)
    assert names[1:-1] == [[f"blocks.{block}"] for block in range(count - 2)]
    assert count == 14


def test_a_vision_transformer_without_positions_or_class_token():
    model = create("vit_tiny_patch16_224", pos_embed="none", class_token=False, global_pool="avg", depth=1)
    assert names_of_layers(layers_of(model)[0]) == [["patch_embed"], ["blocks"], ["fc_norm", "head"]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "resnet18",
            [["conv1", "bn1"], *([f"layer{stage}.{block}"] for stage in range(1, 5) for block in range(2)), ["fc"]],
        ),
        ("pvt_v2_b0", [["patch_embed"], *([f"stages.{stage}"] for stage in range(4)), ["head"]]),
        ("coatnet_0_rw_224", [["stem"], *([f"stages.{stage}"] for stage in range(3)), ["stages.3", "norm"], ["head"]]),
        (
            "convnext_atto",
            [
                ["stem"],
                *([f"stages.0.blocks.{block}"] for block in range(2)),
                ["stages.1.downsample", "stages.1.blocks.0"],
                ["stages.1.blocks.1"],
                ["stages.2.downsample", "stages.2.blocks.0"],
                *([f"stages.2.blocks.{block}"] for block in range(1, 6)),
                ["stages.3.downsample", "stages.3.blocks.0"],
                ["stages.3.blocks.1"],
                ["head"],
            ],
        ),
        (
            "efficientnet_b0",
            [
                ["conv_stem", "bn1"],
                ["blocks.0"],
                *(
                    [f"blocks.{stage}.{block}"]
                    for stage, depth in enumerate((2, 2, 3, 3, 4), start=1)
                    for block in range(depth)
                ),
                ["blocks.6", "conv_head", "bn2"],
                ["classifier"],
            ],
        ),
    ],
)
def test_other_families_are_grouped_as_timm_groups_them(name: str, expected: list[list[str]]):
    model = create(name)
    layers, count = layers_of(model)
    assert layers.keys() == dict(model.named_parameters()).keys()
    assert names_of_layers(layers) == expected
    assert count == len(expected)


def test_a_model_that_timm_does_not_group_is_refused_with_what_to_do():
    model = create("caformer_s18")
    assert not has_layers(model)
    message = r"^MetaFormer has no group_matcher, from which .* known .*; pass --layer-decay None$"
    with pytest.raises(ValueError, match=message):
        parameter_groups(model, 0.05, layer_decay=0.75)
    with pytest.raises(ValueError, match=r"; pass --trainable all$"):
        layers_of(model, otherwise="pass --trainable all")
    assert len(parameter_groups(model, 0.05)) == 2


def test_a_name_that_stands_for_several_layers_is_written_out():
    layers = {"stem.weight": 0, "body.0.a": 1, "body.0.b": 1, "body.1.conv.a": 1, "body.1.norm.a": 2, "head": 2}
    assert names_of_layers(layers) == [["stem"], ["body.0", "body.1.conv"], ["body.1.norm", "head"]]


def test_what_timm_exempts_from_decay_is_given_by_the_names_of_parameters():
    assert exempt_parameters(create("vit_tiny_patch16_224")) == {"cls_token", "pos_embed"}
    assert exempt_parameters(create("resnet18")) == frozenset()
    tables = exempt_parameters(create("swin_tiny_patch4_window7_224"))
    assert len(tables) == 12
    assert all(name.endswith("attn.relative_position_bias_table") for name in tables)

    class Patterned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias_table, self.weight = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2, 2))

        def no_weight_decay(self) -> set[str]:
            return {"*_table", "absent"}

    model = Patterned()
    assert exempt_parameters(model) == {"bias_table"}
    decaying, exempt = parameter_groups(model, 0.1, exempt=exempt_parameters(model))
    assert [name for name, _ in decaying["params"]] == ["weight"]
    assert [name for name, _ in exempt["params"]] == ["bias_table"]
