"""Only one world writes a run folder, also when an earlier one wakes up after another has taken over."""

import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs


def checkpoints(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "checkpoints").glob("step-*"))


def test_a_second_world(runs: "Runs", digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    # Between two logged steps nothing but a checkpoint is written.
    options = ("--log-every", 20, "--checkpoint-steps", 7, "--keep-checkpoints", 100, "--workers", 0)
    first = runs.train(digits, out, *options, hold=20)
    first.wait_until((out / "checkpoints/latest").exists)
    first.send(signal.SIGSTOP)
    reached = checkpoints(out)
    assert len(reached) < 5
    refused = runs.train(digits, out, *options).wait().expect(1)
    assert refused.err.startswith(f"mae.py: {out} is in use by host ")
    assert f"stop it (touch {out / 'stop'}) or choose another folder with --out" in refused.err
    assert refused.err.count("\n") == 1
    assert checkpoints(out) == reached

    shutil.rmtree(out / ".lock")  # what another machine sees of a world that is silent for too long
    runs.finish(digits, out, *options)
    after = runs.contents(out)
    runs.release(out)
    first.send(signal.SIGCONT)
    woken = first.wait().expect(1)
    assert f"{out}: this world held generation 1, but " in woken.err
    assert "Nothing more is written from here" in woken.err
    assert woken.err.count("\n") == 1
    assert runs.contents(out) == after
    assert runs.read_exit(out)["status"] == "done"
