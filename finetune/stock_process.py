"""Runs `stock.py`, and the lines of a model card, in a process that cannot import sherd."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from finetune.publish_config import Format

# Sent as text, so that no file of sherd needs to be found there.
WITHOUT_SHERD = """
import sys

class NoSherd:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("launch", "data_pipeline", "pretrain", "finetune"):
            raise ModuleNotFoundError(f"No module named {name!r}: sherd is kept out", name=name)

sys.meta_path.insert(0, NoSherd())
"""
_CALL = "\nimport sys\nmain(sys.argv[1], sys.argv[2], Path(sys.argv[3]))\n"
_PROGRAM = WITHOUT_SHERD + Path(__file__).with_name("stock.py").read_text(encoding="utf-8") + _CALL


@dataclass(frozen=True)
class Answer:
    """Outputs by name: of the images as given, and as the library prepared them where it could; the names of its
    classes as it tells them, and versions by library.
    """

    given: dict[str, Tensor]
    prepared: dict[str, Tensor]
    label_names: list[str] | None
    versions: dict[str, str]


def ask_stock(layout: Format, folder: Path, inputs: Mapping[str, Tensor], stored: tuple[bytes, ...] = ()) -> Answer:
    """What the stock library of a layout computes from a model folder, for prepared images and for files.

    Raises:
        ValueError: it cannot use the folder.
    """
    with tempfile.TemporaryDirectory() as name:
        exchange = Path(name)
        save_file(dict(inputs), exchange / "given.safetensors")
        if stored:
            (exchange / "stored").mkdir()
        for number, content in enumerate(stored):
            (exchange / "stored" / f"{number:04d}").write_bytes(content)
        command = [sys.executable, "-I", "-c", _PROGRAM, layout, str(folder.resolve()), name]
        finished = subprocess.run(command, cwd=name, capture_output=True, text=True, check=False)
        if finished.returncode != 0:
            raise ValueError(f"{last_line(finished.stderr, finished.returncode)}")
        outputs, told = load_file(exchange / "outputs.safetensors"), json.loads((exchange / "told.json").read_text())
    of: dict[str, dict[str, Tensor]] = {"given": {}, "prepared": {}}
    for name, values in outputs.items():
        kind, _, output = name.partition(".")
        of[kind][output] = values
    return Answer(of["given"], of["prepared"], told["label_names"], told["versions"])


def last_line(printed: str, code: int) -> str:
    """Where a program's complaint ends, for a message."""
    return (printed.strip() or f"exit code {code}").splitlines()[-1]
