"""FLOPs by formula against torch's own counter, to the last one."""

import pytest
import timm
import torch
from timm.models.vision_transformer import ParallelScalingBlock
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pretrain.config import DecoderConfig, EncoderConfig, ObjectiveConfig
from pretrain.encoder import create_classifier, create_encoder
from pretrain.flops import (
    attention_flops,
    autoencoder_flops,
    block_flops,
    embedding_flops,
    encoder_flops,
    training_flops,
)
from pretrain.masked_autoencoder import MaskedAutoencoder
from pretrain.recomputing import recompute_blocks

SIZES = [((32, 32), (8, 8), 3), ((24, 40), (8, 4), 1), ((21, 35), (7, 5), 5)]
DECODER = DecoderConfig(width=16, depth=2, heads=4)


def counted(run, backend=SDPBackend.MATH):
    """What torch counts, and what `run` returns. Attention by products of matrices, which it counts on any device."""
    with sdpa_kernel(backend), FlopCounterMode(display=False) as counter:
        result = run()
    return counter.get_total_flops(), result


def build(image_size=(32, 32), patch_size=(8, 8), channels=3, *, name="vit_tiny_patch16_224", ratio=0.75, **encoder):
    sizes = {"width": 24, "depth": 3, "heads": 3} | encoder
    config = EncoderConfig(name, image_size, patch_size, channels, **sizes)
    model = MaskedAutoencoder(create_encoder(config), DECODER, ObjectiveConfig(mask_ratio=ratio))
    model.initialize(torch.Generator().manual_seed(0))
    return model


def batch(model, count=2):
    return torch.randn(count, *model.image_shape), torch.rand(count, model.patches)


def blocks_of(model):
    """Each block with how many tokens it sees and of how many it computes the output."""
    seen, tokens, masked = 1 + model.visible, 1 + model.patches, model.patches - model.visible
    *blocks, last = model.decoder_blocks
    return [
        *((block, seen, seen) for block in model.encoder.blocks),
        *((block, tokens, tokens) for block in blocks),
        (last, tokens, masked),
    ]


@pytest.mark.parametrize(("image_size", "patch_size", "channels"), SIZES)
@pytest.mark.parametrize("ratio", [0.75, 0.4])
def test_forward_of_an_autoencoder(image_size, patch_size, channels, ratio):
    model = build(image_size, patch_size, channels, ratio=ratio)
    images, noise = batch(model)
    flops, _ = counted(lambda: model(images, noise))
    assert flops == 2 * autoencoder_flops(model)


# Of timm's names: query-key norms, layer scale, an MLP of ratio 48 / 11 and one with a gate, narrower than 4 widths.
@pytest.mark.parametrize(
    "name",
    [
        "vit_base_patch16_224",
        "vit_base_patch14_dinov2",
        "vit_giant_patch14_224",
        "vit_giant_patch14_dinov2",
    ],
)
def test_forward_with_every_kind_of_block(name):
    model = build((28, 28), (14, 14), name=name, depth=1)
    images, noise = batch(model)
    flops, _ = counted(lambda: model(images, noise))
    assert flops == 2 * autoencoder_flops(model)


@pytest.mark.parametrize("pool", ["mean", "token"])
@pytest.mark.parametrize(("image_size", "patch_size", "channels"), SIZES)
def test_forward_of_a_classifier(image_size, patch_size, channels, pool):
    config = EncoderConfig("vit_tiny_patch16_224", image_size, patch_size, channels, width=24, depth=3, heads=3)
    model = create_classifier(config, classes=11, pool=pool, drop_path=0.0)
    images = torch.randn(2, channels, *image_size)
    flops, _ = counted(lambda: model(images))
    assert flops == 2 * encoder_flops(model)
    model.reset_classifier(0)
    assert encoder_flops(model) == flops // 2 - 2 * 24 * 11


def test_forward_of_a_whole_image_with_other_tokens_than_a_classifier_has():
    model = timm.create_model("vit_small_patch14_reg4_dinov2", img_size=28, embed_dim=24, depth=2, num_heads=3)
    flops, _ = counted(lambda: model(torch.randn(1, 3, 28, 28)))
    assert flops == encoder_flops(model)
    model = timm.create_model("vit_base_patch16_gap_224", img_size=32, embed_dim=24, depth=2, num_heads=3)
    flops, _ = counted(lambda: model(torch.randn(1, 3, 32, 32)))
    assert flops == encoder_flops(model)


@pytest.mark.parametrize(("image_size", "patch_size", "channels"), SIZES)
def test_training_is_three_times_forward_but_for_the_gradient_of_the_images(image_size, patch_size, channels):
    model = build(image_size, patch_size, channels)
    images, noise = batch(model)
    forward, output = counted(lambda: model(images, noise))
    backward, _ = counted(output.loss.backward)
    unneeded = embedding_flops(model.encoder, model.visible)
    assert forward + backward == 2 * (training_flops(autoencoder_flops(model)) - unneeded)
    # With respect to its patches as well, it is exactly that.
    forward, output = counted(lambda: model(images.requires_grad_(True), noise))
    backward, _ = counted(output.loss.backward)
    assert forward + backward == 2 * training_flops(autoencoder_flops(model))


def test_recomputation_is_no_model_flop():
    model = build()
    images, noise = batch(model)
    recompute_blocks(model)
    forward, output = counted(lambda: model(images, noise))
    backward, _ = counted(output.loss.backward)
    # Nobody needs the output of a block's last layer for its backward.
    again = sum(
        block_flops(block, tokens, asking) - 2 * asking * block.mlp.fc2.weight.numel()
        for block, tokens, asking in blocks_of(model)
    )
    done = training_flops(autoencoder_flops(model)) - embedding_flops(model.encoder, model.visible) + again
    assert forward + backward == 2 * done


def test_of_the_fused_attention_of_a_cpu_the_counter_sees_nothing():
    # On a GPU it counts five products for its backward, of which one is the scores again: 2.5 times forward.
    model = build()
    images, noise = batch(model)
    forward, output = counted(lambda: model(images, noise), SDPBackend.FLASH_ATTENTION)
    backward, _ = counted(output.loss.backward, SDPBackend.FLASH_ATTENTION)
    unseen = sum(attention_flops(block, tokens, asking) for block, tokens, asking in blocks_of(model))
    whole = autoencoder_flops(model)
    assert forward == 2 * (whole - unseen)
    unneeded = embedding_flops(model.encoder, model.visible)
    assert forward + backward == 2 * (training_flops(whole - unseen) - unneeded)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block_fn": ParallelScalingBlock}, "^no formula for the FLOPs of a ParallelScalingBlock; expected timm's"),
        ({"attn_layer": "diff"}, "^no formula for the FLOPs of a Block with DiffAttention; expected timm's"),
        ({"global_pool": "map"}, r"^no formula for the FLOPs of pooling by attention \(attn_pool\); expected a token"),
    ],
)
def test_what_the_formula_does_not_know_is_refused(settings, message):
    model = timm.create_model("vit_tiny_patch16_224", depth=1, **settings)
    with pytest.raises(ValueError, match=message):
        encoder_flops(model)
