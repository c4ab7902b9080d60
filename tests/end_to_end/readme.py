"""The README's commands for CIFAR-10, as printed. Tests get this as the fixture `readme`."""

import os
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

ROOT = Path(__file__).parents[2]
CIFAR10 = ROOT.parent / "shared/data/cifar10"


def script_of(words: list[str]) -> str:
    """The script that a command runs."""
    return next(word for word in words if word.endswith(".py"))


def printed() -> list[list[str]]:
    """The words of the commands in the README's block for CIFAR-10."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (block,) = (block for block in blocks if "uoft-cs/cifar10" in block)
    return [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]


def run(runs: "Runs", words: list[str], folder: Path, more: str = "") -> "Runs.Finished":
    """One command in a folder where scripts are found as in a checkout; the dataset is the local copy of the Hub's."""
    for package in ("data_pipeline", "pretrain", "finetune"):
        if not (folder / package).exists():
            (folder / package).symlink_to(ROOT / package)
    words = [str(CIFAR10) if word == "uoft-cs/cifar10" else word for word in words] + more.split()
    command = f"cd {shlex.quote(str(folder))} && exec {shlex.join(words)}"
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    script = script_of(words)
    return runs.Child(["bash", "-c", command], folder / f"log-{Path(script).stem}", path).wait(3000).expect(0)
