"""The real wandb, trackio and TensorBoard viewer, in an environment of their own: what a run logs is read back there.

`pytest tests/soak/test_trackers.py` takes some three minutes, half of which installs the libraries.
"""

import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PASSWORD = "hunter2-hunter2"
API_KEY = "local-0123456789abcdef0123456789abcdef01234567"
WRITE_TOKEN = "a-token-that-lets-others-write"

# A run as the training loop has it: metrics.jsonl cut back, opened, each row written there and logged.
TRAIN = """
import os, sys
from pathlib import Path
from PIL import Image
from launch.run_folder import RunFolder
from launch.trackers import open_tracker
kind, start, last, end = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
run = RunFolder(Path("run"))
run.path.mkdir(exist_ok=True)
Image.new("RGB", (8, 6), "red").save("panel.png")
run.cut_metrics(start)
tracker = open_tracker(kind, run.path, config={"recipe": "x", "optimizer": {"lr": 1e-3}}, start=start, say=print)
def log(row):
    run.append_metrics(row)
    tracker.log(row["step"], row)
for step in range(start + 1, last + 1):
    log({"step": step, "loss": step / 8, "grad_norm": float("inf") if step == 2 else float("nan")})
    if step % 4 == 0:
        tracker.image(step, "panel", Path("panel.png"))
        log({"step": step, "knn": step / 16})
if end == "kill":
    os.kill(os.getpid(), 9)
tracker.close()
"""
# {step: {name: JSON}} of what wandb has kept in the run folder, from every start.
WANDB_ROWS = """
import json, struct
from pathlib import Path
from wandb.proto.wandb_internal_pb2 import Record
starts = []
for path in sorted(Path("run/wandb").glob("*run-*/*.wandb")):
    content, place, part, rows = path.read_bytes(), 7, b"", {}
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        part += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            record, part = Record.FromString(part), b""
            if record.HasField("history"):
                items = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
                rows[record.history.step.num] = items
    starts.append(rows)
print(json.dumps(starts))
"""
# A trackio server, until its input ends.
TRACKIO_SERVER = """
import sys, trackio
server = trackio.show(project="sherd", open_browser=False, block_thread=False)
print("at", server[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has wandb, trackio and tensorboard, and finds this repository."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    installing = subprocess.run(
        [folder / "bin/pip", "install", "--quiet", "wandb", "trackio", "tensorboard", "pillow"],
        capture_output=True,
        text=True,
        check=False,
    )
    if installing.returncode != 0:
        pytest.skip(f"pip cannot install them here: {installing.stderr.strip().splitlines()[-1]}")
    return folder / "bin/python"


@pytest.fixture
def execute(python: Path, tmp_path: Path) -> Callable[..., str]:
    """Runs a program with arguments in the test's folder; returns all that it printed."""

    def execute(program: str, *arguments: object, returns: int = 0, **variables: str) -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "TRACKIO"))}
        environment |= {"PYTHONPATH": str(ROOT), "TRACKIO_DIR": str(tmp_path / "trackio"), "HOME": str(tmp_path)}
        done = subprocess.run(
            [python, "-c", program, *map(str, arguments)],
            cwd=tmp_path,
            env=environment | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == returns, done.stdout
        return done.stdout

    return execute


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def holding(folder: Path, text: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def steps_with(rows: dict[str, dict[str, Any]], name: str) -> list[int]:
    return sorted(int(step) for step, values in rows.items() if name in values)


STARTS = ((0, 9, "close"), (4, 11, "kill"), (8, 15, "kill"), (12, 20, "close"))
"""(step, last step, how it ends): each goes on from a checkpoint before the end of the one before it."""


def test_wandb_offline_keeps_every_step_once(execute: Callable[..., str], tmp_path: Path) -> None:
    secret = f"--data=https://me:{PASSWORD}@example.com/x"
    for start, last, end in STARTS:
        returns = -9 if end == "kill" else 0
        printed = execute(TRAIN, "wandb", start, last, end, secret, returns=returns, WANDB_MODE="offline")
        assert "curves, later: wandb sync run/wandb" in printed
        assert "WARNING" not in printed
        assert "warning" not in printed
    starts = json.loads(execute(WANDB_ROWS))
    assert len(starts) == 4
    for one, other in itertools.combinations(starts, 2):
        assert not one.keys() & other.keys()
    rows = {step: values for start in starts for step, values in start.items()}
    assert steps_with(rows, "loss") == list(range(1, 21))
    assert steps_with(rows, "knn") == [4, 8, 12, 16, 20]
    assert [rows[str(step)]["loss"] for step in range(1, 21)] == [step / 8 for step in range(1, 21)]
    # Those that a kill took are in metrics.jsonl, where infinities are null, and figures are in the run folder.
    assert rows["2"]["grad_norm"] == float("inf")
    assert {4, 8, 16, 20} <= set(steps_with(rows, "panel/path"))
    assert len({path.name.rpartition("-")[2] for path in tmp_path.glob("run/wandb/offline-run-*")}) == 1
    # wandb would have taken down the command line.
    assert holding(tmp_path / "run", PASSWORD) == []


def test_wandb_without_its_server_is_kept_in_the_run_folder(execute: Callable[..., str], tmp_path: Path) -> None:
    nowhere = {"WANDB_BASE_URL": f"http://127.0.0.1:{free_port()}", "WANDB_API_KEY": API_KEY}
    printed = execute(TRAIN, "wandb", 0, 5, "close", **nowhere)
    assert re.search(
        r"warning: --tracker wandb: CommError: .* this run is kept in run/wandb: `wandb sync` sends", printed
    )
    rows = {step: values for start in json.loads(execute(WANDB_ROWS)) for step, values in start.items()}
    assert steps_with(rows, "loss") == [1, 2, 3, 4, 5]
    assert API_KEY not in printed
    assert holding(tmp_path / "run", API_KEY) == []
    # Without a key there is nothing to wait for.
    shutil.rmtree(tmp_path / "run")
    printed = execute(TRAIN, "wandb", 0, 5, "close")
    assert "warning: --tracker wandb: UsageError: No API key configured" in printed
    assert steps_with(json.loads(execute(WANDB_ROWS))[-1], "loss") == [1, 2, 3, 4, 5]


def trackio_steps(execute: Callable[..., str], name: str, run: str) -> list[tuple[int, float]]:
    """By trackio's own command."""
    program = "import sys; from trackio.cli import main; main()"
    arguments = ("get", "metric", "--project", "sherd", "--run", run, "--metric", name, "--json")
    return [(row["step"], row["value"]) for row in json.loads(execute(program, *arguments))["values"]]


def test_trackio_keeps_every_step_once(execute: Callable[..., str], tmp_path: Path) -> None:
    for start, last, end in STARTS:
        printed = execute(TRAIN, "trackio", start, last, end, returns=-9 if end == "kill" else 0)
        (line,) = printed.splitlines()
        run = re.fullmatch(r"curves: trackio show --project sherd \(run (run-\w+)\)", line)
        assert run is not None
    assert trackio_steps(execute, "loss", run[1]) == [(step, step / 8) for step in range(1, 21)]
    assert [step for step, _ in trackio_steps(execute, "knn", run[1])] == [4, 8, 12, 16, 20]
    assert len(list((tmp_path / "trackio/media").rglob("*.png"))) >= 4


@pytest.fixture
def server(python: Path, tmp_path: Path) -> Iterator[str]:
    environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "served"), "TRACKIO_WRITE_TOKEN": WRITE_TOKEN}
    with subprocess.Popen(
        [python, "-c", TRACKIO_SERVER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        address = next(line.split()[1] for line in process.stdout if line.startswith("at "))
        yield address
        process.stdin.close()


def test_trackio_server_gets_every_step_and_its_token_stays_out_of_the_log(
    execute: Callable[..., str], server: str, tmp_path: Path
) -> None:
    address = f"{server.rstrip('/')}/?write_token={WRITE_TOKEN}"
    for start, last in ((0, 9), (4, 11)):
        printed = execute(TRAIN, "trackio", start, last, "close", TRACKIO_SERVER_URL=address)
        assert WRITE_TOKEN not in printed
    (run,) = re.findall(r"\(run (run-\w+)\)", printed)
    served = {"TRACKIO_DIR": str(tmp_path / "served")}
    steps = trackio_steps(lambda *a: execute(*a, **served), "loss", run)
    assert steps == [(step, step / 8) for step in range(1, 12)]
    assert holding(tmp_path / "run", WRITE_TOKEN) == []


@pytest.mark.parametrize("fast", ["true", "false"])
def test_tensorboard_shows_every_step_once(
    python: Path, execute: Callable[..., str], tmp_path: Path, fast: str
) -> None:
    for start, last, end in STARTS:
        execute(TRAIN, "tensorboard", start, last, end, returns=-9 if end == "kill" else 0)
    port = free_port()
    options = ["--logdir", str(tmp_path / "run"), "--port", str(port), "--load_fast", fast]
    with subprocess.Popen(
        [python.parent / "tensorboard", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as viewer:
        try:
            plugins = f"http://127.0.0.1:{port}/data/plugin"
            loss = ask(f"{plugins}/scalars/scalars?run=tensorboard&tag=loss")
            assert [(step, value) for _, step, value in loss] == [(step, step / 8) for step in range(1, 21)]
            knn = ask(f"{plugins}/scalars/scalars?run=tensorboard&tag=knn")
            assert [step for _, step, _ in knn] == [4, 8, 12, 16, 20]
            panels = ask(f"{plugins}/images/images?run=tensorboard&tag=panel&sample=0")
            assert [panel["step"] for panel in panels] == [4, 8, 12, 16, 20]
            for panel in panels:
                with urllib.request.urlopen(f"{plugins}/images/individualImage?{panel['query']}") as answer:
                    assert answer.read() == (tmp_path / "panel.png").read_bytes()
            config = ask(f"{plugins}/text/text?run=tensorboard&tag=config")
            assert [start["step"] for start in config] == [0, 4, 8, 12]
            assert "recipe" in config[0]["text"]
        finally:
            viewer.kill()


def ask(address: str) -> Any:
    """What a viewer answers, as soon as it has read anything."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(address) as answer:
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
