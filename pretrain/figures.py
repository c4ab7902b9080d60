"""Pictures that a person looks at to see what a model has learned."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from launch.atomic import Guard, write_atomically
from pretrain.masked_autoencoder import MaskedAutoencoder, unpatchify
from pretrain.picture_rows import PictureRow, draw_rows
from pretrain.pixels import Normalization

_SPAN = 2.0  # deviations from grey to black and to white


def reconstruction_panel(
    path: Path,
    model: MaskedAutoencoder,
    images: Tensor,
    noise: Float[Tensor, "b n"],
    normalization: Normalization,
    *,
    title: str,
    what: str,
    guard: Guard | None = None,
) -> None:
    """A PNG of b columns: originals, what the encoder sees, and what the decoder makes of it, in labelled rows.

    Where targets are normalised, pixels need statistics of the hidden patches that the model does not predict: they are
    shown once with those that the visible patches suggest, and once with the true ones, which leak.
    images: (b, h, w, c) as stored, on the model's device. `what` they are is said, as "held-out images".
    """
    result = model.reconstruct(normalization.normalize(images), noise)

    def row(name: str, note: str, pixels: Tensor) -> PictureRow:
        return PictureRow(name, note, normalization.restore(pixels, images.dtype).cpu().numpy())

    originals = row("Originals", "", normalization.normalize(images))
    rows = [originals, _seen(model, result.mask, originals)]
    if result.estimated is None or result.normalized is None:
        rows += [row("Predicted", "in pixels: nothing leaks", result.pasted)]
    else:
        values = (result.normalized / (2 * _SPAN) + 0.5).clamp(0, 1).mul(255).round().byte()
        grey = (
            f"grey is a patch's mean, black and white lie {_SPAN:g} of its deviations from it; visible patches likewise"
        )
        estimated = "hidden patches' means and deviations interpolated from the visible patches: nothing leaks"
        leaked = "hidden patches' true means and deviations, which the model does not know"
        rows += [
            PictureRow("Predicted, normalised", grey, values.permute(0, 2, 3, 1).cpu().numpy()),
            row("Predicted, in pixels", estimated, result.estimated),
            row("Predicted, in pixels, leaked statistics", leaked, result.pasted),
        ]
    write_atomically(path, draw_rows(title, _note(model, images, what), rows), guard)


def _seen(model: MaskedAutoencoder, mask: Float[Tensor, "b n"], originals: PictureRow) -> PictureRow:
    sides = model.patch_size[0] * model.patch_size[1]
    hidden = unpatchify(mask[..., None].expand(-1, -1, sides), model.patch_size, model.grid)[:, 0] > 0  # (b, h, w)
    note = f"{model.visible} of {model.patches} patches"
    return PictureRow("Seen by the encoder", note, originals.images, hidden.cpu().numpy())


def _note(model: MaskedAutoencoder, images: Tensor, what: str) -> str:
    count, height, width, channels = images.shape
    rows, columns = model.patch_size
    hidden = 1 - model.visible / model.patches
    parts = [
        f"{count} {what} of {height} x {width} pixels, in patches of {rows} x {columns}",
        f"{100 * hidden:.3g} % hidden",
    ]
    if channels not in (1, 3):
        parts.append(f"channels 1 to 3 of {channels} shown" if channels > 3 else f"channel 1 of {channels} shown")
    if images.dtype != torch.uint8:
        parts.append(f"{str(images.dtype).removeprefix('torch.')} shown stretched around each channel's mean")
    return "; ".join(parts)
