"""Runs of pretrain/distill.py without a teacher's cache and with one, in processes of their own."""

import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from command import run_script

from launch.atomic import atomic_folder

_FILLED = re.compile(r"^computed the teacher's logits .* in ([\d,.]+) s$", re.MULTILINE)
_LOG_EVERY = 2  # steps
_WARMING_UP = 1  # lines of the log that are not counted

CONTENDERS = ("none", "all", "kept")
"""Without a cache, with one of all logits, with one of the most probable classes."""
Round = dict[str, dict[str, Any]]
"""What was measured of each contender: see `_measured`."""


@dataclass(frozen=True)
class Setting:
    """What all runs share; `kept` is of the smaller cache."""

    data: str
    teacher: str
    recipe: str
    kind: str
    kept: int
    epochs: int
    seed: int
    precision: str
    workers: int
    threads: int

    def words(self, contender: str, out: Path, cache: Path) -> list[str]:
        """Script and options of a run, which fills `cache` where that is not there."""
        words = ["pretrain/distill.py", self.recipe, "--data", self.data, "--teacher", self.teacher, "--out", str(out)]
        words += ["--distillation.kind", self.kind, "--epochs", str(self.epochs)]
        words += ["--seed", str(self.seed), "--precision", self.precision, "--workers", str(self.workers)]
        words += ["--views", "1", "--mixing.mixup", "0", "--mixing.cutmix", "0", "--augmentation.erasing", "0"]
        words += ["--optimizer.warmup-epochs", "0", "--evaluate-epochs", "0", "--log-every", str(_LOG_EVERY)]
        if contender != "none":
            words += ["--cache-teacher.views", str(self.epochs), "--cache-teacher.folder", str(cache)]
        if contender == "kept":
            words += ["--cache-teacher.classes", str(self.kept)]
        return words


def measure(setting: Setting, rounds: int, work: Path, report: Callable[[str], object]) -> list[Round]:
    """What was measured in each round; `report` is told of each run that has ended.

    Raises:
        CommandError: one has failed.
    """
    work.mkdir(parents=True, exist_ok=True)
    measured = []
    with tempfile.TemporaryDirectory(dir=work, prefix="teacher-cache-") as name:
        for number in range(rounds):
            found: Round = {}
            for contender in CONTENDERS[:: -1 if number % 2 else 1]:
                out, cache = Path(name, f"{contender}-{number}"), Path(name, f"cache-{contender}")
                said = run_script(setting.words(contender, out, cache), setting.threads)
                found[contender] = _measured(out, cache, said, setting.epochs)
                report(contender)
            measured.append(found)
    return measured


def digits(work: Path, threads: int, say: Callable[[str], object]) -> tuple[str, str]:
    """The folders of the digits and of a small CNN trained on them, which are made where they are not there.

    Raises:
        CommandError: they could not be.
    """
    folder = work / "teacher-cache-digits"
    if not folder.exists():
        say(f"making the digits and a teacher of them, to be kept: {folder}")
        work.mkdir(parents=True, exist_ok=True)
        with atomic_folder(folder) as new:
            data, run = str(new / "data"), str(new / "run")
            run_script(["data_pipeline/shard.py", "--source", "digits", "--out", data], threads)
            recipe = ["finetune/classify.py", "digits-backbone", "--epochs", "4", "--evaluate-epochs", "0"]
            run_script([*recipe, "--data", data, "--out", run], threads)
    return str(folder / "data"), str(folder / "run")


def _measured(out: Path, cache: Path, said: str, epochs: int) -> dict[str, Any]:
    """images_per_second: median over the log. losses: by step. filling_seconds: None where the cache was there; bytes:
    of its files, None without one.

    The last step may reach beyond the last epoch, where a cache begins to repeat its views: its loss is left out.
    """
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "images_per_second" in line]
    filled = _FILLED.search(said)
    return {
        "images_per_second": median(line["images_per_second"] for line in logged[_WARMING_UP:] or logged),
        "losses": {line["step"]: line["loss"] for line in logged if line["epoch"] <= epochs},
        "filling_seconds": float(filled[1].replace(",", "")) if filled else None,
        "bytes": sum(path.stat().st_size for path in cache.glob("*.npy")) if cache.exists() else None,
    }
