"""A frozen model whose features are to be learnt: of the image as a whole, and of its places.

Shapes: b images, c and d numbers of a feature, n = rows x columns places.
"""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from pretrain.class_agreement import check_channels
from pretrain.encoder import Size
from pretrain.model_source import ModelSource
from pretrain.out_of_memory import OutOfMemoryError, is_out_of_memory
from pretrain.pixels import Normalization
from pretrain.teacher import as_shown
from pretrain.teacher_clock import TeacherClock
from pretrain.teacher_source import build_teacher
from pretrain.world import World


class TeacherFeatures(NamedTuple):
    """Of the image: the class token, or what the model's head sees where it has none. Of its places, row by row."""

    image: Float[Tensor, "b c"]
    places: Float[Tensor, "b n d"]


class FeatureTeacher:
    """Any timm model that gives tokens on a grid, or a map. In evaluation mode, without gradients, in no checkpoint.

    It sees what a student sees, by its own statistics and at its own size (resized bicubic, with antialiasing). Where
    its grid differs from the student's, its places are interpolated (bilinear), with antialiasing too: a student of
    fewer places learns in each an average of all around it, and not of the four nearest alone.

    Args:
        source: as `find_teacher` gives it.
        world: every process has a teacher of its own.
        seen: how the images that it will be given were normalised.
        grid: the student's rows and columns of places.
        image_size: height and width at which it sees images; None for its own.

    Raises:
        ValueError: it takes images of other channels, cannot see that size, or its features do not lie on a grid.
    """

    def __init__(
        self, source: ModelSource, world: World, *, seen: Normalization, grid: Size, image_size: Size | None = None
    ) -> None:
        check_channels(source, len(seen.mean), "--teacher")
        self.clock = TeacherClock(world.device)
        self._world, self._seen, self._student_grid = world, seen, grid
        model = build_teacher(source)
        if image_size not in (None, source.backbone.size):
            _resize(model, image_size, source)
            source = replace(source, backbone=replace(source.backbone, image_size=image_size))
        self.source = source
        self._model: Any = model.to(world.device)
        blank = torch.zeros(1, source.backbone.channels, *source.backbone.size, device=world.device)
        try:
            with torch.no_grad():
                image, places, self.grid = self._look(blank)
        except (RuntimeError, AssertionError) as error:
            refused = f"cannot see images of {_by(source.backbone.size)} pixels ({error})"
            raise ValueError(self._refusal(refused)) from error
        self.widths: tuple[int, int] = (image.shape[1], places.shape[2])

    @torch.no_grad()
    def features(self, images: Float[Tensor, "b ch h w"]) -> TeacherFeatures:
        """Its features, in fp32, of images as the student sees them; of each image by itself, but for rounding.

        Raises:
            OutOfMemoryError: it does not fit the memory beside the student.
        """
        with self.clock.counting():
            try:
                with self._world.autocast():
                    image, places, grid = self._look(as_shown(images, self._seen, self.source))
                return TeacherFeatures(image.float(), to_grid(places.float(), grid, self._student_grid))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
        raise OutOfMemoryError(  # not within, where the error still holds on to what did not fit
            f"out of memory where the teacher, {self.source.name}, looks at {len(images):,} images at once in each "
            f"process ({self._world.precision}); give a smaller --batch-size, more processes, a smaller teacher, or a "
            "smaller --teacher-image-size"
        )

    def sentence(self) -> str:
        """What it is, for a person."""
        parameters = sum(parameter.numel() for parameter in self._model.parameters())
        resized = "" if self.grid == self._student_grid else f", interpolated to {_by(self._student_grid)}"
        return (
            f"teacher: {self.source.backbone.name} of {self.source.name}, {parameters / 1e6:.1f} M parameters, frozen; "
            f"it sees {_by(self.source.backbone.size)} pixels and gives {self.widths[0]} features of the image, "
            f"{self.widths[1]} of each of {_by(self.grid)} places{resized}"
        )

    def _look(self, images: Tensor) -> tuple[Tensor, Tensor, Size]:
        """Features of the image (b, c), of places (b, n, d), and their grid."""
        model, size = self._model, self.source.backbone.size
        found = model.forward_features(images)
        if not isinstance(found, Tensor) or found.ndim not in (3, 4):
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(self._refusal(f"gives no features of places, but {shape}"))
        if found.ndim == 4:
            # timm says so where channels come last
            channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
            places = found if channels_last else found.permute(0, 2, 3, 1)
            return model.forward_head(found, pre_logits=True), places.flatten(1, 2), (places.shape[1], places.shape[2])
        grid = _grid_of(model, size)
        prefix = getattr(model, "num_prefix_tokens", 0)
        if grid is None or prefix + math.prod(grid) != found.shape[1]:
            raise ValueError(self._refusal(f"gives {found.shape[1]} tokens, which lie on no grid that timm tells of"))
        if getattr(model, "cls_token", None) is None:
            return model.forward_head(found, pre_logits=True), found[:, prefix:], grid
        if isinstance(getattr(model, "norm", None), nn.Identity) and hasattr(model, "fc_norm"):
            found = model.fc_norm(found)  # models that pool the mean have their last norm there
        return found[:, 0], found[:, prefix:], grid

    def _refusal(self, why: str) -> str:
        return (
            f"--teacher {self.source.name}: {self.source.backbone.name} {why}; choose a vision transformer such as "
            "vit_base_patch16_dinov3.lvd1689m or vit_base_patch14_dinov2.lvd142m, or a run of pretrain/mae.py"
        )


def to_grid(places: Float[Tensor, "b n d"], grid: Size, other: Size) -> Float[Tensor, "b m d"]:
    """Features of places on another grid (rows, columns): bilinear, with antialiasing; as they are on the same one."""
    if grid == other:
        return places
    maps = places.unflatten(1, grid).permute(0, 3, 1, 2)  # (b, n, d) -> (b, d, rows, columns)
    return functional.interpolate(maps, other, mode="bilinear", antialias=True).flatten(2).mT


def _resize(model: Any, size: Size, source: ModelSource) -> None:
    """Let a model of fixed size see another, where timm can: positions are interpolated, grids told."""
    said = f"--teacher-image-size {_by(size)}: {source.backbone.name}"
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if patch is not None and any(side % step for side, step in zip(size, patch, strict=True)):
        near = [max(step, round(side / step) * step) for side, step in zip(size, patch, strict=True)]
        raise ValueError(f"{said} has patches of {_by(patch)}; give a size that they divide, such as {_spaced(near)}")
    if hasattr(model, "set_input_size"):
        with torch.no_grad():
            model.set_input_size(img_size=size)
        model.requires_grad_(False)
    elif patch is not None:
        raise ValueError(f"{said} sees {_by(source.backbone.size)} alone; leave --teacher-image-size out")


def _grid_of(model: Any, size: Size) -> Size | None:
    embed: Any = getattr(model, "patch_embed", None)
    if hasattr(embed, "dynamic_feat_size"):
        rows, columns = embed.dynamic_feat_size(size)
        return rows, columns
    grid = getattr(embed, "grid_size", None)
    return None if grid is None else (grid[0], grid[1])


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))


def _spaced(numbers: list[int]) -> str:
    return " ".join(map(str, numbers))
