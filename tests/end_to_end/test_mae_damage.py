"""Damaged checkpoints, damaged shards and full disks: what is whole is used, and what is not is named."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

Case = Callable[["Runs", Path, Path, Path], None]


def half_way(undisturbed: Path, out: Path, step: int = 21) -> Path:
    """A copy of the run as it was after a step: what came later is removed."""
    shutil.copytree(undisturbed, out)
    for later in ("encoder", "figures"):
        shutil.rmtree(out / later)
    (out / "exit.json").unlink()
    for checkpoint in (out / "checkpoints").glob("step-*"):
        if checkpoint.name > f"step-{step:08d}":
            shutil.rmtree(checkpoint)
    (out / "checkpoints/latest").write_text(f"step-{step:08d}\n")
    lines = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    (out / "metrics.jsonl").write_text("".join(line for line in lines if json.loads(line)["step"] <= step))
    return out


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def refuse(runs: "Runs", data: Path, out: Path, *options: object) -> str:
    finished = runs.train(data, out, *options).wait().expect(1)
    assert finished.err.count("\n") == 1
    assert finished.err.startswith("mae.py: ")
    assert runs.read_exit(out)["status"] == "failed"
    return finished.err


def newest_checkpoint(runs: "Runs", digits: Path, undisturbed: Path, folder: Path) -> None:
    """A byte of the newest is flipped, the one before it is cut short, and the one before that lacks a file."""
    out = half_way(undisturbed, folder / "run", 28)
    checkpoints = out / "checkpoints"
    flip(checkpoints / "step-00000028/model.safetensors", 5000)
    cut = checkpoints / "step-00000021/optimizer.safetensors"
    os.truncate(cut, cut.stat().st_size - 1)
    (checkpoints / "step-00000014/checksums.json").unlink()
    finished = runs.finish(digits, out, "--keep-checkpoints", 100)
    on = "going on from step-00000007, the newest whole one before it"
    for damage in (
        "step-00000028: model.safetensors differs from its checksum",
        "step-00000021: optimizer.safetensors differs from its checksum",
    ):
        assert f"warning: checkpoint {checkpoints}/{damage}; {on}" in finished.out
    assert f"warning: checkpoint {checkpoints}/step-00000014: not whole (" in finished.out
    assert "going on from" in finished.out
    runs.assert_same(out, undisturbed)
    same = runs.contents(undisturbed / "checkpoints")
    assert runs.contents(checkpoints) == same


def all_checkpoints(runs: "Runs", digits: Path, undisturbed: Path, folder: Path) -> None:
    out = half_way(undisturbed, folder / "run")
    for checkpoint in (out / "checkpoints").glob("step-*"):
        flip(checkpoint / "optimizer.safetensors", 3000)
    before = runs.contents(out / "checkpoints")
    said = refuse(runs, digits, out)
    assert f"{out / 'checkpoints'}: no whole checkpoint (" in said
    assert "restore one from a backup, or remove the run folder to begin again" in said
    assert runs.contents(out / "checkpoints") == before


def truncated_shard(runs: "Runs", digits: Path, undisturbed: Path, folder: Path) -> None:
    """The message's own command mends it, and the run goes on."""
    data = folder / "some data"
    shutil.copytree(digits, data)
    shard = data / "train-000000.tar"
    size = shard.stat().st_size
    os.truncate(shard, size - 1000)
    out = half_way(undisturbed, folder / "run")
    said = refuse(runs, data, out)
    assert f"shard train-000000.tar: manifest lists {size} bytes, found {size - 1000}; rewrite it with: " in said
    command = shlex.split(said.partition("rewrite it with: ")[2])
    assert command[:2] == ["python", "data_pipeline/shard.py"]
    runs.Child(runs.python(runs.ROOT / command[1], *command[2:]), folder / "repair").wait().expect(0)
    runs.finish(data, out)
    assert runs.metrics(out) == runs.metrics(undisturbed)


def altered_shard(runs: "Runs", digits: Path, undisturbed: Path, folder: Path) -> None:
    data = folder / "data"
    shutil.copytree(digits, data)
    for offset in range(512, (data / "train-000000.tar").stat().st_size, 1024):
        flip(data / "train-000000.tar", offset)
    said = refuse(runs, data, half_way(undisturbed, folder / "run"))
    assert "shard train-000000.tar: sample " in said
    assert "stage read: checksum " in said
    assert "rewrite it with: python data_pipeline/shard.py --source digits " in said
    assert f" --out {data} --only train-000000.tar" in said


def other_data(runs: "Runs", digits: Path, undisturbed: Path, folder: Path) -> None:
    data = folder / "data"
    words = runs.python(runs.ROOT / "data_pipeline/shard.py", "--source", "digits", "--out", data, "--seed", 1)
    runs.Child(words, folder / "shard").wait().expect(0)
    said = refuse(runs, data, half_way(undisturbed, folder / "run"))
    assert "cannot resume the stream: fingerprints was [" in said
    assert "the dataset is another one than the run was begun with: give its folder with --data" in said


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of 16 MB; skips the test where there cannot be one."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, leave: int) -> None:
    """Leave so many bytes free."""
    free = shutil.disk_usage(disk).free
    with (disk / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free - leave)


def full_disk(runs: "Runs", digits: Path, undisturbed: Path, folder: Path) -> None:
    """First it has no room for a checkpoint, then none for a line; each time the run goes on once there is some."""
    disk = folder / "disk"
    out = disk / "run"
    words = runs.python(runs.MAE, *runs.options(digits, out))
    with small_disk(disk):
        for leave, step in ((100_000, 8), (0, 22)):
            run = runs.start(words, folder / "log")
            latest = out / "checkpoints/latest"  # a thread writes it, and may come to it late
            run.wait_until(lambda wanted=step, latest=latest: runs.last_step(out) >= wanted and latest.exists())
            before = runs.newest(out)
            whole = runs.contents(before)
            fill(disk, leave)
            full = run.wait().expect(1)
            assert run.is_gone(), f"processes remain: {run.members()}"
            named = "checkpoints/step-00000014" if leave > 0 else ""
            assert full.err.startswith(f"mae.py: {out}/{named}")
            assert "the disk is full: " in full.err
            assert "Free some space (older checkpoints, other runs) and give the same command again" in full.err
            assert full.err.count("\n") == 1
            # What then could not be written either must not hide why.
            assert not any(name in full.err for name in ("exit.json", ".lock"))
            assert runs.contents(before) == whole
            if leave > 0:
                assert runs.read_exit(out)["status"] == "failed"
                assert "the disk is full" in runs.read_exit(out)["error"]
            (disk / "filler").unlink()
        runs.start(words, folder / "log").wait().expect(0)
        runs.assert_same(out, undisturbed)


CASES: list[Case] = [full_disk, newest_checkpoint, all_checkpoints, truncated_shard, altered_shard, other_data]


@pytest.fixture(scope="module")
def outcomes(
    runs: "Runs",
    digits: Path,
    undisturbed: Path,
    side_by_side: ThreadPoolExecutor,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[Case, Future[None]]:
    """All cases, some at a time; each test waits for its own."""
    return {
        case: side_by_side.submit(case, runs, digits, undisturbed, tmp_path_factory.mktemp(case.__name__))
        for case in CASES
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_damage(outcomes: dict[Case, Future[None]], case: Case) -> None:
    outcomes[case].result()
