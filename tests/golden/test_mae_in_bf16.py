"""In bfloat16 the masked autoencoder differs from itself in fp32, and from Transformers' ViTMAE, by rounding alone."""

import math

import pytest
import torch

from pretrain.masked_autoencoder import patchify

SHAPES = [((16, 16), 1), ((16, 16), 3), ((16, 16), 5), ((8, 32), 3), ((32, 8), 5)]


def rms(values: torch.Tensor) -> float:
    return values.double().square().mean().sqrt().item()


# A value is rounded to bfloat16 by at most 2^-8 of itself, so by 2^-8 / sqrt(3) in the mean square. On its way to a
# prediction it is 69 times: 3 in the patch embedding (input, weight, result), in each of the 5 blocks 12 (both norms'
# results; weight and result of qkv, proj, fc1 and fc2; attention's and GELU's), 3 each in decoder_embed and
# decoder_pred. Independent errors add by their squares, and residual connections do not let them grow.
BF16_SPREAD = math.sqrt(69) * 2**-8 / math.sqrt(3)


@pytest.mark.parametrize("normalize_targets", [False, True])
@pytest.mark.parametrize(("image_size", "channels"), SHAPES)
def test_in_bf16_all_that_differs_is_explained_by_rounding(
    autoencoders, tmp_path, image_size, channels, normalize_targets
):
    model = autoencoders.build(image_size, channels=channels, normalize_targets=normalize_targets)
    theirs = autoencoders.load_theirs(model, tmp_path)
    images, noise = autoencoders.batch(model, 32)
    found = {}
    with torch.no_grad():
        for precision in ("fp32", "bf16"):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                ours, reference = model(images, noise), theirs(images, noise=noise)
            logits = reference.logits.take_along_dim(ours.masked[..., None], dim=1)
            assert {ours.prediction.dtype, logits.dtype} == {torch.float32 if precision == "fp32" else torch.bfloat16}
            found[precision] = ours, logits.float(), reference.loss
    (exact, their_exact, _), (low, their_low, their_loss) = found["fp32"], found["bf16"]
    assert torch.equal(low.masked, exact.masked), "the mask must not depend on the precision"
    prediction, size = low.prediction.float(), rms(exact.prediction)

    ours_off, theirs_off = rms(prediction - exact.prediction) / size, rms(their_low - their_exact) / size
    assert 2**-10 < ours_off < BF16_SPREAD  # below it nothing was computed in bfloat16
    assert ours_off < 1.1 * theirs_off, "rounded at more places than Transformers' rounds"
    # The same roundings of sums in another order: most errors are shared.
    assert rms(prediction - their_low) / size < max(ours_off, theirs_off)

    # What predictions that are off by so much can change of a mean of squares, by the triangle inequality.
    for other, other_loss in ((exact.prediction, exact.loss), (their_low, their_loss)):
        off = rms(prediction - other)
        assert abs(low.loss - other_loss) <= 1.001 * (2 * math.sqrt(other_loss) * off + off**2)
    # The loss itself is not rounded.
    targets = patchify(images, (4, 4)).take_along_dim(low.masked[..., None], dim=1).double()
    if normalize_targets:
        targets = (targets - targets.mean(-1, keepdim=True)) / (targets.var(-1, keepdim=True) + 1e-6).sqrt()
    assert low.loss.item() == pytest.approx(rms(prediction - targets) ** 2, rel=1e-6)


@pytest.mark.parametrize("channels", [1, 5])
def test_gradients_in_bf16_are_as_near_as_those_of_transformers(autoencoders, tmp_path, channels):
    model = autoencoders.build(channels=channels)
    theirs = autoencoders.load_theirs(model, tmp_path)
    model.requires_grad_(True)
    theirs.requires_grad_(True)
    images, noise = autoencoders.batch(model, 16)

    def gradients(network, precision, **arguments):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = network(images, **arguments).loss
        loss.backward()
        return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])

    off = []
    for network in (model, theirs):
        exact, low = (gradients(network, precision, noise=noise) for precision in ("fp32", "bf16"))
        off.append(((low - exact).norm() / exact.norm()).item())
    # Backward rounds as often again.
    assert 2**-10 < off[0] < math.sqrt(2) * BF16_SPREAD
    assert off[0] < 1.1 * off[1]
