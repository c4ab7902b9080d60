"""Whether a stock library, given a model folder, computes what a run's own weights compute here."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from finetune.proof_inputs import Inputs
from finetune.publish_config import Format
from finetune.published_model import Compared, PublishedModel
from finetune.stock_process import ask_stock
from launch.file_hash import file_sha256

TOLERANCE = 1e-5
"""Of float32 outputs: absolute, and of each value relative as well."""


@dataclass(frozen=True)
class StockPreparation:
    """What becomes of the outputs when the library's own transform prepares the stored images.

    `top1_agrees` counts the images with the same most likely class, None without classes; `least_cosine` is the
    smallest cosine between the two outputs of an image.
    """

    largest_difference: float
    top1_agrees: int | None
    least_cosine: float


@dataclass(frozen=True)
class Proof:
    """How far a library's outputs are from those of the checkpoint; `files` gives the SHA-256 of what the folder holds.

    `stock_preparation` is None where the library prepares no images of this kind by itself.
    """

    compared: Compared
    largest_difference: float
    tolerance: float
    images: int
    shape: tuple[int, ...]
    split: str
    split_fingerprint: str
    inputs_sha256: str
    stock_preparation: StockPreparation | None
    versions: dict[str, str]
    files: dict[str, str]
    layout: Format = "timm"

    @property
    def library(self) -> str:
        """Who computed it, for a sentence."""
        return library_of(self.layout, self.compared)


def prove(
    layout: Format, folder: Path, model: PublishedModel, inputs: Inputs, class_names: tuple[str, ...] | None
) -> Proof:
    """Compare what the library of a format loads from `folder` with the run's own weights, on the CPU in fp32.

    Raises:
        ValueError: the library cannot load the folder, names other classes, or differs by more than 1e-5.
    """
    library, given = library_of(layout, model.compared), model.inputs(inputs.images)
    ours = model.compute(given)
    try:
        answer = ask_stock(layout, folder, given, inputs.stored)
    except ValueError as error:
        raise ValueError(f"{library} alone cannot use the exported model: {error}; {_AGAIN}") from error
    names = None if answer.label_names is None else tuple(answer.label_names)
    if names != class_names and (class_names is not None or layout != "transformers"):
        raise ValueError(
            f"the exported config.json names the classes {answer.label_names}, the run's dataset "
            f"{list(class_names or ())}; {_AGAIN}"
        )
    difference = compare(answer.given, ours, whose(library), "the newest checkpoint", _AGAIN)
    prepared = answer.prepared.get(model.compared)
    main = ours[model.compared]
    return Proof(
        compared=model.compared,
        largest_difference=difference,
        tolerance=TOLERANCE,
        images=len(main),
        shape=tuple(main.shape),
        split=inputs.part.split,
        split_fingerprint=inputs.part.manifest.split(inputs.part.split).fingerprint,
        inputs_sha256=inputs.sha256,
        stock_preparation=None
        if prepared is None
        else compare_preparations(prepared, main, has_classes=model.kind == "classifier"),
        versions=answer.versions,
        files=hashes_in(folder),
        layout=layout,
    )


def library_of(layout: Format, compared: Compared) -> str:
    """Who loads a format, for a sentence. facebook's own code is in no package index: others read its files."""
    is_timms = layout == "timm" or (layout == "facebook" and compared != "prediction")
    return "timm" if is_timms else "Transformers"


def check_library(layout: Format, compared: Compared) -> None:
    """Raise ValueError unless the library that is to load a format is installed here."""
    library = library_of(layout, compared)
    if find_spec(library.lower()) is None:
        raise ValueError(f"{library} computes the proof, and is not installed here; pip install {_INSTALLED[library]}")


_INSTALLED = {"timm": "timm", "Transformers": "'transformers>=4.53'"}


def whose(library: str) -> str:
    """The genitive."""
    return library + ("'" if library.endswith("s") else "'s")


OUTPUTS: dict[Compared, str] = {
    "logits": "logits",
    "tokens": "tokens after the final norm",
    "prediction": "predictions of all patches",
}
"""What is compared, for a sentence."""


def hashes_in(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path in there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}


def compare(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], theirs: str, of: str, fix: str) -> float:
    """The largest difference between outputs of the same names and shapes.

    Raises:
        ValueError: others, or one that is too large; says whose outputs are compared with those of what, and the fix.
    """
    shapes = {name: tuple(values.shape) for name, values in found.items()}
    wanted = {name: tuple(values.shape) for name, values in expected.items()}
    if shapes != wanted:
        raise ValueError(f"{theirs} outputs from the exported model are {shapes}, those of {of} {wanted}; {fix}")
    difference, is_close = 0.0, True
    for name, values in expected.items():
        difference = max(difference, largest_difference(found[name], values), key=_with_nan)
        is_close &= torch.allclose(found[name], values, rtol=TOLERANCE, atol=TOLERANCE)
    if not is_close:
        images = len(next(iter(expected.values())))
        raise ValueError(
            f"the exported model is not the run's: {theirs} outputs differ by {difference:.3g} from those of {of} on "
            f"{images} images, expected at most {TOLERANCE:g}; {fix}"
        )
    return difference


def _with_nan(value: float) -> float:
    return float("inf") if value != value else value  # noqa: PLR0124 - what is not a number is the largest


def largest_difference(a: Tensor, b: Tensor) -> float:
    """Of any two values that stand at the same place; NaN where one is not a number."""
    return (a.double() - b.double()).abs().max().item()


def compare_preparations(theirs: Tensor, ours: Tensor, *, has_classes: bool) -> StockPreparation:
    """Two outputs (n, ...) of the same images, prepared by a library and by us."""
    flat = theirs.flatten(1).double(), ours.flatten(1).double()
    return StockPreparation(
        largest_difference=largest_difference(theirs, ours),
        top1_agrees=int((theirs.argmax(dim=1) == ours.argmax(dim=1)).sum()) if has_classes else None,
        least_cosine=torch.nn.functional.cosine_similarity(*flat).min().item(),
    )


_AGAIN = "give the command that began the run again: it writes the model anew from its checkpoint"
