"""The masked autoencoder against Transformers' ViTMAE, timm's own forward, and slower code written from the paper."""

import math

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from pretrain.config import DecoderConfig, EncoderConfig, ObjectiveConfig
from pretrain.encoder import create_encoder, sincos_positions
from pretrain.masked_autoencoder import MaskedAutoencoder, patchify, random_mask, unpatchify

SHAPES = [((16, 16), 1), ((16, 16), 3), ((16, 16), 5), ((8, 32), 3), ((32, 8), 5)]


@pytest.mark.parametrize("normalize_targets", [False, True])
@pytest.mark.parametrize(("image_size", "channels"), SHAPES)
def test_loss_prediction_and_every_gradient_are_those_of_transformers(
    autoencoders, tmp_path, image_size, channels, normalize_targets
):
    model = autoencoders.build(image_size, channels=channels, normalize_targets=normalize_targets)
    theirs = autoencoders.load_theirs(model, tmp_path)
    assert theirs.decoder.decoder_pos_embed.abs().max() > 0.9  # a fresh one would have zeroed them
    # Positions are frozen here; from_pretrained thaws theirs. Compared thawed, they say more.
    model.requires_grad_(True)
    theirs.requires_grad_(True)
    images, noise = autoencoders.batch(model)
    expected = theirs(images, noise=noise)
    output = model(images, noise)
    reconstruction = model.reconstruct(images, noise)

    torch.testing.assert_close(output.loss, expected.loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(reconstruction.prediction, expected.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(reconstruction.mask, expected.mask, rtol=0, atol=0)
    masked = expected.logits.take_along_dim(output.masked[..., None], dim=1)
    torch.testing.assert_close(output.prediction, masked, rtol=1e-5, atol=1e-5)
    assert torch.equal(theirs.patchify(images), patchify(images, (4, 4)))
    whole = theirs.unpatchify(expected.logits, original_image_size=image_size)
    assert torch.equal(whole, unpatchify(expected.logits, (4, 4), model.grid))

    output.loss.backward()
    expected.loss.backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in model.named_parameters():
        theirs_of_it = autoencoders.their_names(name, autoencoders.MEMORY_BLOCK, autoencoders.MEMORY_PREFIX)
        parts = [gradients.pop(their) for their in theirs_of_it]
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
def test_rectangles_follow_the_definition(autoencoders, image_size, patch_size, channels, normalize_targets):
    model = autoencoders.build(image_size, patch_size, channels, normalize_targets=normalize_targets)
    images, noise = autoencoders.batch(model)
    output = model(images, noise)
    ours = torch.autograd.grad(output.loss, [p for p in model.parameters() if p.requires_grad])
    loss, prediction = slow_forward(model, images, noise, normalize_targets)
    expected = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
    torch.testing.assert_close(output.loss, loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.reconstruct(images, noise).prediction, prediction, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("image_size", "patch_size"), [((16, 16), (4, 4)), ((8, 24), (2, 4))])
def test_with_nothing_masked_the_encoder_is_timms_forward(autoencoders, image_size, patch_size):
    model = autoencoders.build(image_size, patch_size)
    images, noise = autoencoders.batch(model)
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


def test_predicting_zero_costs_the_variance_of_the_normalised_targets(autoencoders):
    # The mean square of p values over their unbiased deviation is (p - 1) / p.
    model = autoencoders.build(normalize_targets=True)
    with torch.no_grad():
        model.decoder_pred.weight.zero_()
        model.decoder_pred.bias.zero_()
    images, noise = autoencoders.batch(model)
    assert model(images, noise).loss.item() == pytest.approx(47 / 48, abs=1e-5)
