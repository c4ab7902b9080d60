"""Whether timm alone, given a model folder, computes what a run's own weights compute here."""

import hashlib
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from data_pipeline.augment import View
from data_pipeline.chunks import chunks
from data_pipeline.manifest import locate_sample, sample_starts
from data_pipeline.rows import Part
from data_pipeline.storage import ShardReader
from launch.file_hash import file_sha256
from pretrain.model_folder import WEIGHTS
from pretrain.pixels import Normalization

TOLERANCE = 1e-5
_IMAGES = 64
_AT_ONCE = 16  # on both sides: the size of a batch may decide in which order a library sums

# What the other process runs. It is sent as text, so that no file of sherd needs to be found there.
WITHOUT_SHERD = """
import sys

class NoSherd:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("launch", "data_pipeline", "pretrain", "finetune"):
            raise ModuleNotFoundError(f"No module named {name!r}: sherd is kept out", name=name)

sys.meta_path.insert(0, NoSherd())
"""
_STOCK = f"""{WITHOUT_SHERD}
import json, platform
from pathlib import Path

import PIL, safetensors, timm, timm.data, torch, torchvision
from PIL import Image
from safetensors.torch import load_file, save_file

folder, exchange = sys.argv[1], Path(sys.argv[2])
model = timm.create_model(f"local-dir:{{folder}}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
files = sorted((exchange / "stored").iterdir())
images = {{
    "given": load_file(exchange / "given.safetensors")["images"],
    "prepared": torch.stack([transform(Image.open(file).convert("RGB")) for file in files]),
}}
compute = model if model.num_classes else model.forward_features
with torch.inference_mode():
    outputs = {{name: torch.cat([compute(few) for few in all.split({_AT_ONCE})]) for name, all in images.items()}}
save_file(outputs, exchange / "outputs.safetensors")
libraries = [torch, torchvision, timm, safetensors, PIL]
told = {{
    "label_names": model.pretrained_cfg.get("label_names"),
    "versions": {{"python": platform.python_version(), **{{each.__name__: each.__version__ for each in libraries}}}},
}}
(exchange / "told.json").write_text(json.dumps(told))
"""


@dataclass(frozen=True)
class Inputs:
    """Images as a run prepares them for evaluation, and the bytes that they are stored as, n of each."""

    part: Part
    images: Float[Tensor, "n c h w"]
    stored: tuple[bytes, ...]

    @property
    def sha256(self) -> str:
        """Of the prepared values as little-endian float32, row by row."""
        return hashlib.sha256(self.images.numpy().astype("<f4").tobytes()).hexdigest()


@dataclass(frozen=True)
class StockPreparation:
    """What becomes of the outputs when timm's own transform prepares the stored images.

    `top1_agrees` counts the images with the same most likely class, None without classes; `least_cosine` is the
    smallest cosine between the two outputs of an image.
    """

    largest_difference: float
    top1_agrees: int | None
    least_cosine: float


@dataclass(frozen=True)
class Proof:
    """How far timm's outputs are from those of the checkpoint; `files` gives the SHA-256 of what was loaded."""

    compared: Literal["logits", "tokens"]
    largest_difference: float
    tolerance: float
    images: int
    shape: tuple[int, ...]
    split: str
    split_fingerprint: str
    inputs_sha256: str
    stock_preparation: StockPreparation
    versions: dict[str, str]
    files: dict[str, str]


def gather_inputs(part: Part, view: View, normalization: Normalization, most: int = _IMAGES) -> Inputs:
    """The first images of a split, at most so many, without those that do not decode.

    Raises:
        ValueError: none of them decodes.
    """
    split = part.manifest.split(part.split)
    samples = split.members(most)
    (chunk,) = chunks(part, view, len(samples), samples=samples)
    valid = chunk.valid.numpy()
    if not valid.any():
        raise ValueError(f"{part.manifest.folder} [{part.split}]: none of its first {len(samples)} images decodes")
    reader = ShardReader(part.manifest, split)
    shards, rows = locate_sample(sample_starts(split), samples[valid])
    stored = [bytes(reader.image(int(shard), int(row))[0]) for shard, row in zip(shards, rows, strict=True)]
    return Inputs(part, normalization.normalize(chunk.images[chunk.valid]).contiguous(), tuple(stored))


def prove(folder: Path, model: nn.Module, inputs: Inputs, class_names: tuple[str, ...] | None) -> Proof:
    """Compare what timm loads from `folder` with `model`, which holds the run's own weights, on the CPU in fp32.

    Logits where there is a head, otherwise all tokens after the final norm.

    Raises:
        ValueError: timm cannot load the folder, names other classes, or differs by more than 1e-5; or a weight is not
            the run's, bit for bit.
    """
    ours = _compute(model, inputs.images)
    outputs, told = _run_timm(folder, inputs)
    names = told["label_names"]
    if (None if names is None else tuple(names)) != class_names:
        raise ValueError(
            f"the exported config.json names the classes {names}, the run's dataset {list(class_names or ())}; {_AGAIN}"
        )
    given, prepared = outputs["given"], outputs["prepared"]
    if given.shape != ours.shape:
        raise ValueError(
            f"timm computes outputs {tuple(given.shape)} from the exported model, the run's newest checkpoint "
            f"{tuple(ours.shape)}; {_AGAIN}"
        )
    difference = largest_difference(given, ours)
    if not difference <= TOLERANCE:  # also where it is not a number
        raise ValueError(
            f"the exported model is not the run's: timm's outputs differ by {difference:.3g} from those of the newest "
            f"checkpoint on {len(ours)} images, expected at most {TOLERANCE:g}; {_AGAIN}"
        )
    _check_weights(folder, model)
    return Proof(
        compared="logits" if has_head(model) else "tokens",
        largest_difference=difference,
        tolerance=TOLERANCE,
        images=len(ours),
        shape=tuple(ours.shape),
        split=inputs.part.split,
        split_fingerprint=inputs.part.manifest.split(inputs.part.split).fingerprint,
        inputs_sha256=inputs.sha256,
        stock_preparation=compare_preparations(prepared, ours, has_classes=has_head(model)),
        versions=told["versions"],
        files={path.name: file_sha256(path) for path in sorted(folder.iterdir())},
    )


def largest_difference(a: Tensor, b: Tensor) -> float:
    """Of any two values that stand at the same place; NaN where one is not a number."""
    return (a.double() - b.double()).abs().max().item()


def compare_preparations(theirs: Tensor, ours: Tensor, *, has_classes: bool) -> StockPreparation:
    """Two outputs (n, ...) of the same images, prepared by timm and by us."""
    flat = theirs.flatten(1).double(), ours.flatten(1).double()
    return StockPreparation(
        largest_difference=largest_difference(theirs, ours),
        top1_agrees=int((theirs.argmax(dim=1) == ours.argmax(dim=1)).sum()) if has_classes else None,
        least_cosine=torch.nn.functional.cosine_similarity(*flat).min().item(),
    )


def has_head(model: nn.Module) -> bool:
    """Whether a timm model gives logits."""
    return getattr(model, "num_classes", 0) > 0


_AGAIN = "give the command that began the run again: it writes the model anew from its checkpoint"


def _check_weights(folder: Path, model: nn.Module) -> None:
    """A new head's weights are so small that a change elsewhere may stay below what outputs are compared by."""
    exported = load_file(folder / WEIGHTS)
    changed = [name for name, own in model.state_dict().items() if not torch.equal(exported[name], own)]
    if changed:
        raise ValueError(
            f"the exported model is not the run's: {', '.join(changed[:3])} differ from the newest checkpoint, though "
            f"by too little to change the outputs by {TOLERANCE:g}; {_AGAIN}"
        )


@torch.inference_mode()
def _compute(model: nn.Module, images: Float[Tensor, "n c h w"]) -> Tensor:
    compute = model if has_head(model) else model.forward_features
    assert callable(compute)
    return torch.cat([compute(few) for few in images.split(_AT_ONCE)])


def _run_timm(folder: Path, inputs: Inputs) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The outputs for the images as given and as timm prepares them, and what else the process tells."""
    with tempfile.TemporaryDirectory() as name:
        exchange = Path(name)
        save_file({"images": inputs.images}, exchange / "given.safetensors")
        (exchange / "stored").mkdir()
        for number, content in enumerate(inputs.stored):
            (exchange / "stored" / f"{number:04d}").write_bytes(content)
        command = [sys.executable, "-I", "-c", _STOCK, str(folder.resolve()), name]
        finished = subprocess.run(command, cwd=name, capture_output=True, text=True, check=False)
        if finished.returncode != 0:
            last = (finished.stderr.strip() or f"exit code {finished.returncode}").splitlines()[-1]
            raise ValueError(f"timm alone cannot use the exported model: {last}; {_AGAIN}")
        return load_file(exchange / "outputs.safetensors"), json.loads((exchange / "told.json").read_text())
