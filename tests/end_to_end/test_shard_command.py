"""`data_pipeline/shard.py` as a user runs it: mistaken, killed, started again, with any number of workers."""

import filecmp
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline.manifest import read_manifest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, str(ROOT / "data_pipeline/shard.py")]
HELD = [sys.executable, str(Path(__file__).with_name("hold_shards.py"))]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return os.environ | {"HF_HOME": str(tmp_path_factory.mktemp("hf")), "HF_HUB_OFFLINE": "1"}


def start(environment: dict[str, str], *options: object, hold: int | None = None) -> "subprocess.Popen[str]":
    """The command; with `hold` one that never gets past so many shards, and one more for each further worker."""
    words = [*(COMMAND if hold is None else [*HELD, str(hold)]), *map(str, options)]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, env=environment, start_new_session=True)


def run(environment: dict[str, str], *options: object, expected: int = 0) -> tuple[str, str]:
    """What was printed to stdout and stderr."""
    process = start(environment, *options)
    out, err = process.communicate(timeout=120)
    assert process.returncode == expected, f"{out}\n{err}"
    assert "Traceback" not in err, err
    return out, err


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def make_tree(folder: Path, count: int, side: int = 96) -> Path:
    for number in range(count):
        random = np.random.default_rng(number)
        blobs = Image.fromarray(random.integers(0, 256, (4, 4, 3), np.uint8)).resize((side, side + number % 5))
        path = folder / ("train" if number % 6 else "val") / f"class {number % 4}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        blobs.save(path, quality=90)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_tree(tmp_path_factory.mktemp("images") / "some images", 600)
    broken = folder / "train/class 1/1.jpg"
    broken.write_bytes(broken.read_bytes()[:-900])
    (folder / "train/class 2/notes.txt").write_text("not an image")
    return folder


@pytest.fixture(scope="module")
def undisturbed(images: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree, sharded by one worker without incident."""
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    out, _ = run(environment, "--source", images, "--out", folder, "--shard-size", 8_000, "--workers", 1)
    assert "1 files that are not images are left out" in out
    assert "train: 499 samples as jpg" in out
    assert "1 broken images left out" in out
    assert f"next: python pretrain/mae.py RECIPE --data {folder} --out runs/x" in out
    return folder


def test_digits(environment: dict[str, str], tmp_path: Path) -> None:
    out, _ = run(environment, "--source", "digits", "--out", tmp_path / "digits", "--workers", 2)
    assert "images/s" in out
    assert f"next: python pretrain/mae.py digits --data {tmp_path / 'digits'} --out runs/x" in out
    manifest = read_manifest(tmp_path / "digits")
    assert {name: (split.samples, split.extension) for name, split in manifest.splits.items()} == {
        "train": (1437, "png"),
        "test": (360, "png"),
    }
    assert sorted(path.name for path in (tmp_path / "digits").iterdir()) == [
        "__index__",
        "_info.json",
        "manifest.json",
        "test-000000.tar",
        "train-000000.tar",
    ]
    out, _ = run(environment, "--source", "digits", "--out", tmp_path / "digits")
    assert "finished already; nothing to do" in out


def test_a_tree_with_a_broken_image(undisturbed: Path, images: Path) -> None:
    manifest = read_manifest(undisturbed)
    assert manifest.classes == ("class 0", "class 1", "class 2", "class 3")
    assert {name: split.samples for name, split in manifest.splits.items()} == {"train": 499, "validation": 100}
    assert (manifest.made["quarantined"], manifest.made["options"]["source"]) == (1, str(images))
    line = json.loads((undisturbed / "quarantine.jsonl").read_text())
    assert (line["split"], line["name"]) == ("train", "train/class 1/1.jpg")


def test_the_same_bytes_at_any_number_of_workers(
    undisturbed: Path, images: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    run(environment, "--source", images, "--out", tmp_path / "out", "--shard-size", 8_000, "--workers", 3)
    assert contents(tmp_path / "out") == contents(undisturbed)


def records(folder: Path) -> list[Path]:
    """Of the shards that are whole."""
    return list((folder / ".work").glob("*.tar.json"))


def wait_for_shards(folder: Path, count: int, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 60
    while len(records(folder)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_killed_and_started_again(undisturbed: Path, images: Path, environment: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    options = ("--source", images, "--out", folder, "--shard-size", 8_000, "--workers", 2)
    for shards in (1, 5):
        process = start(environment, *options, hold=shards)
        wait_for_shards(folder, shards, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert not (folder / "manifest.json").exists()
    damaged = sorted(folder.glob("*.tar"))[0]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    _, err = run(environment, *options, "--seed", 1, expected=2)
    assert "holds an unfinished dataset, begun with other options: --seed 0 there, 1 here" in err
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*.tar") if path != damaged}
    out, _ = run(environment, *options)
    assert "unfinished; goes on" in out
    assert contents(folder) == contents(undisturbed)
    assert sum(path.stat().st_mtime_ns == kept[path] for path in kept) >= 4


def test_workers_do_not_outlive_a_killed_parent(images: Path, environment: dict[str, str], tmp_path: Path) -> None:
    """Even in the middle of a shard, which they go on with when nobody is left to tell of it."""
    folder = tmp_path / "out"
    options = ("--source", images, "--out", folder, "--shard-size", 8_000, "--workers", 2)
    process = start(environment, *options, hold=1)
    wait_for_shards(folder, 1, process)
    while len(list((folder / ".work").glob("*.tar.*.partial"))) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    whole = len(records(folder))
    os.kill(process.pid, signal.SIGKILL)
    _, err = process.communicate(timeout=60)  # ends only when every process that holds the pipes has
    assert "Traceback" not in err
    assert whole < len(records(folder)) <= whole + 2


def test_ctrl_c(images: Path, environment: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    options = ("--source", images, "--out", folder, "--shard-size", 8_000, "--workers", 2)
    process = start(environment, *options, hold=1)
    wait_for_shards(folder, 1, process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "shard.py: stopped; give the same command again: it goes on from the shards that are whole\n"
    assert not (folder / "manifest.json").exists()


def test_a_full_disk(environment: dict[str, str], tmp_path: Path) -> None:
    words = [*COMMAND, "--source", "digits", "--out", str(tmp_path / "out"), "--workers", "1"]
    limited = subprocess.run(
        ["bash", "-c", 'ulimit -f 200; exec "$@"', "bash", *words],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )
    assert limited.returncode == 1
    assert "train-000000.tar: the file is larger than `ulimit -f`" in limited.stderr
    assert "Traceback" not in limited.stderr
    assert not list((tmp_path / "out").rglob("*.tar*"))
    run(environment, *words[2:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--source", "./nowhere", "--out", "o"), "shard.py: --source ./nowhere: no such file or folder"),
        (
            ("--source", "nobody/nothing", "--out", "o"),
            "shard.py: --source nobody/nothing: no such file or folder here",
        ),
        (("--source", "digits", "--out", "o", "--sharde-size", "3"), "did you mean --shard-size?"),
        (("--source", "digits", "--out", "o", "--workers", "-3"), "--workers is -3, expected at least 1"),
        (("--source", "digits"), "--out"),
    ],
)
def test_mistakes_are_one_clear_message(
    environment: dict[str, str], tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    words = [str(tmp_path / "o") if word == "o" else word for word in options]
    _, err = run(environment, *words, expected=2)
    assert message in err
    assert not (tmp_path / "o").exists()


def test_an_empty_source(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    _, err = run(environment, "--source", tmp_path / "empty", "--out", tmp_path / "o", expected=2)
    assert f"--source {tmp_path / 'empty'}: no images in this folder or below it, but 0 other files" in err
    assert err.count("\n") == 1


def test_the_same_bytes_from_a_copy_of_the_source(
    undisturbed: Path, images: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(images, tmp_path / "copy")
    run(environment, "--source", tmp_path / "copy", "--out", tmp_path / "out", "--shard-size", 8_000)
    tars = [path.name for path in undisturbed.glob("*.tar")]
    assert filecmp.cmpfiles(undisturbed, tmp_path / "out", tars, shallow=False) == (tars, [], [])
