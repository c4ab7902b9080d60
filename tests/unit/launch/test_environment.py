import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launch.environment import environment, git_state


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_what_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(sys, "argv", ["mae.py", "vit-b16"])
    record = environment(["pytest", "no-such-distribution"])
    assert json.loads(json.dumps(record)) == record
    assert record["versions"] == {"pytest": pytest.__version__, "no-such-distribution": None}
    assert record["python"] == ".".join(map(str, sys.version_info[:3]))
    assert record["omp_num_threads"] == "3"
    assert record["command_line"] == ["mae.py", "vit-b16"]
    assert {"platform", "machine", "cpu_count", "hostname", "git"} < record.keys()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.py"
    file.write_text("1")
    assert git_state(file) is None
    git(tmp_path, "init")
    assert git_state(file) is None
    git(tmp_path, "add", "a.py")
    git(tmp_path, "commit", "-m", "x")
    state = git_state(file)
    assert state is not None
    assert len(state["revision"]) == 40
    assert state["dirty"] is False
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    file.write_text("2")
    assert git_state(file) == {"revision": state["revision"], "dirty": True}
    (tmp_path / "untracked.py").touch()
    assert git_state(tmp_path / "untracked.py") is None


def test_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment([])["git"] is None
