"""The lines that a model card gives its readers, for the library that loads the folder; run before they are published.

They read image.png (or, of datasets that are no pictures, image.npy) in the working folder.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from PIL import Image

from finetune.finished_run import FinishedRun
from finetune.proof_inputs import Inputs
from finetune.publish_config import Format
from finetune.published_model import PublishedModel
from finetune.stock_process import WITHOUT_SHERD, last_line
from pretrain.facebook_folder import facebook_config
from pretrain.supervised_config import SupervisedConfig

_TEMPLATES = Path(__file__).with_name("snippets.py.jinja")


@dataclass(frozen=True)
class Snippet:
    """Lines for a library, and what they printed for one image."""

    library: str
    code: str
    printed: str = ""


@dataclass(frozen=True)
class Place:
    """Where readers of a card find the model: the folder beside them, or a repository of the Hub."""

    folder: str
    repository: str | None = None
    revision: str | None = None

    @property
    def timm(self) -> str:
        """What timm.create_model takes."""
        if self.repository is None:
            return f"local-dir:{self.folder}"
        return f"hf-hub:{self.repository}" + (f"@{self.revision}" if self.revision else "")

    @property
    def name(self) -> str:
        """What from_pretrained takes."""
        return self.repository or self.folder


def write_snippet(
    layout: Format, run: FinishedRun, model: PublishedModel, place: Place, *, by_class_token: bool
) -> Snippet:
    """The lines for the library that loads the format, not yet run."""
    environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters["quoted"] = lambda value: json.dumps(value, ensure_ascii=False)
    template = environment.from_string(_TEMPLATES.read_text(encoding="utf-8"))
    split = run.manifest.split(run.held_out.split)
    has_several = isinstance(run.config, SupervisedConfig) and run.config.label_field is not None
    described: dict[str, Any] = facebook_config(model.model) if layout == "facebook" else {}
    code = template.render(
        layout=layout,
        kind=model.kind,
        place=place,
        several=has_several,
        classes=run.exported.classes,
        by_class_token=by_class_token,
        is_picture=split.extension != "npy",
        full_scale={"uint8": 255, "uint16": 65_535, "float32": 1}[split.dtype],
        described=described,
        normalization=run.exported.normalization,
        size=run.view.size,
        crop_fraction=run.view.fraction,
    ).strip()
    return Snippet("Transformers" if layout == "transformers" else "timm", code + "\n")


def run_snippet(snippet: Snippet, folder: Path, place: Place, inputs: Inputs) -> Snippet:
    """Run it as it is written, beside the folder and an image, where sherd cannot be imported; with what it printed.

    Raises:
        ValueError: it fails.
    """
    with tempfile.TemporaryDirectory() as name:
        around = Path(name)
        (around / place.folder).symlink_to(folder.resolve(), target_is_directory=True)
        put_image(around, inputs)
        return replace(snippet, printed=run_lines(snippet.code, around))


def put_image(folder: Path, inputs: Inputs) -> None:
    """The first image, under the name that the lines read."""
    if inputs.stored:
        pixels = inputs.pixels[0].numpy()
        Image.fromarray(pixels).save(folder / "image.png")
    else:
        np.save(folder / "image.npy", inputs.pixels[0].numpy())


def run_lines(code: str, folder: Path) -> str:
    """What a program printed that ran in `folder`. Raises ValueError where it fails."""
    program = f"{WITHOUT_SHERD}\nimport os\nos.chdir({str(folder)!r})\n{code}"
    command = [sys.executable, "-I", "-c", program]
    finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise ValueError(
            f"the lines of the model card do not run: {last_line(finished.stderr, finished.returncode)}. "
            f"The lines:\n{code}"
        )
    return finished.stdout
