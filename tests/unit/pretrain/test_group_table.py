"""The table that `--show-groups` prints."""

import pytest
import timm
import torch
from torch import nn

from finetune.trainable import freeze
from finetune.trainable_config import Trainable
from pretrain.backbone_config import BackboneConfig
from pretrain.config import OptimizerConfig
from pretrain.group_table import group_table, groups_of_run
from pretrain.optimizer import exempt_parameters
from pretrain.supervised_config import SupervisedConfig

CONFIG = OptimizerConfig(5e-4, betas=(0.9, 0.999))


def create(name: str, **changes) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, num_classes=10, **changes)


def table(model: nn.Module, layer_decay: float | None = 0.5, config: OptimizerConfig = CONFIG) -> list[str]:
    exempt = exempt_parameters(model)
    return group_table(model, config, batch_size=1024, exempt=exempt, layer_decay=layer_decay).splitlines()


def test_a_small_vision_transformer():
    model = create("vit_tiny_patch16_224", depth=2)
    assert table(model) == [
        "layer  parameters of                      lr scale  peak lr    weight decay  without  frozen",
        "    0  cls_token, pos_embed, patch_embed  0.125000  2.500e-04       147,456   38,208       0",
        "    1  blocks.0                           0.250000  5.000e-04       442,368    2,496       0",
        "    2  blocks.1                           0.500000  1.000e-03       442,368    2,496       0",
        "    3  norm, head                         1.000000  2.000e-03         1,920      394       0",
        "1,077,706 parameters: 1,034,112 with weight decay 0.05, 43,594 without, 0 frozen",
        "adamw: peak learning rate 2.000e-03 = 0.0005 x batch 1024 / 256, x 0.5 for each layer before the last",
    ]


def test_a_run_has_the_table_of_its_options():
    model = create("vit_tiny_patch16_224", depth=2)
    encoder = BackboneConfig("vit_tiny_patch16_224")
    for decay in (0.5, None):
        config = SupervisedConfig(encoder, epochs=100.0, batch_size=1024, optimizer=CONFIG, layer_decay=decay)
        assert groups_of_run(model, config).splitlines() == table(model, decay)


def test_what_is_frozen_has_no_rate():
    model = create("vit_tiny_patch16_224", depth=2)
    freeze(model, Trainable("last", 1))
    assert [line.split()[-5:] for line in table(model)[1:5]] == [
        ["-", "-", "0", "0", "185,664"],
        ["-", "-", "0", "0", "444,864"],
        ["0.500000", "1.000e-03", "442,368", "2,496", "0"],
        ["1.000000", "2.000e-03", "1,920", "394", "0"],
    ]
    assert table(model)[5] == "1,077,706 parameters: 444,288 with weight decay 0.05, 2,890 without, 630,528 frozen"


def test_without_layer_decay_or_weight_decay():
    model = create("vit_tiny_patch16_224", depth=1)
    lines = table(model, None, OptimizerConfig(5e-4, weight_decay=0.0, algorithm="sgd"))
    assert [line.split()[-5:] for line in lines[1:4]] == [
        ["1.000000", "2.000e-03", "0", "185,664", "0"],
        ["1.000000", "2.000e-03", "0", "444,864", "0"],
        ["1.000000", "2.000e-03", "0", "2,314", "0"],
    ]
    assert lines[-1] == ("sgd: peak learning rate 2.000e-03 = 0.0005 x batch 1024 / 256, the same for every layer")


def test_a_model_that_timm_does_not_group_is_shown_by_its_parts():
    model = create("caformer_s18")
    assert [line.split()[1] for line in table(model, None)[1:-2]] == ["stem", "stages", "head"]
    with pytest.raises(ValueError, match=r"^MetaFormer has no group_matcher, .*; pass --layer-decay None$"):
        table(model)


@pytest.mark.parametrize(
    "name",
    ["vit_huge_patch14_224", "swin_large_patch4_window7_224", "efficientvim_m1", "hrnet_w18", "coatnet_3_rw_224"],
)
def test_every_parameter_is_counted_once_and_lines_fit_a_terminal(name: str):
    model = create(name)
    lines = table(model)
    cells = [line.split()[-3:] for line in lines[1:-2]]
    counted = sum(int(cell.replace(",", "")) for row in cells for cell in row)
    assert counted == sum(parameter.numel() for parameter in model.parameters())
    assert max(map(len, lines)) <= 120


def test_names_without_room_are_counted():
    (row,) = [line for line in table(create("hrnet_w18")) if " more " in line]
    assert row.startswith("   13  incre_modules, downsamp_modules and 2 more  1.000000")
