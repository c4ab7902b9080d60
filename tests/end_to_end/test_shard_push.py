"""`data_pipeline/shard.py --push`, against a server that speaks as the Hub does."""

import hashlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from huggingface_hub import HfApi

from data_pipeline import shard
from data_pipeline.config import ShardConfig
from data_pipeline.manifest import read_manifest
from data_pipeline.sharding import shard_dataset
from data_pipeline.withdrawal import withdraw
from launch.console import Console

# huggingface_hub hands files to httpx2 as httpx wanted them.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
ROOT = Path(__file__).parents[2]
KEY = ("dataset", "user/digits")
LARGE = (".tar", ".npy")
OPTIONS = ["--source", "digits", "--take", "60", "--shard-size", "3000", "--workers", "1"]

# What others do with the dataset: in a fresh process, since huggingface_hub reads HF_ENDPOINT when it is imported.
READ = """
import hashlib, json, re, sys
import datasets, webdataset
from data_pipeline.augment import RandomResizedCrop
from data_pipeline.manifest import read_manifest
from data_pipeline.rows import Part
from data_pipeline.storage import ShardReader
from data_pipeline.stream import Stream
datasets.disable_progress_bars()
found = {}
for name, folder in zip(("here", "hub"), sys.argv[1:3]):
    manifest = read_manifest(folder)
    split = manifest.split("train")
    reader = ShardReader(manifest, split)
    images = [
        bytes(reader.image(number, row)[0]) for number, shard in enumerate(split.shards) for row in range(shard.samples)
    ]
    found[name] = [
        {name: split.fingerprint for name, split in manifest.splits.items()},
        hashlib.sha256(repr(images).encode()).hexdigest(),
    ]
    stream = Stream([Part(manifest, "train")], RandomResizedCrop((8, 8)), batch_size=16, seed=1, workers=0, epochs=2)
    batches = [(batch.images.numpy().tobytes(), batch.labels.tolist()) for batch in stream]
    found[name] += [len(batches), hashlib.sha256(repr(batches).encode()).hexdigest()]
loaded = datasets.load_dataset("user/digits")
found["datasets"] = {name: [len(rows), sum(rows["cls"])] for name, rows in loaded.items()}
card = open(sys.argv[3]).read()
found["printed"] = []
for code in re.findall("```python\\n(.*?)```", card, re.DOTALL):
    exec(code.replace("print(", "found['printed'].append(").replace(".keys())", ")"), {"found": found})
found["printed"] = [sorted(sample) for sample in found["printed"]]
print(json.dumps(found))
"""


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"push_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


STAND_IN, UPLOADS = load("hub_stand_in"), load("hub_uploads")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "digits"
    shard_dataset(ShardConfig("digits", str(folder), take=60, shard_size=3000, workers=1), Console())
    return folder


@pytest.fixture
def hub() -> Iterator[Any]:
    found = STAND_IN.HubStandIn({})
    UPLOADS.accept(STAND_IN, found)
    with STAND_IN.serve(found):
        yield found


@pytest.fixture
def in_process(hub: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs shard.py in this process, which is not spared the second that a new one takes to import; its exit code."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("launch.hub._client", lambda: HfApi(endpoint=hub.address, token=STAND_IN.TOKEN))

    def run(out: Path, *options: str) -> int:
        monkeypatch.setattr(sys, "argv", ["shard.py", *OPTIONS, "--out", str(out), "--push", "user/digits", *options])
        return shard.main()

    return run


def environment_of(hub: Any, home: Path) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    token = {"HF_HOME": str(home), "HF_TOKEN": STAND_IN.TOKEN, "OMP_NUM_THREADS": "1"}
    return ours | hub.environment | token | {"PYTHONPATH": str(ROOT)}


def put(hub: Any) -> list[str]:
    return [line for line in hub.log if line.startswith("PUT") and line.endswith("200")]


def writes(hub: Any) -> list[str]:
    return [line for line in hub.log if line.startswith(("POST", "PUT"))]


def test_killed_in_mid_upload_then_read_by_all(hub: Any, digits: Path, tmp_path: Path) -> None:
    held, before, lock = threading.Event(), [], threading.Lock()
    store = next(row for row in hub.routes if row[0] == "PUT")[2]

    def hold(hub: Any, request: Any) -> Any:
        with lock:
            before.append(request)
        if len(before) > 6:
            held.wait(60)
            raise ConnectionAbortedError
        request.parts["oid"] = STAND_IN.sha256_of(request.body)
        return store(hub, request)

    hub.routes.insert(0, ("PUT", "/lfs/.*", hold))
    command = [sys.executable, str(ROOT / "data_pipeline/shard.py"), *OPTIONS, "--out", str(digits)]
    command += ["--push", "user/digits", "--license", "cc0-1.0"]
    environment = environment_of(hub, tmp_path / "hf")
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as first:
        while len(before) <= 6:
            assert first.poll() is None
            held.wait(0.02)
        first.send_signal(signal.SIGKILL)
    held.set()
    stored = len(put(hub))
    assert stored == 6
    assert "manifest.json" not in hub.repositories[KEY].files

    hub.routes.pop(0)
    hub.log.clear()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    large = [path for path in digits.rglob("*") if path.suffix in LARGE]
    assert len(put(hub)) == len({path.read_bytes() for path in large}) - stored
    assert "next: python pretrain/mae.py RECIPE --data hf://datasets/user/digits --out runs/x\n" in done.stdout
    assert STAND_IN.TOKEN not in done.stdout
    files = hub.repositories[KEY].files
    assert set(files) - {".gitattributes", "README.md"} == {
        path.relative_to(digits).as_posix() for path in digits.rglob("*") if path.is_file()
    }
    for path in large:
        assert files[path.relative_to(digits).as_posix()] == path.read_bytes()
    assert "license: cc0-1.0" in files["README.md"].decode()

    (tmp_path / "card.md").write_bytes(files["README.md"].replace(b"https://huggingface.co", hub.address.encode()))
    read = subprocess.run(
        [sys.executable, "-c", READ, str(digits), "hf://datasets/user/digits", str(tmp_path / "card.md")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert read.returncode == 0, read.stderr
    found = json.loads(read.stdout)
    assert found["here"] == found["hub"]
    assert found["here"][2] == -(-2 * 60 // 16), "batches of two epochs, the same crops and all"
    manifest = read_manifest(digits)
    assert found["datasets"] == {
        name: [split.samples, sum(number * count for number, count in enumerate(split.class_counts))]
        for name, split in manifest.splits.items()
    }
    assert found["printed"] == [["__key__", "__url__", "cls", "png"]] * 2, "datasets and webdataset, as the card says"


def test_a_dry_run_writes_nothing(
    in_process: Any, hub: Any, digits: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert in_process(digits, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "dataset user/digits, branch main: would be created\n" in out
    tar = (digits / "train-000000.tar").stat().st_size
    assert re.search(rf"^  new +{tar:,}  train-000000\.tar$", out, re.MULTILINE)
    assert re.search(r"^\d+ new, 0 changed, 0 same, 0 deleted; [\d,]+ bytes to upload$", out, re.MULTILINE)
    assert in_process(tmp_path / "none", "--dry-run") == 0
    assert "then it would be uploaded as dataset user/digits\n" in capsys.readouterr().out
    assert writes(hub) == []
    assert hub.repositories == {}
    assert not (tmp_path / "none").exists()


def test_again_with_what_changed(
    in_process: Any, hub: Any, digits: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "digits"
    for path in (path for path in digits.rglob("*") if path.is_file()):
        (folder / path.relative_to(digits)).parent.mkdir(parents=True, exist_ok=True)
        (folder / path.relative_to(digits)).write_bytes(path.read_bytes())
    assert in_process(folder, "--hub.tag", "v1", "--hub.private") == 0
    assert hub.repositories[KEY].access == "private"
    assert "hf://datasets/user/digits@v1 " in capsys.readouterr().out
    withdraw(str(folder), ["train-000000003"])
    (folder / "withdrawn.txt").write_text((folder / "withdrawn.txt").read_text() + "# as Ada asked\n")
    hub.log.clear()
    assert in_process(folder, "--dry-run") == 0
    assert "1 new, 1 changed, " in capsys.readouterr().out, "withdrawn.txt, and the card"
    assert in_process(folder, "--hub.tag", "v1") == 2
    assert "the tag v1 exists" in capsys.readouterr().err
    assert writes(hub) == []
    assert in_process(folder, "--hub.tag", "v2") == 0
    assert put(hub) == []
    out = capsys.readouterr().out
    assert "1 withdrawn samples stay in the tars that are uploaded: withdrawn.txt names them\n" in out
    assert hub.repositories[KEY].files["withdrawn.txt"] == b"train-000000003\n"
    assert "withdrawn.txt" not in hub.repositories[KEY].at("v1")


def test_refused(in_process: Any, hub: Any, digits: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    empty = {".gitattributes": b""}
    hub.repositories[KEY] = STAND_IN.Repository({"data.csv": b"1"}, history={STAND_IN.commit_of(empty): empty})
    assert in_process(digits) == 2
    assert capsys.readouterr().err == (
        "shard.py: dataset user/digits: it holds data.csv, which no finished upload of ours has written; push to "
        "another name, or to a branch of its own with --hub.revision BRANCH\n"
    )
    assert writes(hub) == []
    assert in_process(digits, "--hub.revision", "sherd") == 0
    assert hub.repositories[KEY].files == {"data.csv": b"1"}
    capsys.readouterr()
    damaged = (digits / "train-000000.tar").read_bytes()
    altered = b"?" + damaged[1:]
    (digits / "train-000000.tar").write_bytes(altered)
    assert in_process(digits, "--hub.revision", "sherd") == 2
    (digits / "train-000000.tar").write_bytes(damaged)
    found = hashlib.sha256(altered).hexdigest()[:12]
    assert f"train-000000.tar: has SHA-256 {found}, expected " in capsys.readouterr().err
    hub.routes.insert(0, ("GET", "/api/whoami-v2", lambda *_: STAND_IN.Answer(401)))
    assert in_process(tmp_path / "new") == 2
    assert "does not know the token" in capsys.readouterr().err
    assert not (tmp_path / "new").exists(), "hours of work do not come before a token that cannot do"
