"""What the ImageNet recipes come to: of every parameter its name, place, shape, decay and start; of epochs their rates.

Written by hand from the released code, facebookresearch/mae: models_mae.py, main_pretrain.py, util/lr_sched.py, and
timm 0.3.2's rule for weight decay (none on tensors of one dimension).
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from pretrain.encoder import create_encoder
from pretrain.mae_config import MaeConfig
from pretrain.masked_autoencoder import MaskedAutoencoder
from pretrain.optimizer import create_optimizer, parameter_groups, schedule
from pretrain.recipes import RECIPES

SIZES = ("s16", "b16", "l16", "h14")
DEPTHS = {"s16": 12, "b16": 12, "l16": 24, "h14": 32}
HEADS = {"s16": 6, "b16": 12, "l16": 16, "h14": 16}
GRIDS = {"s16": 14, "b16": 14, "l16": 14, "h14": 16}
NAMES = {f"vit-{size}-in1k{tail}": size for size in SIZES for tail in ("", "-800")}

# Shapes of S, B, L and H; the weight decay, or `frozen`; how it starts. `xavier`: uniform up to
# sqrt(6 / (inputs + outputs)), of the matrix that the tensor is when all but its first axis are one.
BEFORE_BLOCKS = """
mask_token               | 1 1 512    | 1 1 512    | 1 1 512     | 1 1 512     | 0.05   | normal
decoder_pos_embed        | 1 197 512  | 1 197 512  | 1 197 512   | 1 257 512   | frozen | waves
cls_token                | 1 1 384    | 1 1 768    | 1 1 1024    | 1 1 1280    | 0.05   | normal
pos_embed                | 1 197 384  | 1 197 768  | 1 197 1024  | 1 257 1280  | frozen | waves
patch_embed.proj.weight  | 384 3 16 16| 768 3 16 16| 1024 3 16 16| 1280 3 14 14| 0.05   | xavier
patch_embed.proj.bias    | 384        | 768        | 1024        | 1280        | 0      | zeros
"""
ENCODER_BLOCK = """
norm1.weight             | 384        | 768        | 1024        | 1280        | 0      | ones
norm1.bias               | 384        | 768        | 1024        | 1280        | 0      | zeros
attn.qkv.weight          | 1152 384   | 2304 768   | 3072 1024   | 3840 1280   | 0.05   | xavier
attn.qkv.bias            | 1152       | 2304       | 3072        | 3840        | 0      | zeros
attn.proj.weight         | 384 384    | 768 768    | 1024 1024   | 1280 1280   | 0.05   | xavier
attn.proj.bias           | 384        | 768        | 1024        | 1280        | 0      | zeros
norm2.weight             | 384        | 768        | 1024        | 1280        | 0      | ones
norm2.bias               | 384        | 768        | 1024        | 1280        | 0      | zeros
mlp.fc1.weight           | 1536 384   | 3072 768   | 4096 1024   | 5120 1280   | 0.05   | xavier
mlp.fc1.bias             | 1536       | 3072       | 4096        | 5120        | 0      | zeros
mlp.fc2.weight           | 384 1536   | 768 3072   | 1024 4096   | 1280 5120   | 0.05   | xavier
mlp.fc2.bias             | 384        | 768        | 1024        | 1280        | 0      | zeros
"""
BETWEEN_BLOCKS = """
norm.weight              | 384        | 768        | 1024        | 1280        | 0      | ones
norm.bias                | 384        | 768        | 1024        | 1280        | 0      | zeros
decoder_embed.weight     | 512 384    | 512 768    | 512 1024    | 512 1280    | 0.05   | xavier
decoder_embed.bias       | 512        | 512        | 512         | 512         | 0      | zeros
"""
DECODER_BLOCK = """
norm1.weight             | 512        | 512        | 512         | 512         | 0      | ones
norm1.bias               | 512        | 512        | 512         | 512         | 0      | zeros
attn.qkv.weight          | 1536 512   | 1536 512   | 1536 512    | 1536 512    | 0.05   | xavier
attn.qkv.bias            | 1536       | 1536       | 1536        | 1536        | 0      | zeros
attn.proj.weight         | 512 512    | 512 512    | 512 512     | 512 512     | 0.05   | xavier
attn.proj.bias           | 512        | 512        | 512         | 512         | 0      | zeros
norm2.weight             | 512        | 512        | 512         | 512         | 0      | ones
norm2.bias               | 512        | 512        | 512         | 512         | 0      | zeros
mlp.fc1.weight           | 2048 512   | 2048 512   | 2048 512    | 2048 512    | 0.05   | xavier
mlp.fc1.bias             | 2048       | 2048       | 2048        | 2048        | 0      | zeros
mlp.fc2.weight           | 512 2048   | 512 2048   | 512 2048    | 512 2048    | 0.05   | xavier
mlp.fc2.bias             | 512        | 512        | 512         | 512         | 0      | zeros
"""
AFTER_BLOCKS = """
decoder_norm.weight      | 512        | 512        | 512         | 512         | 0      | ones
decoder_norm.bias        | 512        | 512        | 512         | 512         | 0      | zeros
decoder_pred.weight      | 768 512    | 768 512    | 768 512     | 588 512     | 0.05   | xavier
decoder_pred.bias        | 768        | 768        | 768         | 588         | 0      | zeros
"""
# The released names of what stands under `encoder.` here.
ENCODERS = ("cls_token", "pos_embed", "patch_embed.", "blocks.", "norm.")
# Of all parameters, positions too: 12 width^2 + 13 width in a block, and what is outside, added up on paper.
MILLIONS = {"s16": 47.578, "b16": 111.908, "l16": 329.542, "h14": 657.075}


class Row(NamedTuple):
    """A line of a table, for one size: `decay` is None where the parameter is frozen."""

    name: str
    shape: tuple[int, ...]
    decay: float | None
    start: str


def rows(table: str, size: str, prefix: str = "") -> Iterator[Row]:
    for line in table.strip().splitlines():
        name, *shapes, decay, start = (cell.strip() for cell in line.split("|"))
        shape = tuple(map(int, shapes[SIZES.index(size)].split()))
        released = prefix + name
        ours = f"encoder.{released}" if released.startswith(ENCODERS) else released
        yield Row(ours, shape, None if decay == "frozen" else float(decay), start)


def table(size: str, depth: int, decoder_depth: int = 8) -> list[Row]:
    """All parameters in order."""
    found = list(rows(BEFORE_BLOCKS, size))
    for block in range(depth):
        found += rows(ENCODER_BLOCK, size, f"blocks.{block}.")
    found += rows(BETWEEN_BLOCKS, size)
    for block in range(decoder_depth):
        found += rows(DECODER_BLOCK, size, f"decoder_blocks.{block}.")
    return [*found, *rows(AFTER_BLOCKS, size)]


def build(config: MaeConfig) -> MaskedAutoencoder:
    return MaskedAutoencoder(create_encoder(config.encoder), config.decoder, config.objective)


@pytest.mark.parametrize(("name", "size"), NAMES.items())
def test_names_shapes_and_what_trains(name: str, size: str, monkeypatch: pytest.MonkeyPatch):
    # Names and shapes are enough: H would take 2.6 GB.
    monkeypatch.setattr("pretrain.encoder.allocate", lambda module: None)
    monkeypatch.setattr("pretrain.masked_autoencoder.allocate", lambda module: None)
    config = RECIPES[name].config
    model = build(config)
    expected = table(size, DEPTHS[size])
    found = [(each, tuple(weights.shape), weights.requires_grad) for each, weights in model.named_parameters()]
    assert found == [(row.name, row.shape, row.decay is not None) for row in expected]
    assert sum(math.prod(row.shape) for row in expected) / 1e6 == pytest.approx(MILLIONS[size], abs=0.0005)
    groups = parameter_groups(model, config.optimizer.weight_decay)
    decays = {each: group["weight_decay"] for group in groups for each, _ in group["params"]}
    assert decays == {row.name: row.decay for row in expected if row.decay is not None}
    assert not any("lr_scale" in group for group in groups)
    assert {block.attn.num_heads for block in model.encoder.blocks} == {HEADS[size]}
    assert {block.attn.num_heads for block in model.decoder_blocks} == {16}
    norms = [module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(norms) == 2 * (DEPTHS[size] + 8) + 2
    assert {norm.eps for norm in norms} == {1e-6}
    assert model.visible == {14: 49, 16: 64}[GRIDS[size]]
    drops = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert not any(drops)


def waves(grid: int, width: int) -> np.ndarray:
    """Sines and cosines of the column, then of the row, of each patch; a row of zeros for the class token first."""
    quarter = width // 4
    patch = np.arange(grid * grid)
    found = np.zeros((1 + grid * grid, width))
    for channel in range(width):
        rate = 10_000.0 ** -((channel % quarter) / quarter)
        wave = np.cos if (channel // quarter) % 2 else np.sin
        place = patch // grid if channel >= 2 * quarter else patch % grid
        found[1:, channel] = wave(place * rate)
    return found


def assert_starts(row: Row, weights: Tensor, grid: int) -> None:
    """By bounds and moments; five standard errors, so that no seed is lucky and another start is seen."""
    count, values = weights.numel(), weights.detach().double().flatten()
    if row.start in ("zeros", "ones"):
        assert values.eq(float(row.start == "ones")).all(), row
    elif row.start == "waves":
        np.testing.assert_allclose(weights[0].detach().numpy(), waves(grid, row.shape[-1]), atol=2e-7, rtol=0)
    elif row.start == "normal":
        assert abs(values.mean()) < 5 * 0.02 / math.sqrt(count), row
        assert values.std().item() == pytest.approx(0.02, rel=5 / math.sqrt(2 * count)), row
        assert values.abs().max() > 2.2 * 0.02, row
    else:
        outputs, inputs = row.shape[0], math.prod(row.shape[1:])
        bound = math.sqrt(6 / (inputs + outputs))
        assert row.start == "xavier"
        assert 0.999 * bound < values.abs().max() < bound * (1 + 1e-6), row
        assert abs(values.mean()) < 5 * bound / math.sqrt(3 * count), row
        # Of a uniform distribution the second and fourth moments are 1/3 and 1/5 of the bound's.
        assert values.square().mean().item() == pytest.approx(bound**2 / 3, rel=5 * math.sqrt(0.8 / count)), row
        assert values.pow(4).mean().item() == pytest.approx(bound**4 / 5, rel=5 * math.sqrt(16 / 9 / count)), row


@pytest.mark.parametrize("size", SIZES[1:])
def test_how_one_block_and_what_is_outside_the_blocks_start(size: str):
    config = RECIPES[f"vit-{size}-in1k"].config
    model = build(replace(config, encoder=replace(config.encoder, depth=1), decoder=replace(config.decoder, depth=1)))
    model.initialize(torch.Generator().manual_seed(0))
    weights = dict(model.named_parameters())
    for row in table(size, 1, 1):
        assert_starts(row, weights[row.name], GRIDS[size])


def test_how_the_whole_of_s_starts_and_is_given_to_the_optimizer():
    config = RECIPES["vit-s16-in1k"].config
    model = build(config)
    model.initialize(torch.Generator().manual_seed(0))
    weights = dict(model.named_parameters())
    firsts: dict[float, str] = {}
    for row in table("s16", 12):
        assert_starts(row, weights[row.name], 14)
        if row.start in ("xavier", "normal"):
            same = firsts.setdefault(weights[row.name].flatten()[0].item(), row.name)
            assert same == row.name, "two tensors start with the same draws"
    optimizer = create_optimizer(model, config.optimizer)
    given = {name: group for group in optimizer.param_groups for name in group["param_names"]}
    assert {name: group["weight_decay"] for name, group in given.items()} == {
        row.name: row.decay for row in table("s16", 12) if row.decay is not None
    }
    assert type(optimizer) is torch.optim.AdamW
    assert {(group["betas"], group["eps"], group["amsgrad"]) for group in given.values()} == {
        ((0.9, 0.95), 1e-8, False)
    }
    assert config.optimizer.clip_norm is None


# Worked by hand: 2.4e-3 x epoch / 40, then 1.2e-3 x (1 + cos(pi x done)), done = (epoch - 40) / (epochs - 40); where it
# is a quarter, a third or a half, the cosine is sqrt(1/2), 1/2 or 0.
RATES = {
    800: {
        0.0: 0.0,
        10.0: 6e-4,
        20.0: 1.2e-3,
        39.5: 2.37e-3,
        40.0: 2.4e-3,
        230.0: 2.0485281374e-3,
        293 + 1 / 3: 1.8e-3,
        420.0: 1.2e-3,
        546 + 2 / 3: 6e-4,
        610.0: 3.5147186258e-4,
        800.0: 0.0,
    },
    1600: {
        0.0: 0.0,
        10.0: 6e-4,
        20.0: 1.2e-3,
        39.5: 2.37e-3,
        40.0: 2.4e-3,
        420.0: 2.0654429368e-3,
        430.0: 2.0485281374e-3,
        560.0: 1.8e-3,
        800.0: 1.2483191281e-3,
        820.0: 1.2e-3,
        1080.0: 6e-4,
        1210.0: 3.5147186258e-4,
        1600.0: 0.0,
    },
}


@pytest.mark.parametrize("name", NAMES)
def test_the_learning_rate_at_chosen_epochs(name: str):
    config = RECIPES[name].config
    rate = schedule(config.optimizer, config.batch_size, config.epochs)
    expected = RATES[800 if name.endswith("-800") else 1600]
    assert {epoch: rate(epoch) for epoch in expected} == pytest.approx(expected, rel=1e-9, abs=1e-12)


# The released code multiplies 1.5e-4 by images of a GPU x pieces x GPUs / 256; 64 GPUs are its own example.
@pytest.mark.parametrize(("images", "pieces", "gpus"), [(64, 1, 64), (64, 8, 8), (128, 4, 8), (256, 16, 1), (8, 8, 64)])
def test_the_rate_is_of_the_whole_batch_however_it_is_cut(images: int, pieces: int, gpus: int):
    config = RECIPES["vit-b16-in1k"].config
    cut = replace(config, accumulate=pieces, batch_size=images * pieces * gpus)
    assert cut.batch_size == config.batch_size
    rate = schedule(cut.optimizer, cut.batch_size, cut.epochs)
    for epoch, expected in RATES[1600].items():
        assert rate(epoch) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_rate_moves_within_an_epoch_and_by_the_batch():
    config = RECIPES["vit-l16-in1k-800"].config
    rate = schedule(config.optimizer, config.batch_size, config.epochs)
    a_step = 4096 / 1_281_167  # of an epoch of ImageNet
    assert rate(a_step) == pytest.approx(2.4e-3 * 4096 / 1_281_167 / 40, rel=1e-9)
    assert schedule(config.optimizer, 1024, 800.0)(40.0) == pytest.approx(6e-4, rel=1e-9)
