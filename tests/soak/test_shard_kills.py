"""Sharding that is killed twenty-five times at random, and sharding by one worker and by four: the same bytes.

SHERD_SOAK_SEED repeats the moments of an earlier run, as far as the machine's own pace allows.
"""

import datetime
import os
import random
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

KILLS = 25


def say(text: str) -> None:
    print(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} {text}", flush=True)


@pytest.fixture(scope="module")
def cifar(runs: "Runs") -> Path:
    folder = runs.ROOT.parent / "shared/data/cifar10"
    if not folder.exists():
        pytest.skip(f"{folder} is absent")
    return folder


def shard(runs: "Runs", source: Path, out: Path, *options: object) -> "Runs.Child":
    words = runs.python(runs.ROOT / "data_pipeline/shard.py", "--source", source, "--out", out, *options)
    return runs.start(words, out.parent / f"{out.name}-log-{time.monotonic_ns()}")


@pytest.fixture(scope="module")
def undisturbed(runs: "Runs", cifar: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CIFAR-10, sharded by one worker, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("cifar") / "out"
    began = time.monotonic()
    shard(runs, cifar, folder, "--workers", 1).wait(600).expect()
    (folder.parent / "seconds").write_text(str(time.monotonic() - began))
    return folder


def test_one_worker_and_four_write_the_same(runs: "Runs", cifar: Path, undisturbed: Path, tmp_path: Path) -> None:
    shard(runs, cifar, tmp_path / "out", "--workers", 4).wait(600).expect()
    assert runs.contents(tmp_path / "out") == runs.contents(undisturbed)
    say(f"CIFAR-10 by 1 and by 4 workers: {len(runs.contents(undisturbed))} files, the same bytes")


def test_killed_twenty_five_times(runs: "Runs", cifar: Path, undisturbed: Path, tmp_path: Path) -> None:
    seed = int(os.environ.get("SHERD_SOAK_SEED", random.SystemRandom().randrange(10**6)))
    dice = random.Random(seed)
    whole = float((undisturbed.parent / "seconds").read_text())
    say(f"sharding CIFAR-10, {whole:.0f} s undisturbed, SHERD_SOAK_SEED={seed}")
    kills = rounds = 0
    while kills < KILLS:
        rounds += 1
        out = tmp_path / f"out-{rounds}"
        while kills < KILLS and not (out / "manifest.json").exists():
            child = shard(runs, cifar, out, "--workers", 2)
            seconds = dice.uniform(0.5, whole / 2)
            how = dice.choice(["the command", "everything", "a worker"])
            deadline = time.monotonic() + seconds
            while child.process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            if child.process.poll() is not None:
                break
            strike(child, how, dice)
            kills += 1
            child.wait(60)
            assert child.is_gone(40), f"processes remain: {child.members()}"
            records = len(list((out / ".work").glob("*.tar.json")))
            say(f"kill {kills}/{KILLS}, round {rounds}: {how} after {seconds:.1f} s; {records} shards were whole")
        shard(runs, cifar, out, "--workers", 2).wait(600).expect()
        assert runs.contents(out) == runs.contents(undisturbed)
        say(f"round {rounds} ended with the bytes of the undisturbed one")


def strike(child: "Runs.Child", how: str, dice: random.Random) -> None:
    """Kill one of the command's processes, or all."""
    if how == "the command":
        child.send(signal.SIGKILL)
    elif how == "everything":
        child.send_all(signal.SIGKILL)
    else:
        try:
            os.kill(dice.choice(child.members()), signal.SIGKILL)
        except (ProcessLookupError, IndexError):
            child.send_all(signal.SIGKILL)
