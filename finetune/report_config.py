"""The options of finetune/report.py; imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


@dataclass(frozen=True)
class ReportConfig:
    """What is told of, and where.

    Raises:
        ValueError: no folder, a page that is not .html, no images.
    """

    folders: Positional[Annotated[tuple[str, ...], arg(metavar="FOLDER [FOLDER ...]", help_behavior_hint="")]]
    """Run folders of pretrain/ and finetune/ scripts, folders of finetune/probe.py or finetune/benchmark.py."""
    out: str = "report.html"
    """The page to write; one that is there already is replaced."""
    images: int = 4
    """Held-out images that attention is shown on, of each finished model."""

    def __post_init__(self) -> None:
        if not self.folders:
            raise ValueError(
                "expected at least one folder, got none; give those of runs, probes or benchmarks: report.py runs/x"
            )
        if not self.out.endswith((".html", ".htm")):
            raise ValueError(f"--out {self.out}: expected the name of a page, ending in .html; try {self.out}.html")
        if Path(self.out).is_dir():
            raise ValueError(f"--out {self.out}: is a folder, expected the name of a page; try {self.out}/report.html")
        if self.images < 1:
            raise ValueError(f"--images expects a positive number, got {self.images}")
