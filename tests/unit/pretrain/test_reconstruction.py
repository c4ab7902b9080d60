"""Where targets are normalised: a prediction by itself, and in pixels without a look at what is hidden."""

import torch

from pretrain.config import DecoderConfig, EncoderConfig, ObjectiveConfig
from pretrain.encoder import create_encoder
from pretrain.masked_autoencoder import MaskedAutoencoder, patchify, unpatchify
from pretrain.visible_statistics import interpolate_hidden


def small(channels: int, *, normalize_targets: bool) -> MaskedAutoencoder:
    config = EncoderConfig("vit_tiny_patch16_224", (12, 24), (3, 4), channels=channels, width=24, depth=1, heads=2)
    model = MaskedAutoencoder(create_encoder(config), DecoderConfig(16, 1, 2), ObjectiveConfig(0.75, normalize_targets))
    model.initialize(torch.Generator().manual_seed(0))
    return model


def batch(model: MaskedAutoencoder) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, *model.image_shape, generator=generator)
    return images, torch.rand(3, model.patches, generator=generator)


def test_hidden_pixels_reach_neither_the_normalised_picture_nor_that_with_interpolated_statistics():
    for channels in (1, 3, 5):
        model = small(channels, normalize_targets=True)
        images, noise = batch(model)
        result = model.reconstruct(images, noise)
        hidden = result.mask[..., None].expand(-1, -1, 3 * 4 * channels)
        other = torch.randn(images.shape, generator=torch.Generator().manual_seed(2)) * 3 + 1
        changed = torch.where(unpatchify(hidden, (3, 4), (4, 6)) > 0, other, images)
        again = model.reconstruct(changed, noise)
        assert result.estimated is not None
        assert again.estimated is not None
        assert result.normalized is not None
        assert again.normalized is not None
        assert torch.equal(result.estimated, again.estimated)
        assert torch.equal(result.normalized, again.normalized)
        assert not torch.equal(result.pasted, again.pasted), "the true statistics do leak"


def test_what_the_pictures_hold():
    model = small(3, normalize_targets=True)
    images, noise = batch(model)
    result = model.reconstruct(images, noise)
    assert result.estimated is not None
    assert result.normalized is not None
    truth, estimated, normalized = (
        patchify(pixels, (3, 4)) for pixels in (images, result.estimated, result.normalized)
    )
    mean, deviation = truth.mean(dim=-1, keepdim=True), (truth.var(dim=-1, keepdim=True) + 1e-6).sqrt()
    visible = result.mask == 0
    assert torch.equal(estimated[visible], truth[visible])
    torch.testing.assert_close(normalized[visible], ((truth - mean) / deviation)[visible])
    assert torch.equal(normalized[~visible], result.prediction[~visible])
    guess = interpolate_hidden(torch.cat((mean, deviation), dim=-1), visible, (4, 6), (3, 4))
    expected = result.prediction * guess[..., 1:] + guess[..., :1]
    torch.testing.assert_close(estimated[~visible], expected[~visible])


def test_targets_that_are_pixels_need_no_statistics():
    result = small(3, normalize_targets=False).reconstruct(*batch(small(3, normalize_targets=False)))
    assert (result.estimated, result.normalized, result.leaked_statistics) == (None, None, False)
