import errno
import json
import os
from pathlib import Path

import pytest

from launch import run_folder
from launch.atomic import atomic_folder
from launch.lock import FolderInUseError, LockLostError
from launch.run_folder import RunFolder, open_run

CONFIG = {"recipe": "vit-b16", "out": "runs/x", "amp": True, "size": (224, 224), "optimizer": {"lr": 0.001}}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_folder_is_created(tmp_path: Path) -> None:
    with open_run(tmp_path / "runs" / "x", CONFIG) as run:
        assert not run.continues
        assert run.changes == ()
        assert json.loads(run.config.read_text()) == json.loads(json.dumps(CONFIG))
        assert names(run.path) == [".lock", "config.json"]
        assert run.path / "checkpoints" == run.checkpoints
        assert [p.name for p in (run.environment, run.metrics, run.exit, run.stop, run.figures, run.encoder)] == [
            "environment.json",
            "metrics.jsonl",
            "exit.json",
            "stop",
            "figures",
            "encoder",
        ]


def test_logs_may_be_there_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "exit.json").write_text("{}")
    with open_run(tmp_path, CONFIG) as run:
        assert not run.exit.exists()


def test_the_same_run_continues(tmp_path: Path) -> None:
    with open_run(tmp_path, CONFIG) as run:
        run.write_exit("preempted", step=7)
        run.stop.touch()
        run.checkpoints.mkdir()
        (run.checkpoints / ".partial-step-9").mkdir()
        (run.path / ".partial-config.json-1").touch()
    with open_run(tmp_path, CONFIG) as run:
        assert run.continues
        assert run.changes == ()
        assert names(run.path) == [".lock", "checkpoints", "config.json"]
        assert names(run.checkpoints) == []


def test_permitted_fields_change_and_are_reported(tmp_path: Path) -> None:
    with open_run(tmp_path, CONFIG):
        pass
    new = {**CONFIG, "out": "./runs/x", "optimizer": {"lr": 0.5}}
    with open_run(tmp_path, new, may_change=frozenset({"out", "optimizer"})) as run:
        assert run.continues
        assert run.changes == (("out", "runs/x", "./runs/x"), ("optimizer.lr", 0.001, 0.5))
        assert json.loads(run.config.read_text())["optimizer"] == {"lr": 0.5}


def test_another_run_is_refused_field_by_field(tmp_path: Path) -> None:
    with open_run(tmp_path, CONFIG) as run:
        run.append_metrics({"step": 1})
    before = (tmp_path / "config.json").read_bytes()
    new = {"recipe": "vit-s16", "out": "y", "amp": False, "size": [96, 96], "optimizer": {"lr": 0.5}, "seed": 1}
    with pytest.raises(ValueError, match="holds another run") as caught:
        open_run(tmp_path, new, may_change=frozenset({"out", "opt"}))
    assert str(caught.value) == (
        f"{tmp_path}: holds another run, which differs in fields that cannot change on resume:\n"
        '  recipe: folder has "vit-b16", asked for "vit-s16"\n'
        "  amp: folder has true, asked for false\n"
        "  size: folder has [224, 224], asked for [96, 96]\n"
        "  optimizer.lr: folder has 0.001, asked for 0.5\n"
        "  seed: folder has (absent), asked for 1\n"
        "give another --out for a new run, or continue this one with the recipe vit-b16 --amp --size 224 224 "
        "--optimizer.lr 0.001"
    )
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_run_that_ended_before_its_first_step_may_be_given_other_options(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", {"recipe": "a", "channels": 3}) as run:
        run.write_json(run.environment, {})
        run.checkpoints.mkdir()
        run.write_exit("failed", error="5 channels")
    with open_run(tmp_path / "run", {"recipe": "a", "channels": 5}) as run:
        assert not run.continues
        assert not run.exit.exists()
        assert json.loads(run.config.read_text())["channels"] == 5
        run.append_metrics({"step": 1})
    with pytest.raises(ValueError, match="holds another run"):
        open_run(tmp_path / "run", {"recipe": "a", "channels": 3})


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    (tmp_path / "thesis.tex").touch()
    message = "not a run folder: it holds holiday.jpg and 1 more, but no config.json; .* give another --out"
    with pytest.raises(ValueError, match=message):
        open_run(tmp_path, CONFIG)
    (tmp_path / "thesis.tex").unlink()
    with pytest.raises(ValueError, match=r"it holds holiday\.jpg, but"):
        open_run(tmp_path, CONFIG)
    assert names(tmp_path) == ["holiday.jpg"]
    with pytest.raises(ValueError, match=r"holiday\.jpg: is a file, expected a folder; give another --out"):
        open_run(tmp_path / "holiday.jpg", CONFIG)


def test_a_torn_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: not valid JSON"):
        open_run(tmp_path, CONFIG)


def test_one_world_at_a_time(tmp_path: Path) -> None:
    with open_run(tmp_path, CONFIG), pytest.raises(FolderInUseError, match="is in use by"):
        open_run(tmp_path, CONFIG)
    open_run(tmp_path, CONFIG).close()


def test_a_failed_start_releases_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "write_json", fail)
        with pytest.raises(OSError, match="broken"):
            open_run(tmp_path, CONFIG)
    open_run(tmp_path, CONFIG).close()


def test_nothing_is_written_after_a_takeover(tmp_path: Path) -> None:
    run = open_run(tmp_path, CONFIG)
    run.append_metrics({"step": 1})
    (tmp_path / ".lock" / "000001.json").rename(tmp_path / ".lock" / "000002.json")
    (tmp_path / ".lock" / "000002.json").write_text(
        (tmp_path / ".lock" / "000002.json").read_text().replace('"token": "', '"token": "x')
    )
    with pytest.raises(LockLostError):
        run.append_metrics({"step": 2})
    with pytest.raises(LockLostError):
        run.cut_metrics(0)
    with pytest.raises(LockLostError):
        run.write_exit("failed")
    with pytest.raises(LockLostError), atomic_folder(run.checkpoints, run.guard):
        pass
    assert names(tmp_path) == [".lock", "config.json", "metrics.jsonl"]
    assert run.read_metrics() == [{"step": 1}]
    run.close()


def test_metrics_are_appended_and_cut(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.read_metrics() == []
    assert run.cut_metrics(5) == 0
    for step in (1, 2, 3):
        run.append_metrics({"step": step, "loss": float("nan") if step == 2 else 0.1})
    assert run.metrics.read_text().splitlines()[1] == '{"step": 2, "loss": null}'
    with open(run.metrics, "ab") as file:
        file.write(b'{"step": 4, "lo')
    assert [row["step"] for row in run.read_metrics()] == [1, 2, 3]
    assert run.cut_metrics(2) == 2
    run.append_metrics({"step": 3, "loss": 0.2})
    assert run.read_metrics()[-1] == {"step": 3, "loss": 0.2}
    before = run.metrics.stat().st_ino
    assert run.cut_metrics(3) == 0
    assert run.metrics.stat().st_ino == before


def test_a_complete_last_line_without_its_newline_is_kept(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.metrics.write_text('{"step": 1}\n{"step": 2}')
    assert run.cut_metrics(2) == 0
    run.append_metrics({"step": 3})
    assert [row["step"] for row in run.read_metrics()] == [1, 2, 3]


@pytest.mark.parametrize("line", ["{", "3", '{"loss": 1}'])
def test_a_bad_line_in_the_middle_is_named(tmp_path: Path, line: str) -> None:
    run = RunFolder(tmp_path)
    run.metrics.write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl: line 2 is not a JSON object with a step; remove it"):
        run.cut_metrics(9)


def test_metrics_cut_short_by_a_file_size_limit(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    run = RunFolder(tmp_path)
    run.append_metrics({"step": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(run.metrics) + 5, before[1]))
    try:
        with pytest.raises(OSError, match=r"metrics\.jsonl: the file is larger than `ulimit -f`") as caught:
            run.append_metrics({"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    assert run.metrics.read_text() == '{"step": 1}\n'


def test_exit_and_stop(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_exit("failed", step=3, error="it broke")
    record = json.loads(run.exit.read_text())
    assert record.pop("ended").endswith("+00:00")
    assert record == {"status": "failed", "step": 3, "error": "it broke"}
    assert not run.stop_requested()
    run.stop.touch()
    assert run.stop_requested()
    run.clear_stop()
    run.clear_stop()
    assert not run.stop_requested()


def test_a_field_that_an_earlier_version_did_not_know_may_be_absent_at_its_default(tmp_path: Path):
    open_run(tmp_path / "run", {"recipe": "r", "epochs": 3}).close()
    (tmp_path / "run/metrics.jsonl").write_text('{"step": 1}\n')
    newer = {"recipe": "r", "epochs": 3, "drop": {"rule": "growing", "rate": 0.1}}
    run = open_run(tmp_path / "run", newer, at_default=frozenset({"drop.rule", "drop.rate", "epochs"}))
    assert (run.continues, run.changes) == (True, ())
    run.close()
    with pytest.raises(ValueError, match=r'drop\.rule: folder has \(absent\), asked for "growing"'):
        open_run(tmp_path / "run", newer, at_default=frozenset({"drop.rate"}))
    with pytest.raises(ValueError, match="epochs: folder has 3, asked for 4"):
        open_run(tmp_path / "run", {"recipe": "r", "epochs": 4}, at_default=frozenset({"epochs"}))
