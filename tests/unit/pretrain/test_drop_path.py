"""Drop paths read noise by position: timm's rates, scaled to match, the same on any number of processes."""

from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.layers.drop import DropBlock2d, DropPath
from torch import nn

from pretrain.config import EncoderConfig
from pretrain.drop_path import DropPaths, KeyedDropPath, PathNoise, check_deterministic_forward, drop_evenly
from pretrain.encoder import create_classifier, initialize_encoder

SMALL = EncoderConfig("vit_tiny_patch16_224", (8, 8), (4, 4), width=24, depth=3, heads=2)


def test_rows_are_dropped_below_the_rate_and_scaled_above():
    path = KeyedDropPath(0.25, noise := PathNoise(torch.tensor([[0.9, 0.2], [0.1, 0.25], [0.5, 0.6]])), column=1)
    x = torch.ones(3, 2, 2)
    assert torch.equal(path(x), torch.tensor([0.0, 4 / 3, 4 / 3])[:, None, None].expand(3, 2, 2))
    assert path.eval()(x) is x
    noise.values = torch.zeros(2, 2)
    with pytest.raises(AssertionError, match="the noise is of another batch"):
        path.train()(x)


def test_every_path_of_a_model_has_a_column_and_timms_rate():
    model = create_classifier(SMALL, classes=4, pool="mean", drop_path=0.4)
    names = set(model.state_dict())
    paths = DropPaths(model)
    found = [module for module in model.modules() if isinstance(module, KeyedDropPath)]
    assert [path.rate for path in found] == pytest.approx([0.2, 0.2, 0.4, 0.4])  # the first block has none
    assert [path._column for path in found] == [0, 1, 2, 3]
    assert paths.paths == 4
    assert set(model.state_dict()) == names


def test_an_even_rate_is_every_blocks_the_first_ones_too():
    model = create_classifier(SMALL, classes=4, pool="mean", drop_path=0.4)
    drop_evenly(model, 0.4)
    assert DropPaths(model).paths == 6
    assert [module.rate for module in model.modules() if isinstance(module, KeyedDropPath)] == [0.4] * 6


def test_a_model_without_paths_cannot_drop_them_evenly():
    with pytest.raises(ValueError, match="--drop-path-rule even: it has no paths to drop; leave it out, or take a pla"):
        drop_evenly(nn.Linear(2, 2), 0.4)


def test_a_path_by_another_name_keeps_its_rate_and_is_refused():
    model = create_classifier(SMALL, classes=4, pool="mean", drop_path=0.4)
    model.blocks[1].another = DropPath(0.1)
    with pytest.raises(ValueError, match=r"even: its path blocks\.1\.another has a rate of its own; leave it out"):
        drop_evenly(model, 0.4)


def test_noise_belongs_to_positions_and_gives_the_same_result_in_any_company():
    model = create_classifier(SMALL, classes=4, pool="token", drop_path=0.5)
    initialize_encoder(model, torch.Generator().manual_seed(0))
    paths = DropPaths(model)
    images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    positions, cpu = np.arange(40, 48), torch.device("cpu")

    def run(rows: slice, seed: int = 0) -> torch.Tensor:
        paths.noise.values = paths.draw(positions[rows], seed, cpu)
        return model(images[rows])

    whole = run(slice(None))
    torch.testing.assert_close(run(slice(1, None, 2)), whole[1::2])
    assert not torch.allclose(run(slice(None), seed=1), whole)
    assert not torch.allclose(model.eval()(images), whole)


def test_shares_dropped_match_the_rate():
    noise = DropPaths(create_classifier(SMALL, classes=4, pool="mean", drop_path=0.3)).draw(
        np.arange(4000), 0, torch.device("cpu")
    )
    assert ((noise < 0.3).double().mean(dim=0) - 0.3).abs().max() < 0.03


TINY = {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 2)}
# Of every family a small model: timm's name, its arguments, and how many drop paths it has.
FAMILIES: dict[str, tuple[str, dict[str, Any], int]] = {
    "ResNet": ("test_resnet", {}, 3),
    "EfficientNet": ("efficientnet_b0", {}, 15),
    "ConvNeXt": ("test_convnext", {}, 8),
    "Swin": ("swin_tiny_patch4_window7_224", {"img_size": 56, **TINY}, 6),
    "PVT v2": ("pvt_v2_b0", {"embed_dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 2)}, 6),
    "CoAtNet": ("coatnet_pico_rw_224", {"img_size": 64, "embed_dim": (32, 32, 32, 32), "depths": (1, 1, 1, 1)}, 5),
    "ResNet-ViT": ("vit_tiny_r_s16_p8_224", {"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2}, 2),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_draws_numbers_of_its_own(family: str):
    name, arguments, count = FAMILIES[family]
    model = timm.create_model(name, num_classes=2, drop_path_rate=0.5, **arguments).train()
    with pytest.raises(ValueError, match=r"draws random numbers of its own .* \(DropPath, drop_prob 0"):
        check_deterministic_forward(model)
    paths = DropPaths(model)
    check_deterministic_forward(model)
    assert paths.paths == count
    size = arguments.get("img_size", 64)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 3, size, size, generator=generator)
    with torch.no_grad():
        for parameter in model.parameters():  # some branches begin with a factor of 0
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    before, found = torch.get_rng_state(), []
    with torch.no_grad():
        for seed in (0, 1, 0):
            paths.noise.values = paths.draw(np.arange(8), seed, torch.device("cpu"))
            found.append(model(images))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize(
    ("module", "named"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)), r"1 \(Dropout, p 0\.1\)"),
        (nn.ModuleDict({"a": nn.Dropout2d(0.5)}), r"a \(Dropout2d, p 0\.5\)"),
        (nn.Sequential(DropBlock2d(0.25)), r"0 \(DropBlock2d, drop_prob 0\.25\)"),
        (nn.MultiheadAttention(4, 2, dropout=0.3), r"the model itself \(MultiheadAttention, dropout 0\.3\)"),
        (nn.Sequential(nn.RReLU()), r"0 \(RReLU, upper 0\.333333\)"),
        (timm.create_model("test_efficientnet", drop_rate=0.2), r"the model itself \(EfficientNet, drop_rate 0\.2\)"),
        (timm.create_model("test_vit", patch_drop_rate=0.5), r"patch_drop \(PatchDropout, prob 0\.5\)"),
        (nn.Sequential(*[nn.Dropout(0.1)] * 4, *[nn.Dropout(0.2) for _ in range(4)]), r"2\), .*2\) and 2 more; build"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_numbers_of_its_own_are_named(module: nn.Module, named: str):
    with pytest.raises(ValueError, match=named):
        check_deterministic_forward(module)
    check_deterministic_forward(nn.Sequential(nn.Dropout(0.0), nn.MultiheadAttention(4, 2), DropBlock2d(0.0)))
