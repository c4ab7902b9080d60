"""Commands as a user gives them: started, watched, killed, and what their run folders hold afterwards.

Test files cannot import this under pytest's importlib mode: they get it as the fixture `runs`.
"""

import json
import os
import random
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
MAE = ROOT / "pretrain/mae.py"
HERE = Path(__file__).parent
STEPS = 45
TINY = {
    "encoder.image-size": (8, 8),
    "encoder.patch-size": (2, 2),
    "encoder.width": 48,
    "encoder.depth": 2,
    "encoder.heads": 3,
    "decoder.width": 32,
    "decoder.depth": 1,
    "decoder.heads": 2,
    "batch-size": 64,
    "epochs": 2,
    "optimizer.base-lr": 1e-3,
    "optimizer.warmup-epochs": 0.5,
    "normalization": "dataset",
    "evaluate-epochs": 1,
    "knn.most-train": 256,
    "knn.most-held-out": 128,
    "log-every": 1,
    "checkpoint-steps": 7,
    "workers": 1,
}
"""Options of a run of 45 steps in 2 epochs, evaluated after steps 23 and 45; takes a second or two once started."""

# What a launcher says of its processes, and what would let a test reach the network.
_NOT_INHERITED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Variables that nothing looks at before a script has begun; others, such as HF_HOME, libraries read when imported.
_READ_LATE = (*_NOT_INHERITED, "ACCELERATE_USE_CPU", "AWS_", "SHERD_", "PYTEST_CURRENT_TEST")
# One thread: `accelerate launch` sets it too, and on a busy machine two threads wait for each other.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
_TIMINGS = frozenset(
    {
        *("images_per_second", "data_wait", "teacher", "transfer_wait", "save_stall", "mfu", "memory"),
        *("evaluation_seconds", "processes"),
    }
)


@dataclass(frozen=True)
class Finished:
    """How a command ended: its exit code (of a signal, minus its number), what it said and what it complained of."""

    code: int
    out: str
    err: str

    def expect(self, code: int = 0) -> "Finished":
        """Itself, if it ended so; AssertionError with all it printed if not."""
        assert self.code == code, f"exit code {self.code}, expected {code}\n{self.out}\n{self.err}"
        return self


STARTED: list["Child"] = []
"""Every command of these tests, so that none outlives them when one fails."""


class Fork:
    """A script in a fork of a process that has imported the libraries (see warm_start.py); used as `Popen` is."""

    _server: "subprocess.Popen[bytes] | None" = None
    _control: socket.socket
    _environment: Mapping[str, str]
    _starting = threading.Lock()
    mark = f"SHERD_TEST={secrets.token_hex(8)}".encode()

    def __init__(self, words: list[str], out: IO[str], err: IO[str], environment: Mapping[str, str]) -> None:
        request = {"words": words, "environment": environment, "folder": os.getcwd()}
        self.returncode: int | None = None
        self._answers, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, open(os.devnull) as nothing:
            files = [nothing.fileno(), out.fileno(), err.fileno(), theirs.fileno()]
            socket.send_fds(self._control, [json.dumps(request).encode()], files)
        self.pid = self._answer(200)  # of the first, once everything is imported

    @classmethod
    def fits(cls, words: list[str], usual: Mapping[str, str], environment: Mapping[str, str]) -> bool:
        """Whether this command needs no Python of its own. The first call starts the process that forks, in the `usual`
        environment.
        """
        if words[0] != sys.executable or not words[1].endswith(".py"):
            return False
        with cls._starting:
            if cls._server is None:
                cls._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with theirs:
                    command = [sys.executable, str(HERE / "warm_start.py"), str(theirs.fileno())]
                    cls._server = subprocess.Popen(
                        command,
                        env={**usual, **dict([cls.mark.decode().split("=")])},
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        pass_fds=[theirs.fileno()],
                        start_new_session=True,
                    )
                cls._environment = _read_early(usual)
        return _read_early(environment) == cls._environment

    @classmethod
    def end_server(cls) -> None:
        """End the process that forks, at the end of the tests."""
        if cls._server is not None:
            cls._control.close()
            cls._server.wait(10)

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float) -> int:
        """The exit code; TimeoutExpired if it still runs after so many seconds."""
        if self.returncode is None:
            self.returncode = self._answer(timeout)
            self._answers.close()
        return self.returncode

    def _answer(self, timeout: float) -> int:
        if not select.select([self._answers], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("a fork", timeout)
        answer = self._answers.recv(100)
        assert answer, "the process that forks has ended; see its error"
        return int(answer)


def _read_early(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith(_READ_LATE)}


class Child:
    """A started command, with its output in files so that it never waits for a reader.

    A script is started in a fork (see warm_start.py) unless `cold`, or where its environment does not allow it.
    """

    process: "subprocess.Popen[bytes] | Fork"

    def __init__(
        self, words: list[str], log: Path, environment: Mapping[str, str] | None = None, *, cold: bool = False
    ) -> None:
        inherited = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
        log.parent.mkdir(parents=True, exist_ok=True)
        # Inherited by all that it starts, whatever sessions and parents those have: torchrun's ranks lead their own.
        mark = f"SHERD_TEST={secrets.token_hex(8)}"
        self._logs = log.with_suffix(".out"), log.with_suffix(".err")
        usual = {**inherited, **_ENVIRONMENT}
        complete = {**usual, **(environment or {}), **dict([mark.split("=")])}
        with self._logs[0].open("w") as out, self._logs[1].open("w") as err:
            if not cold and Fork.fits(words, usual, complete):
                self.process = Fork(words[1:], out, err, complete)
            else:
                self.process = subprocess.Popen(
                    words, stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=complete, start_new_session=True
                )
        self.pid = self.process.pid
        self.mark = mark.encode()
        STARTED.append(self)

    def wait(self, timeout: float = 150) -> Finished:
        """Wait for the end of the command; what then remains of what it started is the test's to look at."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.end()
            raise AssertionError(f"still running after {timeout:g} s\n{self.said()}") from None
        return Finished(code, *(log.read_text() for log in self._logs))

    def wait_until(self, is_reached: Callable[[], bool], timeout: float = 120) -> None:
        """Return as soon as the condition holds; AssertionError if the command ends before."""
        deadline = time.monotonic() + timeout
        while not is_reached():
            assert self.process.poll() is None, f"ended too early, exit code {self.process.returncode}\n{self.said()}"
            if time.monotonic() > deadline:
                self.end()
                raise AssertionError(f"did not get there in {timeout:g} s\n{self.said()}")
            time.sleep(0.002)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the command's own process, and to none that it started."""
        os.kill(self.pid, number)

    def send_all(self, number: signal.Signals) -> None:
        """Send a signal to every process that the command has started, as schedulers and terminals do."""
        for pid in self.members():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def members(self) -> list[int]:
        """Processes of the command that still live: its own, a launcher's ranks, loader workers and so on."""
        # The environment of a fork, as the system shows it, is that of the process that forks.
        return [
            pid
            for pid, session, environment in _living()
            if self.mark in environment or (session == self.pid and Fork.mark in environment)
        ]

    def rank(self, number: int) -> int:
        """The process of a rank that a launcher has started."""
        parents = {}
        for pid in self.members():
            if f"\0RANK={number}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes():
                parents[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        (top,) = (pid for pid, parent in parents.items() if parent not in parents)
        return top

    def is_gone(self, timeout: float = 20) -> bool:
        """Whether every process of the command ends of itself in this time."""
        deadline = time.monotonic() + timeout
        while self.members():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def end(self) -> None:
        """Kill whatever remains."""
        self.send_all(signal.SIGKILL)
        self.process.wait(10)

    def said(self) -> str:
        """Everything printed until now."""
        return "\n".join(log.read_text() for log in self._logs)


def _living() -> Iterator[tuple[int, int, bytes]]:
    """All processes that have not ended, each with its session and environment."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
            state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if state not in "ZX":
                yield int(folder.name), int(session), environment
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue


def end_all() -> None:
    """Kill whatever remains of all commands, at the end of the tests."""
    marks = {Fork.mark, *(child.mark for child in STARTED)}
    for child in STARTED:
        if child.process.poll() is None:
            child.end()
    Fork.end_server()
    for pid, _, environment in _living():
        if any(variable in marks for variable in environment.split(b"\0")):
            os.kill(pid, signal.SIGKILL)


def python(script: Path, *words: object) -> list[str]:
    """A script as plain `python` runs it."""
    return [sys.executable, str(script), *map(str, words)]


def launched(script: Path, *words: object, processes: int = 2) -> list[str]:
    """A script as `accelerate launch` runs it on CPUs, in several processes that really meet."""
    port = _free_port()
    options = f"--multi_gpu --num_machines 1 --num_processes {processes} --machine_rank 0 --main_process_ip 127.0.0.1"
    more = f"--main_process_port {port} --rdzv_backend static --mixed_precision no --dynamo_backend no"
    launcher = str(Path(sys.executable).with_name("accelerate"))
    return [launcher, "launch", *options.split(), *more.split(), str(script), *map(str, words)]


def together(script: Path, *words: object, processes: int = 2) -> list[str]:
    """A script in several processes that really meet, without a launcher: see ranks.py."""
    return python(HERE / "ranks.py", processes, _free_port(), script, *words)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(words: list[str], log: Path, *, cold: bool = False) -> Child:
    """Start a command; several processes meet on CPUs only with this variable."""
    return Child(words, log, {"ACCELERATE_USE_CPU": "true"} if "launch" in words else None, cold=cold)


def options(data: Path, out: Path, *more: object) -> list[str]:
    """The arguments of `mae.py` for a tiny run; those in `more` come last, and so win."""
    tiny: list[object] = []
    for name, value in TINY.items():
        tiny += [f"--{name}", *(value if isinstance(value, tuple) else (value,))]
    return list(map(str, ["digits", "--data", data, "--out", out, *tiny, *more]))


def train(
    data: Path,
    out: Path,
    *more: object,
    processes: int = 1,
    launch: Callable[..., list[str]] = launched,
    cold: bool = False,
    hold: int | None = None,
) -> Child:
    """Start a tiny run, or go on with it; with `hold` it does not get past that step before `release`."""
    words = options(data, out, *more)
    log = out.parent / f"{out.name}-log-{time.monotonic_ns()}"
    script = (MAE,) if hold is None else held(MAE, hold, out)
    command = launch(*script, *words, processes=processes) if processes > 1 else python(*script, *words)
    return start(command, log, cold=cold)


def held(script: Path, step: int, out: Path) -> tuple[Path, *tuple[object, ...]]:
    """The beginning of a command that does not get past a step of a run before `release`."""
    _released(out).unlink(missing_ok=True)
    return (HERE / "hold_at.py", step, _released(out), script)


def release(out: Path) -> None:
    """Let a run go on that was held."""
    _released(out).touch()


def _released(out: Path) -> Path:
    return out.with_name(f"{out.name}-released")


def finish(
    data: Path, out: Path, *more: object, processes: int = 1, launch: Callable[..., list[str]] = launched
) -> Finished:
    """Run to the end; AssertionError unless the run says that it is done, and leaves no process behind."""
    return ended(train(data, out, *more, processes=processes, launch=launch), out)


def ended(child: Child, out: Path) -> Finished:
    """How a run ended; AssertionError unless it says that it is done, and leaves no process behind."""
    finished = child.wait().expect(0)
    assert child.is_gone(), f"processes remain: {child.members()}"
    assert read_exit(out)["status"] == "done"
    return finished


def disturb(child: Child, out: Path, step: int, number: signal.Signals) -> Finished:
    """Send a signal to a run as soon as it tells of a step: KILL, or TERM, after which it says that it was preempted.
    If it is held it is released. AssertionError where it leaves a process behind.
    """
    child.wait_until(lambda: last_step(out) >= step)
    child.send(number)
    release(out)
    finished = child.wait().expect(-9 if number == signal.SIGKILL else 0)
    assert child.is_gone(), f"processes remain: {child.members()}"
    assert number == signal.SIGKILL or read_exit(out)["status"] == "preempted"
    return finished


def dice() -> random.Random:
    """For moments that are others each time; the seed is printed."""
    seed = random.SystemRandom().randrange(10**6)
    print(f"the moments come from seed {seed}")
    return random.Random(seed)


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, which must be whole, without what is measured in seconds and bytes."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in _TIMINGS} for line in lines]


def losses(run: Path) -> dict[int, float]:
    """The loss of each step."""
    return {line["step"]: line["loss"] for line in metrics(run) if "loss" in line}


def last_step(run: Path) -> int:
    """The last step that metrics.jsonl tells of, while the run still writes it; 0 without any."""
    try:
        whole = (run / "metrics.jsonl").read_bytes().rpartition(b"\n")[0].splitlines()
    except FileNotFoundError:
        return 0
    return json.loads(whole[-1])["step"] if whole else 0


def read_exit(run: Path) -> dict[str, Any]:
    """exit.json."""
    return json.loads((run / "exit.json").read_text())


def newest(run: Path) -> Path:
    """The checkpoint that `latest` names."""
    return run / "checkpoints" / (run / "checkpoints/latest").read_text().strip()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder and its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_same(run: Path, undisturbed: Path) -> None:
    """A pre-training run that was disturbed has left what one that was not has left, bit for bit."""
    _assert_same_training(run, undisturbed)
    assert newest(run).name == f"step-{STEPS:08d}"
    for folder in ("encoder", "figures"):
        assert contents(run / folder) == contents(undisturbed / folder), folder
    assert read_exit(run)["status"] == "done"
    assert read_exit(run)["step"] == STEPS


def assert_same_classifier(run: Path, undisturbed: Path) -> None:
    """The same of a run that trains a classifier."""
    _assert_same_training(run, undisturbed)
    assert contents(run / "model") == contents(undisturbed / "model")
    for file in ("evaluation.json", "predictions.parquet"):
        assert (run / file).read_bytes() == (undisturbed / file).read_bytes(), file


def _assert_same_training(run: Path, undisturbed: Path) -> None:
    assert metrics(run) == metrics(undisturbed)
    assert newest(run).name == newest(undisturbed).name
    found, expected = contents(newest(run)), contents(newest(undisturbed))
    assert found.keys() == expected.keys()
    for file in expected:
        assert found[file] == expected[file], file
    left = [path for path in run.rglob(".partial-*") if ".lock" not in path.parts]
    assert left == [], "unfinished files are left"
