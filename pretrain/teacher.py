"""A frozen classifier that judges the very pixels that a student sees."""

from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from pretrain.model_source import ModelSource
from pretrain.out_of_memory import OutOfMemoryError, is_out_of_memory
from pretrain.pixels import Normalization, column
from pretrain.teacher_clock import TeacherClock
from pretrain.teacher_source import build_teacher
from pretrain.world import World


class Teacher:
    """On the world's device, without gradients, in the world's precision.

    It is no module: nothing of it can become part of a student, and so of its checkpoints, its optimizer, or what
    processes share. `clock` counts the time that it takes.

    Args:
        source: a model with a head, as `find_teacher` gives it.
        world: every process has a teacher of its own.

    Raises:
        ValueError: the weights are not those of such a model.
    """

    def __init__(self, source: ModelSource, world: World) -> None:
        assert source.classes > 0, "`check_classes` refuses a model without a head"
        self.source, self.clock = source, TeacherClock(world.device)
        self._world = world
        self._model = build_teacher(source).to(world.device)

    @cached_property
    def sha256(self) -> str:
        """Of its file of weights, in hex."""
        return self.source.sha256

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "b c h w"], seen: Normalization) -> Float[Tensor, "b classes"]:
        """Its logits of a student's images, in fp32: of each image by itself, whatever else is in the batch, but for
        rounding. A distilled transformer of two heads gives their average.

        Args:
            images: as the student sees them, on the world's device.
            seen: how they were normalised.

        Raises:
            OutOfMemoryError: it does not fit the memory beside the student.
        """
        with self.clock.counting(), self._world.autocast():
            try:
                return self._model(as_shown(images, seen, self.source)).float()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
        raise OutOfMemoryError(  # not within, where the error still holds on to what did not fit
            f"out of memory where the teacher, {self.source.name}, judges {len(images):,} images at once in each "
            f"process ({self._world.precision}); give a smaller --batch-size, more processes, or a smaller teacher"
        )

    def sentence(self, size: tuple[int, int]) -> str:
        """Which model it is and how it sees a student's images of a height and a width, for the user."""
        source, own = self.source, self.source.backbone.size
        millions = sum(parameter.numel() for parameter in self._model.parameters()) / 1e6
        resized = "" if size == own else f" resized to {own[0]} x {own[1]} (bicubic)"
        colours = [
            f"{name} {' '.join(f'{value:g}' for value in getattr(source.normalization, name))}"
            for name in ("mean", "std")
        ]
        return (
            f"teacher: {source.name}, a {source.backbone.name} of {millions:.1f} M parameters and {source.classes:,} "
            f"classes, which sees the student's {size[0]} x {size[1]} pixels{resized} with {', '.join(colours)}"
        )


def as_shown(
    images: Float[Tensor, "b c h w"], seen: Normalization, source: ModelSource
) -> Float[Tensor, "b c height width"]:
    """The same pixels as a model is used to see them: with its normalisation instead of `seen`, and at its size."""
    own, size = source.normalization, source.backbone.size
    if own != seen:
        channels = list(zip(seen.mean, seen.std, own.mean, own.std, strict=True))
        # (x seen_std + seen_mean - own_mean) / own_std, as one product and one sum.
        factors = column([theirs / std for _, theirs, _, std in channels], images.device)
        terms = column([(theirs - mean) / std for theirs, _, mean, std in channels], images.device)
        images = torch.addcmul(terms, images, factors)
    if images.shape[2:] == size:
        return images
    return functional.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True)
