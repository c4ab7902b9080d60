"""Run a script that is killed, as by `kill -9`, at a chosen point of its work.

python crash_at.py POINT COUNT SCRIPT [argument ...]: the COUNT-th time that the point is reached, from 1. The points
are functions of the product, patched here from outside, so that the product has no hooks for tests.
"""

import importlib
import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

Function = Callable[..., Any]
# What is called instead of the function: it is given the function and its arguments, and never returns.
Ending = Callable[..., NoReturn]


def die(*_: Any, **__: Any) -> NoReturn:
    """Die before the function has done anything."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def die_after(function: Function, *arguments: Any, **named: Any) -> NoReturn:
    """Die when the function has done its work."""
    function(*arguments, **named)
    die()


def die_writing_a_line(_: Function, run: Any, metrics: dict[str, Any]) -> NoReturn:
    """Die with half of a line of metrics.jsonl on the disk."""
    line = repr(metrics).replace("'", '"')
    with open(run.metrics, "a") as file:
        file.write(line[: len(line) // 2])
    die()


def die_removing(_: Function, folder: Path, *__: Any, **___: Any) -> NoReturn:
    """Die with some of a folder's files removed."""
    sorted(folder.iterdir())[0].unlink()
    die()


def is_checkpoint(folder: Path, *_: Any, **__: Any) -> bool:
    """Whether a folder to be removed is a checkpoint, and not what is left of an unfinished one."""
    return Path(folder).name.startswith("step-")


def is_of_a_teacher(_: Any, path: Path, __: Any) -> bool:
    """Whether a file to be written says who teaches a run."""
    return path.name == "teacher.json"


def always(*_: Any, **__: Any) -> bool:
    """Every call counts."""
    return True


POINTS: dict[str, tuple[str, str, Ending, Callable[..., bool]]] = {
    "copy-half-taken": ("pretrain.snapshot", "Snapshot._copy", die_after, always),
    "writing-begun": ("pretrain.saver", "save_checkpoint", die, always),
    "checkpoint-half-written": ("pretrain.checkpoint", "save_file", die_after, always),
    "checkpoint-written": ("launch.atomic", "sync_tree", die_after, always),
    "checkpoint-renamed": ("os", "rename", die_after, always),
    "latest-moved": ("pretrain.checkpoint", "write_atomically", die_after, always),
    "pruning": ("shutil", "rmtree", die_removing, is_checkpoint),
    "line-torn": ("launch.run_folder", "RunFolder.append_metrics", die_writing_a_line, always),
    "line-whole": ("launch.run_folder", "RunFolder.append_metrics", die_after, always),
    "lines-being-cut": ("launch.run_folder", "write_atomically", die, always),
    "evaluation": ("pretrain.monitor", "knn_predict", die, always),
    "before-export": ("pretrain.model_folder", "save_model", die, always),
    "during-export": ("pretrain.model_folder", "save_for_hf", die_after, always),
    "before-exit": ("launch.run_folder", "RunFolder.write_exit", die, always),
    # Of distill.py.
    "teacher-recorded": ("launch.run_folder", "RunFolder.write_json", die_after, is_of_a_teacher),
    "cache-half-filled": ("pretrain.row_writer", "RowWriter.write", die_after, always),
    # Of shard.py, in the process that the user starts.
    "listing": ("data_pipeline.listing", "_Writer.finish", die, always),
    "listed": ("data_pipeline.corpus", "write_listing", die_after, always),
    "examined": ("data_pipeline.corpus", "select", die, always),
    "selecting": ("data_pipeline.selection", "sync_tree", die_after, always),
    "order-moved": ("data_pipeline.corpus", "_written_bytes", die, always),
    "sharded": ("data_pipeline.sharding", "describe_split", die, always),
    "quarantined": ("data_pipeline.sharding", "write_quarantine", die_after, always),
    "before-manifest": ("data_pipeline.sharding", "write_manifest", die, always),
    "manifest-written": ("data_pipeline.sharding", "write_manifest", die_after, always),
}


def crash_at(point: str, count: int) -> None:
    """Patch the point's function so that the process dies in or after its count-th call that counts."""
    module, path, ending, counts = POINTS[point]
    owner: Any = importlib.import_module(module)
    *holders, name = path.split(".")
    for holder in holders:
        owner = getattr(owner, holder)
    function = getattr(owner, name)
    calls = 0

    def patched(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += counts(*arguments, **named)
        if calls == count:
            ending(function, *arguments, **named)
        return function(*arguments, **named)

    setattr(owner, name, patched)


if __name__ == "__main__":
    crash_at(sys.argv[1], int(sys.argv[2]))
    sys.argv = sys.argv[3:]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
