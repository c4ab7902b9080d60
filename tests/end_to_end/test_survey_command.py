"""`data_pipeline/survey.py` as a user runs it, on a dataset and a run that the real commands have made."""

import io
import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from data_pipeline.manifest import read_manifest
from data_pipeline.order import Order, Plan

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

SHARD = "train-000000.tar"


class Survey:
    """Runs the command; its exit code is checked, and that no mistake of a user shows a traceback."""

    def __init__(self, runs: "Runs", log: Path) -> None:
        self._runs = runs
        self._log = log
        self._count = 0

    def __call__(self, *words: object, code: int = 0) -> Any:
        self._count += 1
        command = self._runs.python(self._runs.ROOT / "data_pipeline/survey.py", *words)
        finished = self._runs.Child(command, self._log / f"survey-{self._count}").wait().expect(code)
        assert "Traceback" not in finished.err
        return finished


@pytest.fixture
def survey(runs: "Runs", tmp_path: Path) -> Survey:
    return Survey(runs, tmp_path)


@pytest.fixture
def copy(digits: Path, tmp_path: Path) -> Path:
    shutil.copytree(digits, tmp_path / "a copy")
    return tmp_path / "a copy"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_whole_dataset_is_verified(survey: Survey, digits: Path, workers: int) -> None:
    samples = sum(split.samples for split in read_manifest(digits).splits.values())
    out = survey("verify", "--data", digits, "--workers", workers).out
    shards = sum(len(split.shards) for split in read_manifest(digits).splits.values())
    assert re.search(rf"{shards} shards, {samples:,} samples, [\d,]+ bytes in .* MB/s\): all whole\n$", out)


def test_damage_is_found_and_repaired_by_the_command_that_is_named(survey: Survey, runs: "Runs", copy: Path) -> None:
    path = copy / SHARD
    whole = path.read_bytes()
    data = bytearray(whole)
    data[512 + 20] ^= 1
    path.write_bytes(data)
    out = survey("verify", "--data", copy, code=1).out
    key = read_key(copy, 0)
    found = re.search(
        rf"shard {SHARD}: bytes 512 to [\d,]+ \(image of sample 0, {key}\): checksum \w+, expected \w+; "
        r"rewrite it with: (python .*)",
        out,
    )
    assert found is not None, out
    assert "1 of the shards are bad" in out
    words = shlex.split(found[1])
    runs.Child([sys.executable, str(runs.ROOT / words[1]), *words[2:]], copy.parent / "repair").wait().expect(0)
    assert path.read_bytes() == whole
    survey("verify", "--data", copy, "--split", "train")


def read_key(folder: Path, row: int) -> str:
    return f"train-{np.load(folder / read_manifest(folder).split('train').shards[0].index)['place'][row]:09d}"


def test_statistics_for_people_and_machines(survey: Survey, digits: Path) -> None:
    manifest = read_manifest(digits)
    finished = survey("stats", "--data", digits)
    assert re.search(r"^split +samples +withdrawn", finished.out, re.MULTILINE)
    assert manifest.split("train").fingerprint[:16] in finished.out
    assert "made by: python data_pipeline/shard.py --source digits" in finished.out
    found = json.loads(survey("stats", "--data", digits, "--json").out)
    train = found["splits"]["train"]
    assert train["samples"] == sum(train["class_counts"].values()) == manifest.split("train").samples
    assert list(train["class_counts"].values()) == list(manifest.split("train").class_counts)
    assert train["sizes"]["width"] == dict.fromkeys(train["sizes"]["width"], 8)
    assert found["channel_mean"] == list(manifest.statistics.mean)


def test_a_preview_is_the_same_each_time(survey: Survey, digits: Path, tmp_path: Path) -> None:
    sheets = []
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        survey("preview", "--data", digits, "--out", tmp_path / "new" / f"{name}.png", "--count", 30, "--seed", seed)
        sheets.append((tmp_path / "new" / f"{name}.png").read_bytes())
    assert sheets[0] == sheets[1] != sheets[2]
    assert Image.open(io.BytesIO(sheets[0])).size[0] > 500


def test_a_step_of_a_run_is_explained(survey: Survey, digits: Path, undisturbed: Path) -> None:
    split = read_manifest(digits).split("train")
    sizes = [shard.samples for shard in split.shards], [shard.bytes for shard in split.shards]
    order = Order(*sizes, fingerprint=split.fingerprint, plan=Plan(), seed=0)
    expected = order.locate(np.arange(22 * 64 + 1, 23 * 64, 2))
    of_run = json.loads(survey("explain", "--run", undisturbed, "--step", 23, "--rank", 1, "--world", 2, "--json").out)
    assert [row["sample"] for row in of_run["rows"]] == expected.sample.tolist()
    assert [row["epoch"] for row in of_run["rows"]] == expected.epoch.tolist()
    words = ("--data", digits, "--batch-size", 64, "--step", 23, "--rank", 1, "--world", 2)
    assert json.loads(survey("explain", *words, "--json").out)["rows"] == of_run["rows"]
    first = of_run["rows"][0]
    assert re.search(rf" {first['key']} +{re.escape(first['name'])} +", survey("explain", *words).out)


def test_a_run_is_proven_and_a_withdrawal_ends_that(
    survey: Survey, copy: Path, undisturbed: Path, tmp_path: Path
) -> None:
    samples = read_manifest(copy).split("train").samples
    once, rest = divmod(45 * 64, samples)
    out = survey("audit", "--run", undisturbed, "--data", copy, "--out", tmp_path / "proof").out
    assert f"{samples:,} samples, {once} whole epochs + {rest}/{samples:,} of one: every sample was due 2 or 3" in out
    assert f"seen: {samples - rest:,} samples 2 times, {rest:,} samples 3 times" in out
    assert out.endswith("proven: the counts are as the plan says\n")
    written = json.loads((tmp_path / "proof/audit.json").read_text())
    assert written["parts"][0]["seen"] == {"2": samples - rest, "3": rest}
    assert written["proven"] is True

    keys = read_key(copy, 3), read_key(copy, 1)
    (tmp_path / "keys.txt").write_text(f"# asked for by its owner\n{keys[1]}\n")
    before = read_manifest(copy).split("train").fingerprint
    finished = survey("withdraw", "--data", copy, "--keys", keys[0], "--from-file", tmp_path / "keys.txt")
    assert (copy / "withdrawn.txt").read_text() == "".join(f"{key}\n" for key in sorted(keys))
    after = read_manifest(copy).split("train").fingerprint
    assert f"train: 2 of {samples:,} samples are withdrawn; fingerprint {after}, was {before}" in finished.out
    assert "runs begun before refuse to go on" in finished.out
    assert "0 keys added" in survey("withdraw", "--data", copy, "--keys", keys[0]).out
    finished = survey("audit", "--run", undisturbed, "--data", copy, code=1)
    assert "other data, or samples were withdrawn since" in finished.err
    assert finished.out.endswith("not proven\n")
    survey("verify", "--data", copy)


def test_comments_of_the_list_stay(survey: Survey, copy: Path) -> None:
    keys = sorted(read_key(copy, row) for row in range(3))
    (copy / "withdrawn.txt").write_text(f"# our list\n\n{keys[2]}  # twice\n{keys[1]}\n")
    survey("withdraw", "--data", copy, "--keys", keys[0])
    expected = f"# our list\n{keys[0]}\n{keys[1]}\n{keys[2]}  # twice\n"
    assert (copy / "withdrawn.txt").read_text() == expected


def test_shuffling_is_judged(survey: Survey, digits: Path) -> None:
    out = survey("shuffle-quality", "--data", digits, "--batch-size", 64, "--steps", 20).out
    assert re.search(r"^distinct blocks +[\d.]+ +[\d.]+ +good$", out, re.MULTILINE)
    found = json.loads(survey("shuffle-quality", "--data", digits, "--batch-size", 64, "--steps", 20, "--json").out)
    assert {figure["verdict"] for figure in found["figures"]} <= {"good", "fair"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("verfy",), "unknown command 'verfy'; did you mean verify?"),
        (("verify", "--data", "{nowhere}"), "no manifest.json, so this is not a dataset folder"),
        (("verify", "--data", "{digits}", "--split", "tset"), "no split 'tset'; it has: train, test"),
        (("preview", "--data", "{digits}", "--out", "x.jpg"), "--out x.jpg: expected the name of a PNG"),
        (("explain", "--step", "1", "--run", "{nowhere}"), "no config.json there; expected a run folder"),
        (("audit", "--run", "{digits}"), "no config.json there; expected a run folder"),
        (("withdraw", "--data", "{digits}", "--keys", "train-999999999"), "no sample has the key train-999999999"),
        (("shuffle-quality", "--data", "{digits}", "--batch-size", "99999"), "--batch-size 99999: split train has"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    survey: Survey, digits: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    given = [word.format(nowhere=tmp_path / "nowhere", digits=digits) for word in words]
    err = survey(*given, code=2).err
    assert message in err
    assert len(err.strip().splitlines()) == 1
