"""Views: which parts of an image are shown, at what size, mirrored or not. Drawn before anything is decoded."""

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from data_pipeline.arrays import Pixels
from data_pipeline.policy import Policy
from data_pipeline.randomness import Draws


class Crop(NamedTuple):
    """A box in pixels of the upright image (EXIF orientation applied), and whether its view is mirrored."""

    left: int
    top: int
    width: int
    height: int
    mirrored: bool


@runtime_checkable
class CropView(Protocol):
    """Shows a crop of a sample, resized to one size (height, width): no more of the image is decoded than it needs."""

    @property
    def size(self) -> tuple[int, int]: ...

    def draw(self, draws: Draws, width: int, height: int) -> Crop:
        """The crop for an upright image of this width and height in pixels."""
        ...

    def finish(self, draws: Draws, pixels: Pixels) -> Pixels:
        """What is done to the pixels of the crop, of this view's size, which may be read-only; returns as many of the
        same type. `draws` go on after the crop's.
        """
        ...


@runtime_checkable
class WholeView(Protocol):
    """Makes pixels of one size (height, width) from a whole image itself, as Pillow decodes it; nothing is drawn.

    Slower than a crop, and for pixels that must be another library's to the bit. Shown alone, never beside others.
    """

    @property
    def size(self) -> tuple[int, int]: ...

    def prepare(self, pixels: Pixels) -> Pixels:
        """Pixels of this view's size, given the upright image in full, (height, width, 3) in uint8."""
        ...


View = CropView | WholeView
"""How a sample becomes pixels of one size."""


@dataclass(frozen=True)
class RandomResizedCrop:
    """A random area and aspect ratio, resized to `size` (height, width), mirrored half of the time.

    Same distribution as torchvision's `RandomResizedCrop` followed by `RandomHorizontalFlip` (Szegedy et al. 2015).
    `scale` is the range of the crop's share of the area, `ratio` that of width / height. `policy` is applied after it.
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    mirror: float = 0.5
    policy: Policy | None = None

    def draw(self, draws: Draws, width: int, height: int) -> Crop:
        """Ten attempts at a box that fits, then the largest central one of an allowed ratio."""
        mirrored = draws.uniform() < self.mirror
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            area = width * height * draws.uniform(*self.scale)
            ratio = math.exp(draws.uniform(low, high))
            crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < crop_width <= width and 0 < crop_height <= height:
                left, top = draws.integer(width - crop_width + 1), draws.integer(height - crop_height + 1)
                return Crop(left, top, crop_width, crop_height, mirrored)
        crop_width = min(width, max(1, round(height * self.ratio[1])))
        crop_height = min(height, max(1, round(width / self.ratio[0])))
        return Crop((width - crop_width) // 2, (height - crop_height) // 2, crop_width, crop_height, mirrored)

    def finish(self, draws: Draws, pixels: Pixels) -> Pixels:
        """The policy, where there is one."""
        return pixels if self.policy is None else self.policy.apply(draws, pixels)


@dataclass(frozen=True)
class CenterCrop:
    """The largest central box of the size's aspect ratio, shrunk to `fraction` of its sides (.875: 224 of 256)."""

    size: tuple[int, int]
    fraction: float = 1.0

    def draw(self, draws: Draws, width: int, height: int) -> Crop:
        """Always the same box."""
        scale = self.fraction * min(height / self.size[0], width / self.size[1])
        crop_height = min(height, max(1, round(self.size[0] * scale)))
        crop_width = min(width, max(1, round(self.size[1] * scale)))
        return Crop((width - crop_width) // 2, (height - crop_height) // 2, crop_width, crop_height, mirrored=False)

    def finish(self, draws: Draws, pixels: Pixels) -> Pixels:
        """Nothing."""
        return pixels


@dataclass(frozen=True)
class MultiView:
    """Several views of every sample, which is read and decoded once: groups of a view and how many are drawn of it.

    Local and global crops: `MultiView(((RandomResizedCrop((224, 224)), 2), (RandomResizedCrop((96, 96)), 8)))`.

    Raises:
        ValueError: no group, or one without copies.
        TypeError: something that is no view, or one of whole images; groups are not put into groups.
    """

    groups: tuple[tuple[CropView, int], ...]

    def __post_init__(self) -> None:
        if not self.groups:
            raise ValueError("MultiView: no groups; expected at least one of (view, how many)")
        for view, copies in self.groups:
            if isinstance(view, WholeView):
                raise TypeError(f"MultiView: {view} is made of whole images; give it alone, or crops only")
            if not isinstance(view, CropView):
                raise TypeError(f"MultiView: {view!r} is no view; expected one such as RandomResizedCrop((224, 224))")
            if copies < 1:
                raise ValueError(f"MultiView: {copies} copies of {view}; expected at least 1, or leave it out")


Views = View | MultiView
"""What a stream shows of a sample: one view, or groups of several."""


def groups_of(views: Views) -> tuple[tuple[View, int], ...]:
    """Each view with the number of its copies; a single view is one group of one."""
    return views.groups if isinstance(views, MultiView) else ((views, 1),)


def check_policies(views: Views, channels: int, dtype: str) -> None:
    """Refuse policies and views of whole images on pixels that they cannot change.

    Raises:
        ValueError: a `Policy` or a `WholeView` on anything but three channels of uint8.
    """
    if isinstance(views, WholeView) and (channels, dtype) != (3, "uint8"):
        raise ValueError(
            f"{views}: works on 3 channels of uint8 only, and these images have {channels} of {dtype}; "
            "show them with CenterCrop"
        )
    for view, _ in groups_of(views):
        if isinstance(view, RandomResizedCrop) and view.policy is not None and (channels, dtype) != (3, "uint8"):
            raise ValueError(
                f"policy {view.policy}: changes 3 channels of uint8 only, and these images have {channels} of {dtype}; "
                "leave the policy out"
            )
