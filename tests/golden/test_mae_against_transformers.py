"""The masked autoencoder against Transformers' ViTMAE, timm's own forward, and slower code written from the paper."""

import json
import math

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from pretrain.config import DecoderConfig, EncoderConfig, ObjectiveConfig
from pretrain.encoder import create_encoder, sincos_positions
from pretrain.masked_autoencoder import MaskedAutoencoder, patchify, random_mask, unpatchify

DISK = {
    "encoder.cls_token": "vit.embeddings.cls_token",
    "encoder.pos_embed": "vit.embeddings.position_embeddings",
    "encoder.patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
    "encoder.norm": "vit.layernorm",
    "mask_token": "decoder.mask_token",
    "decoder_pos_embed": "decoder.decoder_pos_embed",
    "decoder_embed": "decoder.decoder_embed",
    "decoder_norm": "decoder.decoder_norm",
    "decoder_pred": "decoder.decoder_pred",
}
DISK_BLOCK = {
    "attn.qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "attn.proj": ("attention.output.dense",),
    "norm1": ("layernorm_before",),
    "norm2": ("layernorm_after",),
    "mlp.fc1": ("intermediate.dense",),
    "mlp.fc2": ("output.dense",),
}
DISK_PREFIX = {"encoder.blocks": "vit.encoder.layer", "decoder_blocks": "decoder.decoder_layers"}
# The same modules as Transformers 5 names them in memory.
MEMORY_BLOCK = {
    "attn.qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "attn.proj": ("attention.o_proj",),
    "norm1": ("layernorm_before",),
    "norm2": ("layernorm_after",),
    "mlp.fc1": ("mlp.fc1",),
    "mlp.fc2": ("mlp.fc2",),
}
MEMORY_PREFIX = {"encoder.blocks": "vit.layers", "decoder_blocks": "decoder.decoder_layers"}


def their_names(ours: str, block: dict[str, tuple[str, ...]], prefix: dict[str, str]) -> list[str]:
    """Names of the tensors of which ours is the concatenation along the first axis."""
    if ours in DISK:
        return [DISK[ours]]
    module, _, kind = ours.rpartition(".")
    if module in DISK:
        return [f"{DISK[module]}.{kind}"]
    blocks = next(name for name in prefix if module.startswith(f"{name}."))
    index, _, inner = module.removeprefix(f"{blocks}.").partition(".")
    return [f"{prefix[blocks]}.{index}.{name}.{kind}" for name in block[inner]]


def build(image_size=(16, 16), patch_size=(4, 4), channels=3, normalize_targets=True) -> MaskedAutoencoder:
    """A small autoencoder whose every weight counts: also biases and norms are random."""
    sizes = {"width": 24, "depth": 3, "heads": 3}
    encoder = create_encoder(EncoderConfig("vit_tiny_patch16_224", image_size, patch_size, channels, **sizes))
    objective = ObjectiveConfig(normalize_targets=normalize_targets)
    model = MaskedAutoencoder(encoder, DecoderConfig(width=16, depth=2, heads=4), objective)
    generator = torch.Generator().manual_seed(1)
    model.initialize(generator)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def batch(model: MaskedAutoencoder, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(count, *model.image_shape, generator=generator)
    return images, torch.rand(count, model.patches, generator=generator)


def load_theirs(model, folder, channels):
    """Transformers' model with our weights, read from a folder in its on-disk layout."""
    transformers = pytest.importorskip("transformers", minversion="5.0")
    config = {
        "model_type": "vit_mae",
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "intermediate_size": 96,
        "layer_norm_eps": 1e-6,
        "image_size": 16,
        "patch_size": 4,
        "num_channels": channels,
        "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 2,
        "decoder_num_attention_heads": 4,
        "decoder_intermediate_size": 64,
        "mask_ratio": 0.75,
        "norm_pix_loss": model.normalize_targets,
    }
    tensors = {}
    for ours, tensor in model.state_dict().items():
        names = their_names(ours, DISK_BLOCK, DISK_PREFIX)
        tensors |= {name: part.contiguous() for name, part in zip(names, tensor.chunk(len(names)), strict=True)}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    theirs, info = transformers.ViTMAEForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert not any(info[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return theirs


@pytest.mark.parametrize("normalize_targets", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_loss_prediction_and_every_gradient_are_those_of_transformers(tmp_path, normalize_targets, channels):
    model = build(channels=channels, normalize_targets=normalize_targets)
    theirs = load_theirs(model, tmp_path, channels)
    assert theirs.decoder.decoder_pos_embed.abs().max() > 0.9  # a fresh one would have zeroed them
    # Positions are frozen here; from_pretrained thaws theirs. Compared thawed, they say more.
    model.requires_grad_(True)
    theirs.requires_grad_(True)
    images, noise = batch(model)
    expected = theirs(images, noise=noise)
    output = model(images, noise)
    reconstruction = model.reconstruct(images, noise)

    torch.testing.assert_close(output.loss, expected.loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(reconstruction.prediction, expected.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(reconstruction.mask, expected.mask, rtol=0, atol=0)
    masked = expected.logits.take_along_dim(output.masked[..., None], dim=1)
    torch.testing.assert_close(output.prediction, masked, rtol=1e-5, atol=1e-5)
    assert torch.equal(theirs.patchify(images), patchify(images, (4, 4)))
    assert torch.equal(theirs.unpatchify(expected.logits), unpatchify(expected.logits, (4, 4), (4, 4)))

    output.loss.backward()
    expected.loss.backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in model.named_parameters():
        parts = [gradients.pop(their) for their in their_names(name, MEMORY_BLOCK, MEMORY_PREFIX)]
        difference = (parameter.grad - torch.cat(parts)).abs().max()
        assert difference < 1e-5, (name, difference)
        assert parameter.grad.abs().max() > 1e-4, name
    assert not gradients


@pytest.mark.parametrize("keep", [4, 7])
def test_the_mask_is_that_of_transformers(keep):
    transformers = pytest.importorskip("transformers")
    modeling = transformers.models.vit_mae.modeling_vit_mae
    config = transformers.ViTMAEConfig(image_size=16, patch_size=4, mask_ratio=1 - keep / 16 - 1e-6)
    noise = torch.rand(5, 16, generator=torch.Generator().manual_seed(0))
    sequence = torch.arange(16.0).expand(5, 16)[..., None]
    kept, mask, restore = modeling.ViTMAEEmbeddings(config).random_masking(sequence, noise)
    ours = random_mask(noise, keep)
    assert torch.equal(ours.keep, kept[..., 0].long())
    assert torch.equal(ours.restore, restore)
    assert torch.equal(torch.zeros(5, 16).scatter(1, ours.masked, 1.0), mask)


@pytest.mark.parametrize("width", [8, 192, 1280])
def test_positions_are_those_of_transformers(width):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTMAEConfig(
        image_size=28, patch_size=4, hidden_size=width, num_attention_heads=1, num_hidden_layers=1
    )
    # Not through a fresh model: building one passes over this initialisation and leaves zeros.
    embeddings = transformers.models.vit_mae.modeling_vit_mae.ViTMAEEmbeddings(config)
    embeddings.initialize_weights()
    assert torch.equal(sincos_positions((7, 7), width), embeddings.position_embeddings[0])


def test_positions_of_a_rectangle_follow_the_definition():
    table = sincos_positions((2, 5), 8)
    assert table.shape == (11, 8)
    assert torch.equal(table[0], torch.zeros(8))
    for row in range(2):
        for column in range(5):
            angles = [(column, 1), (column, 100), (row, 1), (row, 100)]
            a, b, c, d = (place / period for place, period in angles)
            waves = [
                math.sin(a),
                math.sin(b),
                math.cos(a),
                math.cos(b),
                math.sin(c),
                math.sin(d),
                math.cos(c),
                math.cos(d),
            ]
            torch.testing.assert_close(table[1 + 5 * row + column], torch.tensor(waves))


def slow_forward(model: MaskedAutoencoder, images: torch.Tensor, noise: torch.Tensor, normalize: bool):
    """The definition, an image at a time: all patches embedded by timm, tokens put back in place, all predicted."""
    encoder, losses, predictions = model.encoder, [], []
    for image, draw in zip(images, noise, strict=True):
        order = sorted(range(len(draw)), key=draw.tolist().__getitem__)
        keep, masked = order[: model.visible], order[model.visible :]
        tokens = encoder.patch_embed(image[None])[0] + encoder.pos_embed[0, 1:]
        class_token = encoder.cls_token[0] + encoder.pos_embed[0, :1]
        latent = encoder.norm(encoder.blocks(torch.cat([class_token, tokens[keep]])[None]))[0]
        embedded = model.decoder_embed(latent)
        places = [embedded[1 + keep.index(i)] if i in keep else model.mask_token[0, 0] for i in range(len(draw))]
        full = torch.stack([embedded[0], *places]) + model.decoder_pos_embed[0]
        prediction = model.decoder_pred(model.decoder_norm(model.decoder_blocks(full[None])))[0, 1:]
        predictions.append(prediction)
        (ph, pw), (_, columns) = model.patch_size, model.grid
        for i in masked:
            top, left = i // columns * ph, i % columns * pw
            target = image[:, top : top + ph, left : left + pw].permute(1, 2, 0).flatten()
            if normalize:
                variance = (target - target.mean()).square().sum() / (len(target) - 1)
                target = (target - target.mean()) / (variance + 1e-6).sqrt()
            losses.append((prediction[i] - target).square().mean())
    return torch.stack(losses).mean(), torch.stack(predictions)


@pytest.mark.parametrize("normalize_targets", [False, True])
@pytest.mark.parametrize(
    ("image_size", "patch_size", "channels"), [((8, 24), (4, 4), 3), ((24, 8), (2, 4), 1), ((12, 20), (6, 2), 5)]
)
def test_rectangles_follow_the_definition(image_size, patch_size, channels, normalize_targets):
    model = build(image_size, patch_size, channels, normalize_targets=normalize_targets)
    images, noise = batch(model)
    output = model(images, noise)
    ours = torch.autograd.grad(output.loss, [p for p in model.parameters() if p.requires_grad])
    loss, prediction = slow_forward(model, images, noise, normalize_targets)
    expected = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
    torch.testing.assert_close(output.loss, loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.reconstruct(images, noise).prediction, prediction, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("image_size", "patch_size"), [((16, 16), (4, 4)), ((8, 24), (2, 4))])
def test_with_nothing_masked_the_encoder_is_timms_forward(image_size, patch_size):
    model = build(image_size, patch_size)
    images, noise = batch(model)
    keep = noise.argsort(dim=1)
    tokens = model.encode(patchify(images, patch_size), keep)
    expected = model.encoder.forward_features(images)
    torch.testing.assert_close(tokens[:, 0], expected[:, 0], rtol=1e-5, atol=1e-5)
    shuffled = expected[:, 1:].take_along_dim(keep[..., None], dim=1)
    torch.testing.assert_close(tokens[:, 1:], shuffled, rtol=1e-5, atol=1e-5)
    features = model.features(images)
    torch.testing.assert_close(features.mean, expected[:, 1:].mean(1))
    torch.testing.assert_close(features.class_token, model.encoder(images))


def test_the_encoders_state_is_timms():
    encoder = create_encoder(EncoderConfig("vit_tiny_patch16_224", (224, 224), (16, 16)))
    plain = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    assert type(encoder) is VisionTransformer
    assert {name: tensor.shape for name, tensor in encoder.state_dict().items()} == {
        name: tensor.shape for name, tensor in plain.state_dict().items()
    }


# Millions of the encoder: the model cards of timm/vit_base_patch16_224.mae and timm/vit_huge_patch14_224.mae.
@pytest.mark.parametrize(
    ("name", "patch", "published"),
    [("vit_base_patch16_224", 16, 85.8), ("vit_large_patch16_224", 16, None), ("vit_huge_patch14_224", 14, 630.8)],
)
def test_parameter_counts_are_those_published_and_of_transformers(name, patch, published):
    transformers = pytest.importorskip("transformers")
    encoder = create_encoder(EncoderConfig(name, (224, 224), (patch, patch)))
    model = MaskedAutoencoder(encoder, DecoderConfig(), ObjectiveConfig())
    if published is not None:
        assert round(sum(parameter.numel() for parameter in encoder.parameters()) / 1e6, 1) == published
    config = transformers.ViTMAEConfig(
        hidden_size=encoder.embed_dim,
        num_hidden_layers=len(encoder.blocks),
        num_attention_heads=encoder.blocks[0].attn.num_heads,
        intermediate_size=4 * encoder.embed_dim,
        patch_size=patch,
    )
    with torch.device("meta"):
        theirs = transformers.ViTMAEForPreTraining(config)
    counts = [sum(parameter.numel() for parameter in one.parameters()) for one in (model, theirs)]
    assert counts[0] == counts[1]


def test_predicting_zero_costs_the_variance_of_the_normalised_targets():
    # The mean square of p values over their unbiased deviation is (p - 1) / p.
    model = build(normalize_targets=True)
    with torch.no_grad():
        model.decoder_pred.weight.zero_()
        model.decoder_pred.bias.zero_()
    images, noise = batch(model)
    assert model(images, noise).loss.item() == pytest.approx(47 / 48, abs=1e-5)
