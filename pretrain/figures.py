"""Pictures that a person looks at to see what a model has learned."""

import io
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray
from torch import Tensor

from launch.atomic import Guard, write_atomically
from pretrain.masked_autoencoder import MaskedAutoencoder, patchify, unpatchify
from pretrain.pixels import Normalization

_GREY = 0.5


def reconstruction_panel(
    path: Path,
    model: MaskedAutoencoder,
    images: Tensor,
    noise: Tensor,
    normalization: Normalization,
    *,
    title: str,
    guard: Guard | None = None,
) -> None:
    """A PNG of b columns: originals, what the encoder sees, and what the decoder makes of it.

    images: uint8, (b, h, w, c), on the model's device. noise: (b, n).
    """
    pixels = normalization.normalize(images)
    result = model.reconstruct(pixels, noise)
    hidden = result.mask[..., None].expand(-1, -1, _patch_values(model))
    covered = unpatchify(
        torch.where(hidden > 0, _GREY, patchify(images.permute(0, 3, 1, 2) / 255, model.patch_size)),
        model.patch_size,
        model.grid,
    )
    share = 1 - model.visible / model.patches
    leak = ", each patch with its true mean and deviation" if result.leaked_statistics else ""
    rows = [
        ("held-out images", images.cpu().numpy()),
        (f"what the encoder sees ({share:.0%} hidden)", (covered * 255).byte().permute(0, 2, 3, 1).cpu().numpy()),
        (f"reconstructed{leak}; visible patches as they were", normalization.restore(result.pasted).cpu().numpy()),
    ]
    write_atomically(path, _draw(rows, title), guard)


def _draw(rows: list[tuple[str, NDArray[np.uint8]]], title: str) -> bytes:
    columns = len(rows[0][1])
    layout = ConstrainedLayoutEngine(hspace=0.2)  # room for the labels
    figure = Figure(figsize=(1.15 * columns, 1.35 * len(rows) + 0.4), dpi=150, layout=layout)
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, (label, images) in zip(grid, rows, strict=True):
        # Not a title, which would widen its column: a label is longer than the image it begins above.
        line[0].text(0, 1.06, label, fontsize=8, transform=line[0].transAxes).set_in_layout(False)
        for axes, image in zip(line, images, strict=True):
            axes.imshow(image, interpolation="nearest")
            axes.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _patch_values(model: MaskedAutoencoder) -> int:
    return model.patch_size[0] * model.patch_size[1] * model.image_shape[0]
