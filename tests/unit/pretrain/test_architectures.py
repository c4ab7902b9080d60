"""How new weights are drawn: as timm draws them where that is asked for, and from no generator but its own."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

from data_pipeline.randomness import Purpose, key
from pretrain.architectures import build, create_backbone
from pretrain.backbone_config import BackboneConfig, Pool

PLAIN = BackboneConfig("vit_tiny_patch16_224", (8, 8), (4, 4), width=24, depth=2, heads=3)
DISTILLED = BackboneConfig("deit_tiny_distilled_patch16_224", (8, 8), (4, 4), width=24, depth=2, heads=3)
SCALED = BackboneConfig(
    "vit_tiny_patch16_224", (8, 8), (4, 4), width=24, depth=2, heads=3, arguments=("init_values=.1",)
)


def create(config: BackboneConfig, pool: Pool = "token", seed: int = 3, drop_path: float = 0.0, **how) -> nn.Module:
    return create_backbone(config, classes=5, pool=pool, drop_path=drop_path, seed=seed, **how)


def tensors(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return sorted(model.state_dict().items())


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for (name, ours), (their_name, theirs) in zip(tensors(one), tensors(other), strict=True):
        assert name == their_name
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize(("pool", "theirs"), [("token", "token"), ("mean", "avg")])
def test_a_plain_transformer_has_the_very_weights_that_timm_draws(pool: Pool, theirs: str):
    ours = create(PLAIN, pool, initialization="timm", drop_path=0.3)
    sizes = {"img_size": (8, 8), "patch_size": (4, 4), "embed_dim": 24, "depth": 2, "num_heads": 3}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(3, Purpose.INITIALISATION) >> 1)
        expected = timm.create_model(PLAIN.name, num_classes=5, global_pool=theirs, **sizes)
    assert_same(ours, expected)
    assert [block.drop_path1.drop_prob for block in ours.get_submodule("blocks")[1:]] == pytest.approx([0.3])  # type: ignore[index]


def test_it_belongs_to_the_seed_and_is_asked_for():
    one, other, mae = create(PLAIN, seed=0, initialization="timm"), create(PLAIN, initialization="timm"), create(PLAIN)
    for name in ("blocks.0.mlp.fc1.weight", "patch_embed.proj.weight"):
        assert not torch.equal(one.get_parameter(name), other.get_parameter(name))
        assert not torch.equal(other.get_parameter(name), mae.get_parameter(name))


@pytest.mark.parametrize("config", [DISTILLED, SCALED, BackboneConfig("test_resnet", (32, 32))], ids=str)
def test_other_models_start_as_timms_in_any_case(config: BackboneConfig):
    assert_same(create(config, "own"), create(config, "own", initialization="timm"))


@pytest.mark.parametrize("config", [PLAIN, DISTILLED])
@pytest.mark.parametrize("initialization", ["mae", "timm"])
def test_no_global_generator_is_touched(config: BackboneConfig, initialization: str):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    one = create(config, initialization=initialization)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    torch.rand(7)  # nor does it matter where it stands
    assert_same(one, create(config, initialization=initialization))


def test_what_timm_cannot_build_is_told_of_in_one_line():
    with pytest.raises(
        ValueError, match=r"^timm \S+ cannot build test_resnet with depth=3: .*; change --image-size, --p"
    ):
        build("test_resnet", {"depth": 3}, 0)
