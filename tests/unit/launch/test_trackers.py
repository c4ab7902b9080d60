import contextvars
import json
import math
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event

from launch.run_folder import RunFolder
from launch.trackers import Tracker, TrackerKind, open_tracker

CONFIG = {"recipe": "digits", "optimizer": {"lr": 1e-3, "betas": [0.9, 0.95]}, "resume": None}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "digits run"
    path.mkdir()
    return path


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def start(run: Path, said: list[str]) -> Callable[..., Tracker]:
    def start(kind: TrackerKind, at: int = 0, config: Mapping[str, Any] = CONFIG) -> Tracker:
        return open_tracker(kind, run, config=config, start=at, say=said.append)

    return start


def write_png(path: Path, width: int, height: int) -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    pixels = b"".join(b"\0" + bytes(3 * width) for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


# TensorBoard, read by its own reader


def reader(run: Path) -> EventAccumulator:
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return events


def scalars(events: EventAccumulator, name: str) -> list[tuple[int, float]]:
    if name not in events.Tags()["scalars"]:
        return []
    return [(event.step, event.value) for event in events.Scalars(name)]


def files(run: Path) -> list[Path]:
    return sorted((run / "tensorboard").iterdir())


def test_tensorboard_reads_back_what_was_logged(run: Path, start: Callable[..., Tracker], said: list[str]):
    tracker = start("tensorboard")
    for step in (10, 20):
        tracker.log(step, {"step": step, "loss": 1 / step, "grad_norm": 0.5, "memory": 2**40})
    tracker.log(20, {"knn_top1": 0.75, "bound_by": None, "where": "decode"})  # type: ignore[dict-item]
    tracker.close()
    events = reader(run)
    assert sorted(events.Tags()["scalars"]) == ["grad_norm", "knn_top1", "loss", "memory"]
    assert scalars(events, "loss") == [(10, pytest.approx(0.1)), (20, pytest.approx(0.05))]
    assert scalars(events, "memory") == [(10, 2**40), (20, 2**40)]
    assert scalars(events, "knn_top1") == [(20, 0.75)]
    (config,) = events.Tensors("config")
    assert json.loads(config.tensor_proto.string_val[0]) == CONFIG
    assert said == [f"curves: tensorboard --logdir '{run}/tensorboard'"]


def test_tensorboard_takes_what_is_not_finite_or_too_large(run: Path, start: Callable[..., Tracker], said: list[str]):
    tracker = start("tensorboard")
    tracker.log(1, {"nan": math.nan, "up": math.inf, "down": -math.inf, "large": 1e300})
    tracker.close()
    events = reader(run)
    assert math.isnan(scalars(events, "nan")[0][1])
    assert [scalars(events, name)[0][1] for name in ("up", "down", "large")] == [math.inf, -math.inf, math.inf]
    assert len(said) == 1


def test_tensorboard_shows_a_figure_as_its_file_is(run: Path, start: Callable[..., Tracker], tmp_path: Path):
    write_png(tmp_path / "panel.png", 31, 7)
    tracker = start("tensorboard")
    tracker.image(5, "reconstruction", tmp_path / "panel.png")
    tracker.close()
    (image,) = reader(run).Images("reconstruction")
    assert (image.step, image.width, image.height) == (5, 31, 7)
    assert image.encoded_image_string == (tmp_path / "panel.png").read_bytes()


def test_a_figure_that_is_none_is_told_and_the_run_goes_on(run: Path, start: Callable[..., Tracker], said: list[str]):
    (run / "panel.png").write_bytes(b"GIF89a" + bytes(40))
    tracker = start("tensorboard")
    tracker.image(5, "panel", run / "panel.png")
    tracker.image(6, "panel", run / "absent.png")
    tracker.log(6, {"loss": 1.0})
    tracker.close()
    assert scalars(reader(run), "loss") == [(6, 1.0)]
    assert said[1:] == [
        f"warning: --tracker tensorboard, step 5, panel: ValueError: {run}/panel.png: expected a PNG file; "
        "write the figure as one; the run goes on, its numbers are in metrics.jsonl and its figures in figures/",
        "warning: --tracker tensorboard failed 2 times; what it lacks is in metrics.jsonl and figures/",
    ]


def log_steps(tracker: Tracker, first: int, last: int, offset: float) -> None:
    for step in range(first, last + 1):
        tracker.log(step, {"loss": step + offset})
        if step % 3 == 0:
            tracker.log(step, {"knn": step + offset})


def test_on_resume_later_steps_leave_the_files(run: Path, start: Callable[..., Tracker]):
    for at, last in ((0, 9), (6, 8), (4, 7), (4, 5)):
        tracker = start("tensorboard", at)
        log_steps(tracker, at + 1, last, 100.0 * at)
        tracker.close()
    events = reader(run)
    assert scalars(events, "loss") == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 405)]
    assert scalars(events, "knn") == [(3, 3)]
    # No reader has to understand what a restart is: what was taken back is gone.
    assert b"".join(path.read_bytes() for path in files(run)).count(b"loss") == 5


def test_a_viewer_that_has_read_them_forgets_later_steps_at_once(run: Path, start: Callable[..., Tracker]):
    first = start("tensorboard")
    log_steps(first, 1, 9, 0)
    viewer = reader(run)
    assert len(scalars(viewer, "loss")) == 9
    start("tensorboard", 4).close()
    viewer.Reload()
    assert scalars(viewer, "loss") == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert scalars(viewer, "knn") == [(3, 3)]
    first.close()


def test_an_evaluation_owed_at_the_step_of_resuming_is_shown(run: Path, start: Callable[..., Tracker]):
    first = start("tensorboard")
    first.log(10, {"loss": 1.0})
    first.close()
    second = start("tensorboard", 10)
    second.log(10, {"knn": 0.5})
    second.close()
    assert (scalars(reader(run), "loss"), scalars(reader(run), "knn")) == ([(10, 1)], [(10, 0.5)])


def test_a_run_that_starts_again_from_scratch_shows_only_the_new_start(run: Path, start: Callable[..., Tracker]):
    for offset in (0, 100):
        tracker = start("tensorboard", 0)
        log_steps(tracker, 1, 4 - offset // 50, offset)
        tracker.close()
    assert scalars(reader(run), "loss") == [(1, 101), (2, 102)]


def test_a_record_torn_anywhere_by_a_crash_is_dropped(run: Path, start: Callable[..., Tracker]):
    tracker = start("tensorboard")
    tracker.log(1, {"loss": 1.0})
    whole = files(run)[0].stat().st_size
    tracker.log(2, {"loss": 2.0})
    tracker.close()
    (path,) = files(run)
    content = path.read_bytes()
    for length in range(whole + 1, len(content)):
        path.write_bytes(content[:length])
        start("tensorboard", 2).close()
        assert path.stat().st_size == whole
        files(run)[1].unlink()
    damaged = bytearray(content)
    damaged[whole + 20 :] = b"\xff" * (len(content) - whole - 20)
    path.write_bytes(damaged)
    start("tensorboard", 2).close()
    assert path.read_bytes() == content[:whole]


def test_files_are_read_in_the_order_of_the_starts_whatever_the_clock_says(
    run: Path, start: Callable[..., Tracker], monkeypatch: pytest.MonkeyPatch
):
    for number, seconds in enumerate((2e9, 2e9, 1e9, 1.5e9)):
        monkeypatch.setattr("time.time", lambda seconds=seconds: seconds)
        tracker = start("tensorboard", number)
        tracker.log(number + 1, {"loss": number})
        tracker.close()
    assert scalars(reader(run), "loss") == [(1, 0), (2, 1), (3, 2), (4, 3)]
    names = [path.name.split(".")[3] for path in files(run)]
    assert names == ["2000000000", "2000000001", "2000000002", "2000000003"]


def test_a_full_disk_leaves_whole_records_and_a_run_that_goes_on(
    run: Path, start: Callable[..., Tracker], said: list[str]
):
    tracker = start("tensorboard")
    tracker.log(1, {"loss": 1.0})
    whole = files(run)[0].stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (whole + 20, before[1]))
    try:
        tracker.log(2, {"loss": 2.0})
        tracker.log(3, {"loss": 3.0})
        assert files(run)[0].stat().st_size == whole
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    tracker.log(4, {"loss": 4.0})
    tracker.close()
    assert scalars(reader(run), "loss") == [(1, 1), (4, 4)]
    assert "step 2: OSError: [Errno 27] File too large" in said[1]
    assert said[2].startswith("warning: --tracker tensorboard failed 2 times")
    assert len(said) == 3


def test_what_was_logged_survives_a_kill(run: Path):
    program = (
        "import os, sys; from pathlib import Path; from launch.trackers import open_tracker\n"
        "tracker = open_tracker('tensorboard', Path(sys.argv[1]), config={}, start=0, say=print)\n"
        "for step in range(1, 6): tracker.log(step, {'loss': step})\n"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(run)], check=False).returncode == -9
    assert scalars(reader(run), "loss") == [(step, step) for step in range(1, 6)]


def test_tensorboard_loads_nothing_heavy(run: Path):
    program = (
        "import sys; from pathlib import Path; from launch.trackers import open_tracker\n"
        "assert not {'google.protobuf', 'tensorboard'} & set(sys.modules)\n"
        "tracker = open_tracker('tensorboard', Path(sys.argv[1]), config={}, start=0, say=print)\n"
        "tracker.log(1, {'loss': 1.0}); tracker.close()\n"
        "print(sorted({'torch', 'numpy', 'tensorflow', 'boto3', 'fsspec', 'grpc', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(run)], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_each_record_is_an_event_of_the_step_it_was_logged_at(run: Path, start: Callable[..., Tracker]):
    start("tensorboard", 7).close()
    content, events = files(run)[0].read_bytes(), []
    while content:
        (length,) = struct.unpack_from("<Q", content)
        events.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    assert [event.step for event in events] == [0, 8, 7]
    assert events[0].file_version == "brain.Event:2"


# Any tracker


def test_none_leaves_no_trace(run: Path, start: Callable[..., Tracker], said: list[str]):
    tracker = start("none")
    tracker.log(1, {"loss": 1.0})
    tracker.image(1, "panel", run / "absent.png")
    tracker.close()
    assert (list(run.iterdir()), said) == ([], [])


@pytest.mark.parametrize("kind", ["wandb", "trackio"])
def test_a_library_that_is_not_installed_is_named(
    start: Callable[..., Tracker], monkeypatch: pytest.MonkeyPatch, kind: TrackerKind
):
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(ValueError, match="not installed") as caught:
        start(kind)
    assert str(caught.value) == (
        f"--tracker {kind}: {kind} is not installed; pip install {kind}, or choose --tracker tensorboard"
    )


def test_without_tensorboard_there_is_still_metrics_jsonl(
    start: Callable[..., Tracker], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    expected = (
        "^--tracker tensorboard: tensorboard is not installed; pip install tensorboard, or choose --tracker none$"
    )
    with pytest.raises(ValueError, match=expected):
        start("tensorboard")


def test_a_library_that_does_not_load_is_not_said_to_be_absent(
    start: Callable[..., Tracker], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/wandb.py").write_text("import a_library_that_wandb_needs\n")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    expected = (
        "^--tracker wandb: wandb does not load: ModuleNotFoundError: No module named 'a_library_that_wandb_needs'; "
        "pip install --upgrade wandb, or choose --tracker tensorboard$"
    )
    with pytest.raises(ValueError, match=expected):
        start("wandb")


# W&B, whose interface is played here; tests/soak/test_trackers.py has the real one


class FakeWandb(ModuleType):
    """A W&B server with one run, and how wandb 0.31 answers, online and offline."""

    class Error(Exception):
        pass

    class Settings(dict[str, Any]):
        model_fields = ("finish_timeout",)

    def __init__(self) -> None:
        super().__init__("wandb")
        self.served: dict[int, dict[str, Any]] = {}
        self.kept: list[dict[int, dict[str, Any]]] = []
        """Of each offline start."""
        self.starts: list[dict[str, Any]] = []
        self.events: list[str] = []
        self.is_offline = False
        self.refusal = ""
        self.breaks = False
        self.Image = lambda path: ("image", path)

    def init(self, *, mode: str | None = None, **options: Any) -> "FakeRun":
        if self.refusal and mode is None:
            self.events.append("refused")
            raise self.Error(self.refusal)
        self.starts.append(options)
        if not self.is_offline and mode is None:
            return FakeRun(self, self.served, None)
        self.kept.append({})
        folder = options["dir"] / "wandb" / f"offline-run-{len(self.starts):06}-{options['id']}"
        folder.mkdir(parents=True)
        return FakeRun(self, self.kept[-1], folder / f"run-{options['id']}.wandb")

    def teardown(self) -> None:
        self.events.append("teardown")


class FakeRun:
    def __init__(self, wandb: FakeWandb, rows: dict[int, dict[str, Any]], file: Path | None) -> None:
        self.wandb, self.rows, self.file = wandb, rows, file
        self.offline = file is not None
        self.step = max(rows) + 1 if rows else 0
        self.url = "https://wandb.example/sherd/x"

    def log(self, data: dict[str, Any], step: int) -> None:
        if self.wandb.breaks:
            raise ConnectionError("no route to https://me:secret@wandb.example/x?write_token=hidden\nretry later")
        assert step >= self.step, "wandb drops this, with a warning"
        self.step = step
        row = self.rows.setdefault(step, {})
        assert not row.keys() & data.keys(), "given twice"
        row.update(data)

    def finish(self) -> None:
        self.wandb.events.append("finish")
        if self.file is not None:
            self.file.write_bytes(wandb_file(self.rows))


class FakeRecord:
    """In the place of the message of `wandb.proto.wandb_internal_pb2`: JSON that is a row or something else."""

    def __init__(self, content: bytes) -> None:
        self.step = json.loads(content).get("step")
        self.history = SimpleNamespace(step=SimpleNamespace(num=self.step))

    def HasField(self, name: str) -> bool:
        assert name == "history"
        return self.step is not None

    FromString = classmethod(lambda cls, content: cls(content))


def wandb_file(steps: Iterable[int], filling: int = 9973) -> bytes:
    """A LevelDB log as wandb writes it, whose records are so long that most go over the border of a block."""
    content = bytearray(b":W&B\xe1\xbe\0")
    for step in steps:
        for record in ({"statistics": "x" * filling}, {"step": step}):
            data, pieces = json.dumps(record).encode(), 0
            while data:
                if (left := 32768 - len(content) % 32768) < 7:
                    content += bytes(left)
                    continue
                piece, data = data[: left - 7], data[left - 7 :]
                kind = (2 if data else 1) if pieces == 0 else (3 if data else 4)
                content += struct.pack("<IHB", zlib.crc32(piece), len(piece), kind) + piece
                pieces += 1
    return bytes(content)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    messages = SimpleNamespace(Record=FakeRecord)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setitem(sys.modules, "wandb.proto", ModuleType("wandb.proto"))
    monkeypatch.setitem(sys.modules, "wandb.proto.wandb_internal_pb2", messages)  # type: ignore[arg-type]
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return fake


def test_wandb_gets_each_step_in_a_row(wandb: FakeWandb, run: Path, start: Callable[..., Tracker], said: list[str]):
    tracker = start("wandb")
    tracker.log(10, {"step": 10, "loss": 1.0, "grad_norm": math.nan})
    tracker.image(10, "panel", run / "panel.png")
    tracker.log(10, {"knn": 0.5})
    tracker.close()
    assert list(wandb.served) == [10]
    assert math.isnan(wandb.served[10].pop("grad_norm"))
    assert wandb.served[10] == {"loss": 1.0, "panel": ("image", str(run / "panel.png")), "knn": 0.5}
    (options,) = wandb.starts
    assert (options["project"], options["name"], options["dir"]) == ("sherd", "digits run", run)
    assert (options["config"], options["resume"]) == (CONFIG, "allow")
    assert options["settings"]["x_disable_meta"]
    assert options["settings"]["disable_git"]
    assert options["settings"]["finish_timeout"] > 0
    assert "finish_timeout_raises" not in options["settings"], "this version does not know it"
    assert said == ["curves: https://wandb.example/sherd/x"]


def test_wandb_project_is_the_users(wandb: FakeWandb, start: Callable[..., Tracker], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    start("wandb").close()
    assert wandb.starts[0]["project"] == "mine"


def train(run: Path, tracker: Tracker, first: int, last: int) -> None:
    """As a run does, beside metrics.jsonl."""
    folder = RunFolder(run)
    folder.cut_metrics(first - 1)
    for step in range(first, last + 1):
        folder.append_metrics({"step": step, "loss": float(step)})
        tracker.log(step, {"loss": float(step)})
        if step % 3 == 0:
            folder.append_metrics({"step": step, "knn": 0.5, "where": "test"})
            tracker.log(step, {"knn": 0.5})


WHOLE = {step: {"loss": float(step)} | ({"knn": 0.5} if step % 3 == 0 else {}) for step in range(1, 14)}


@pytest.mark.parametrize("offline", [False, True])
def test_wandb_run_goes_on_under_its_id_with_each_step_once(
    wandb: FakeWandb, run: Path, start: Callable[..., Tracker], offline: bool
):
    wandb.is_offline = offline
    for at, last in ((0, 9), (6, 8), (6, 12), (12, 13)):
        tracker = start("wandb", at)
        train(run, tracker, at + 1, last)
        tracker.close()
    assert {options["id"] for options in wandb.starts} == {json.loads((run / "tracker.json").read_text())["id"]}
    assert len(wandb.starts) == 4
    if offline:
        assert [list(rows) for rows in wandb.kept] == [list(range(1, 10)), [], [10, 11, 12], [13]]
        wandb.served = {step: row for rows in wandb.kept for step, row in rows.items()}
    assert wandb.served == WHOLE


@pytest.mark.parametrize("lost", [1, 3, 13])
def test_wandb_gets_what_a_kill_has_kept_from_it_out_of_metrics_jsonl(
    wandb: FakeWandb, run: Path, start: Callable[..., Tracker], lost: int
):
    train(run, start("wandb"), 1, 13)
    for step in range(14 - lost, 14):
        del wandb.served[step]
    start("wandb", 13).close()
    assert wandb.served == WHOLE


def test_wandb_file_torn_anywhere_is_read_up_to_there(wandb: FakeWandb, run: Path, start: Callable[..., Tracker]):
    wandb.is_offline = True
    tracker = start("wandb")
    train(run, tracker, 1, 13)
    tracker.close()
    (path,) = run.glob("wandb/*/*.wandb")
    content = path.read_bytes()
    ends = [len(wandb_file(range(1, last + 1))) for last in range(1, 14)]
    assert ends[-1] == len(content) > 3 * 32768
    near_ends = {end + offset for end in ends[::4] for offset in (-1, 0, 1)}
    for length in sorted({*near_ends, *range(32768 - 20, 32768 + 20), *range(0, ends[-1], 9001)}):
        path.write_bytes(content[:length])
        start("wandb", 13).close()
        kept = sum(end <= length for end in ends)
        assert wandb.kept[-1] == {step: row for step, row in WHOLE.items() if step > kept}
        next(run.glob(f"wandb/offline-run-{len(wandb.starts):06}-*/*.wandb")).unlink()


@pytest.mark.parametrize("filling", [*range(32768 - 60, 32768), 100_000])
def test_wandb_file_is_read_wherever_its_blocks_end(
    wandb: FakeWandb, run: Path, start: Callable[..., Tracker], filling: int
):
    wandb.is_offline = True
    start("wandb").close()
    next(run.glob("wandb/*/*.wandb")).write_bytes(wandb_file([1, 2], filling))
    tracker = start("wandb", 1)
    train(run, tracker, 2, 3)
    tracker.close()
    assert list(wandb.kept[-1]) == [3]


def test_wandb_starts_within_one_second_are_told_apart(wandb: FakeWandb, run: Path, start: Callable[..., Tracker]):
    wandb.is_offline = True
    for at, last in ((0, 5), (5, 9)):
        tracker = start("wandb", at)
        train(run, tracker, at + 1, last)
        tracker.close()
    first, second = sorted(run.glob("wandb/offline-run-*"))
    second.rename(first.with_name(f"{first.name}-1"))
    tracker = start("wandb", 7)
    train(run, tracker, 8, 10)
    assert list(wandb.kept[-1]) == [10]


@pytest.mark.parametrize("kind", ["wandb", "trackio"])
def test_what_comes_after_the_step_of_resuming_is_not_taken_from_metrics_jsonl(
    wandb: FakeWandb, trackio: "FakeTrackio", run: Path, start: Callable[..., Tracker], kind: TrackerKind
):
    train(run, start("none"), 1, 13)
    start(kind, 6).close()
    given = wandb.served if kind == "wandb" else dict(*trackio.runs.values())
    assert list(given) == [1, 2, 3, 4, 5, 6]


def test_a_run_that_has_had_another_tracker_is_shown_whole(wandb: FakeWandb, run: Path, start: Callable[..., Tracker]):
    train(run, start("none"), 1, 12)
    tracker = start("wandb", 12)
    train(run, tracker, 13, 13)
    tracker.close()
    assert wandb.served == WHOLE


@pytest.mark.parametrize("offline", [False, True])
def test_wandb_shows_an_evaluation_owed_at_the_step_of_resuming(
    wandb: FakeWandb, start: Callable[..., Tracker], offline: bool
):
    wandb.is_offline = offline
    first = start("wandb")
    first.log(10, {"loss": 1.0})
    first.close()
    second = start("wandb", 10)
    second.log(10, {"knn": 0.5})
    second.log(20, {"loss": 0.5})
    second.close()
    # It went on from there, so that evaluation was not missing.
    third = start("wandb", 10)
    third.log(10, {"knn": 0.5})
    third.close()
    given = {step: row for rows in (*wandb.kept, wandb.served) for step, row in rows.items()}
    assert given == {10: {"loss": 1.0}, 11: {"knn": 0.5}, 20: {"loss": 0.5}}


def test_wandb_server_that_cannot_be_reached_leaves_the_run_in_its_folder(
    wandb: FakeWandb, run: Path, start: Callable[..., Tracker], said: list[str]
):
    wandb.refusal = "no answer from\nhttps://me:secret@wandb.example"
    tracker = start("wandb")
    tracker.log(1, {"loss": 1.0})
    tracker.close()
    assert wandb.kept == [{1: {"loss": 1.0}}]
    assert wandb.events == ["refused", "teardown", "finish"]
    assert said == [
        "warning: --tracker wandb: Error: no answer from https://wandb.example; "
        f"this run is kept in {run}/wandb: `wandb sync` sends it later",
        f"curves, later: wandb sync '{run}/wandb'",
    ]


def test_what_a_tracker_raises_is_told_once_counted_and_told_at_the_end(
    wandb: FakeWandb, start: Callable[..., Tracker], said: list[str]
):
    tracker = start("wandb")
    wandb.breaks = True
    for step in (1, 2, 3):
        tracker.log(step, {"loss": 1.0})
    wandb.breaks = False
    tracker.log(4, {"loss": 1.0})
    tracker.close()
    assert list(wandb.served) == [4]
    assert said[1:] == [
        "warning: --tracker wandb, step 1: ConnectionError: no route to https://wandb.example/x?[redacted] retry later"
        "; the run goes on, its numbers are in metrics.jsonl and its figures in figures/",
        "warning: --tracker wandb failed 3 times; what it lacks is in metrics.jsonl and figures/",
    ]


def test_a_single_failure_is_told_again_at_the_end(wandb: FakeWandb, start: Callable[..., Tracker], said: list[str]):
    tracker = start("wandb")
    wandb.breaks = True
    tracker.log(1, {"loss": 1.0})
    tracker.close()
    assert said[-1] == "warning: --tracker wandb failed once; what it lacks is in metrics.jsonl and figures/"


def test_a_tracker_that_cannot_be_opened_does_not_end_the_run(
    wandb: FakeWandb, run: Path, start: Callable[..., Tracker], said: list[str]
):
    (run / "tracker.json").write_text('{"id": 7}')
    tracker = start("wandb")
    tracker.log(1, {"loss": 1.0})
    tracker.close()
    assert wandb.starts == []
    assert said[0] == (
        f"warning: --tracker wandb, opening it: ValueError: {run}/tracker.json: id is 7, expected a string; remove the "
        "file to begin a new run there; the run goes on, its numbers are in metrics.jsonl and its figures in figures/"
    )


def test_an_interrupt_is_not_swallowed(wandb: FakeWandb, start: Callable[..., Tracker]):
    def interrupted(path: str) -> None:
        raise KeyboardInterrupt

    wandb.Image = interrupted  # type: ignore[assignment]
    tracker = start("wandb")
    with pytest.raises(KeyboardInterrupt):
        tracker.image(1, "panel", Path("x.png"))
    tracker.close()


# trackio, played as well


class FakeTrackio(ModuleType):
    """A store of runs by name, which prints as trackio 0.43 does."""

    def __init__(self) -> None:
        super().__init__("trackio")
        self.runs: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        self.current: contextvars.ContextVar[Any] = contextvars.ContextVar("current", default=None)
        self.finished: list[str] = []
        self.Image = lambda path: ("image", path)

    def init(self, project: str, name: str, config: dict[str, Any], resume: str) -> "FakeTrackioRun":
        assert (project, resume, config) == ("sherd", "allow", CONFIG)
        print("* dashboard: http://localhost/?write_token=hidden")
        run = FakeTrackioRun(self.runs.setdefault(name, []), name)
        self.current.set(run)
        return run

    def finish(self) -> None:
        print("* Run finished")
        self.finished.append(self.current.get().name)


class FakeTrackioRun:
    def __init__(self, rows: list[tuple[int, dict[str, Any]]], name: str) -> None:
        self.rows, self.name = rows, name
        self._next_step = max((step for step, _ in rows), default=-1) + 1

    def log(self, metrics: dict[str, Any], step: int) -> None:
        self.rows.append((step, metrics))


@pytest.fixture
def trackio(monkeypatch: pytest.MonkeyPatch) -> FakeTrackio:
    fake = FakeTrackio()
    monkeypatch.setitem(sys.modules, "trackio", fake)
    return fake


def test_trackio_run_goes_on_under_its_name_with_each_step_once(
    trackio: FakeTrackio, run: Path, start: Callable[..., Tracker]
):
    for at, last, lost in ((0, 9, 0), (6, 8, 0), (6, 12, 3), (12, 13, 0)):
        tracker = start("trackio", at)
        train(run, tracker, at + 1, last)
        tracker.close()
        (rows,) = trackio.runs.values()
        rows[:] = [row for row in rows if row[0] <= last - lost or not lost]
    identity = json.loads((run / "tracker.json").read_text())["id"]
    assert list(trackio.runs) == [f"digits run-{identity}"]
    assert [step for step, values in rows if "loss" in values] == list(range(1, 14))
    assert [step for step, values in rows if "knn" in values] == [3, 6, 9, 12]
    assert trackio.finished == [f"digits run-{identity}"] * 4


def test_trackio_shows_figures_and_an_evaluation_owed(trackio: FakeTrackio, start: Callable[..., Tracker]):
    start("trackio").log(10, {"loss": 1.0})
    second = start("trackio", 10)
    second.image(10, "panel", Path("panel.png"))
    second.log(10, {"knn": math.inf})
    second.log(20, {"loss": 0.5})
    start("trackio", 10).log(10, {"knn": 1.0})
    (rows,) = trackio.runs.values()
    panel = (10, {"panel": ("image", "panel.png")})
    assert rows == [(10, {"loss": 1.0}), panel, (10, {"knn": math.inf}), (20, {"loss": 0.5})]


def test_what_trackio_prints_stays_out_of_the_log(
    trackio: FakeTrackio, start: Callable[..., Tracker], said: list[str], capsys: pytest.CaptureFixture[str]
):
    start("trackio").close()
    (name,) = trackio.runs
    assert said == [f"curves: trackio show --project sherd (run {name})"]
    assert capsys.readouterr().out == ""


def test_trackio_leaves_no_current_run_behind(trackio: FakeTrackio, start: Callable[..., Tracker]):
    start("trackio").close()
    assert trackio.current.get() is None


def test_one_identity_serves_whatever_is_chosen(
    wandb: FakeWandb, trackio: FakeTrackio, run: Path, start: Callable[..., Tracker]
):
    start("wandb").close()
    before = (run / "tracker.json").read_bytes()
    start("trackio").close()
    assert (run / "tracker.json").read_bytes() == before
    assert list(trackio.runs) == [f"digits run-{wandb.starts[0]['id']}"]
