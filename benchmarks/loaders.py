"""The loader against every other one: per core, end to end, reading alone, and where the time goes.

python benchmarks/loaders.py --out benchmarks/loaders.json

python benchmarks/loaders.py --only imagefolder sherd --rounds 3 --seconds 5

All are measured in turn, each in a process of its own, several times; what counts are medians of ratios within a round,
since the speed of a machine that others use as well drifts. The other libraries: pip install -e '.[benchmark]'; those
that are not installed are left out. The images are written in each library's format once and kept, about 2 GB.
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loader_contenders import BASES, CONTENDERS, TARGETS, Contender

from launch.settings import parse_options

if TYPE_CHECKING:
    from launch.console import Console

_SIZE, _SMALL_SIZE = 224, 32
_SMALL = "small/"
_PROCESS = Path(__file__).with_name("loader_process.py")
_PATIENCE = 300.0  # seconds beyond the measurement, after which a contender hangs
_DISTRIBUTIONS = (
    *("sherd", "torch", "torchvision", "pillow", "simplejpeg", "nvidia-nvimgcodec-cu13", "nvidia-nvimgcodec-cu12"),
    *("numpy", "webdataset", "datasets", "pyarrow", "mosaicml-streaming", "litdata"),
)
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sherd/benchmarks"


@dataclass(frozen=True)
class Options:
    """What is measured."""

    images: str = "../shared/data/imagenet_samples/train.parquet"
    """Parquet file of photographs, as `datasets` writes it: `image` and `label`."""
    copies: int = 10
    """Of each of them, so that an epoch has some length."""
    small: str = "../shared/data/cifar10/train.parquet"
    """The same of small images."""
    work: str = str(_CACHE)
    """Folder for the images in all formats, kept between runs."""
    rounds: int = 5
    """All contenders are measured in turn so often."""
    seconds: float = 10.0
    """How long each is measured in a round, after its start and some batches to warm up."""
    workers: int = 2
    """Worker processes of each loader; it gets as many cores, and no more."""
    batch_size: int = 128
    """Images of a batch."""
    only: tuple[str, ...] = ()
    """Only these contenders; all by default."""
    out: str = ""
    """JSON file for the results; none if empty."""

    def __post_init__(self) -> None:
        names = [contender.name for contender in CONTENDERS]
        unknown = [name for name in self.only if name not in names]
        if unknown:
            raise ValueError(f"--only {' '.join(unknown)}: expected some of {' '.join(names)}")
        for name in ("copies", "rounds", "workers", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}, expected at least 1")
        if not self.seconds > 0:
            raise ValueError(f"--seconds is {self.seconds:g}, expected more than 0")


def main(options: Options) -> None:
    """Write what is not there yet, measure, print the tables, write the JSON."""
    from loader_tables import group_table, is_met, is_noisy, outcome, stage_table, target_table
    from machine import describe_machine, machine_line

    from launch.atomic import write_json
    from launch.console import Console

    console = Console()
    described = describe_machine(_DISTRIBUTIONS)  # before the work of this benchmark is part of the load
    chosen = [contender for contender in CONTENDERS if not options.only or contender.name in options.only]
    os.environ |= {
        "HF_HOME": str(Path(options.work).resolve() / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "LITDATA_DISABLE_VERSION_CHECK": "1",  # which asks the network
        "LITDATA_POSIX_MAX_WORKERS": "0",  # as many as are asked for, however little memory is free
    }
    folders = _inputs(options, chosen, console)
    rounds, absent = _run(options, chosen, folders, console)

    console.say(f"\n{machine_line(described)}")
    console.say(
        f"{options.rounds} rounds of {options.seconds:g} s, medians; ratios are of rates in the same round (least to "
        f"greatest); {options.workers} workers and cores end to end, batches of {options.batch_size}. float32 is "
        "normalised where it is loaded, as the users of these libraries do; uint8 is normalised on the device."
    )
    tables = [group_table(group, rounds, absent) for group in BASES]
    for table in (*tables, stage_table(rounds), target_table(rounds)):
        if table:
            console.say(f"\n{table}")
    if options.out:
        targets = [
            {**target._asdict(), "measured": found.median, "met": is_met(rounds, target), "noisy": is_noisy(found)}
            for target in TARGETS
            if (found := outcome(rounds, target)) is not None
        ]
        result = {
            **described,
            "options": asdict(options),
            "contenders": [contender._asdict() for contender in chosen],
            "absent": absent,
            "targets": targets,
            "rounds": rounds,
        }
        write_json(Path(options.out), result)


def _inputs(options: Options, chosen: list[Contender], console: "Console") -> dict[str, Path]:
    """The folder of each format that is needed, by the name that contenders give it."""
    from loader_data import root_of, write_formats

    folders: dict[str, Path] = {}
    sources = ((_SMALL, options.small, 1), ("", options.images, options.copies))
    for prefix, source, copies in sources:
        data = {contender.data for contender in chosen if contender.data.startswith(_SMALL) == bool(prefix)}
        if not data:
            continue
        try:
            root = root_of(Path(options.work), Path(source), copies)
        except ValueError as error:
            raise SystemExit(f"loaders.py: {error}") from None
        formats = [name.removeprefix(prefix) for name in sorted(data)]
        write_formats(root, Path(source), copies, formats, console.say)
        folders |= {prefix + name: root / name for name in formats}
    return folders


def _run(
    options: Options, chosen: list[Contender], folders: dict[str, Path], console: "Console"
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """What was measured, round by round, and why some could not be."""
    rounds: list[dict[str, Any]] = []
    absent: dict[str, str] = {}
    with console.progress(options.rounds * len(chosen), unit="measurements", label="measure") as progress:
        for _ in range(options.rounds):
            rounds.append({})
            for contender in chosen:
                if contender.name not in absent:
                    result = _measure(options, contender, folders[contender.data])
                    if "absent" in result:
                        absent[contender.name] = result["absent"]
                    else:
                        rounds[-1][contender.name] = result
                progress.advance(last=contender.name, round=len(rounds))
    return rounds, absent


def _measure(options: Options, contender: Contender, folder: Path) -> dict[str, Any]:
    """One contender, once, in a fresh process; `absent` with the reason where it could not be measured."""
    job = {
        "contender": contender.name,
        "data": str(folder),
        "size": _SMALL_SIZE if contender.data.startswith(_SMALL) else _SIZE,
        "seconds": options.seconds,
        "workers": options.workers,
        "batch_size": options.batch_size,
        "began": time.perf_counter(),
    }
    process = subprocess.Popen(
        [sys.executable, str(_PROCESS), json.dumps(job)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=options.seconds + _PATIENCE)
    except subprocess.TimeoutExpired:
        return {"absent": f"failed: no answer {_PATIENCE:g} s after the time it should take"}
    finally:
        with suppress(ProcessLookupError):  # workers that outlive it would take part in the next measurement
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode != 0:
        print(errors, file=sys.stderr)
        return {"absent": f"failed: {(errors.strip().splitlines() or ['no message'])[-1]}"}
    return json.loads(output.splitlines()[-1])


if __name__ == "__main__":
    assert __doc__ is not None
    main(parse_options(__doc__, Options))
