"""Every kind of model in every format, loaded by its stock library where sherd is not installed at all.

Two environments of their own: the newest timm and Transformers; and, beside the same torch, Transformers 4. Each loads
each folder, and computes from the recorded pixels what the checkpoint computed; the lines of each card run as they
stand, from the folder and from the Hub's stand-in.
"""

import datetime
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from finetune.proof_record import read_record, read_recorded

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

TINY = "--optimizer.warmup-epochs 0.1 --workers 1 --tracker none"
SMALL = "--encoder.image-size 8 8 --encoder.patch-size 2 2 --encoder.width 24 --encoder.heads 2"
RUNS = {
    "mae": "pretrain/mae.py digits --epochs 0.5 --knn.most-train 64 --knn.most-held-out 64",
    "mean": "finetune/classify.py digits --init {mae} --epochs 0.5 --pool mean",
    "token": "finetune/classify.py digits --init {mae} --epochs 0.5 --pool token",
    "deit": (
        f"pretrain/distill.py deit-ti4-cifar10 --teacher own --epochs 0.3 --batch-size 64 {SMALL} --encoder.depth 1 "
        "--precision fp32 --views 2 --own-teacher.encoder.name vit_tiny_patch16_224 --own-teacher.encoder.patch-size "
        "2 2 --own-teacher.encoder.width 24 --own-teacher.encoder.depth 1 --own-teacher.encoder.heads 2 "
        "--own-teacher.optimizer.warmup-epochs 0.1"
    ),
    "deit3": (
        f"finetune/classify.py digits --init none --epochs 0.5 --encoder.name deit3_small_patch16_224 {SMALL} "
        "--encoder.depth 2 --pool own"
    ),
    "resnet": "finetune/classify.py digits-backbone --epochs 0.5",
}
FORMATS = {
    "mae": ["timm", "transformers", "facebook", "transformers --decoder", "facebook --decoder"],
    "mean": ["timm", "facebook"],
    "token": ["timm", "transformers", "facebook"],
    "deit": ["timm", "transformers", "facebook"],
    "deit3": ["timm", "facebook"],
    "resnet": ["timm"],
}
REFUSED = {
    ("mean", "transformers"): "--format timm",
    ("deit3", "transformers"): "--format timm",
    ("resnet", "transformers"): "--format timm",
    ("resnet", "facebook"): "--format timm",
    ("mae", "timm --decoder"): "--format transformers",
}


class Environment(NamedTuple):
    """A Python that has stock libraries and no sherd, and what they are."""

    python: Path
    versions: str


def make_environments(folder: Path) -> list[Environment]:
    newest, older = folder / "newest", folder / "older"
    for place in (newest, older):
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
    quiet = ("install", "--quiet", "--disable-pip-version-check")
    libraries = ("torch", "torchvision", "timm", "transformers")
    subprocess.run([newest / "bin/python", "-m", "pip", *quiet, *libraries], check=True, timeout=1800)
    # Beside the torch of the other, which is what takes room and time; its own libraries come first.
    (site,) = (newest / "lib").glob("python*/site-packages")
    (own,) = (older / "lib").glob("python*/site-packages")
    (own / "torch_of_the_other.pth").write_text(f"{site}\n")
    four = ("transformers>=4.53,<5", "timm")
    subprocess.run([older / "bin/python", "-m", "pip", *quiet, *four], check=True, timeout=900)
    return [Environment(place / "bin/python", versions(place / "bin/python")) for place in (newest, older)]


def versions(python: Path) -> str:
    code = "import json, timm, torch, transformers as t; print('timm', timm.__version__, 'torch', torch.__version__, "
    code += "'transformers', t.__version__)"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def environments(tmp_path_factory: pytest.TempPathFactory) -> list[Environment]:
    found = make_environments(tmp_path_factory.mktemp("environments"))
    for each in found:
        asked = subprocess.run(
            [each.python, "-I", "-c", "import finetune"], capture_output=True, text=True, check=False
        )
        assert "No module named 'finetune'" in asked.stderr
    assert [re.search(r"transformers (\d)", each.versions)[1] for each in found] == ["5", "4"]  # type: ignore[index]
    return found


@pytest.fixture(scope="module")
def trained(runs: "Runs", digits: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("trained")
    for name, command in RUNS.items():
        script, *words = command.format(mae=folder / "mae").split()
        options = (*words, "--data", digits, "--out", folder / name, *TINY.split())
        runs.Child(runs.python(runs.ROOT / script, *options), folder / f"{name}-log").wait().expect(0)
    return {name: folder / name for name in RUNS}


def publish(runs: "Runs", run: Path, out: Path, how: str) -> "Runs.Finished":
    words = runs.python(runs.ROOT / "finetune/publish.py", "--run", run, "--out", out, "--format", *how.split())
    return runs.Child(words, out.with_name(f"{out.name}-log"), cold=True).wait()


@pytest.fixture(scope="module")
def published(
    runs: "Runs", trained: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], Path]:
    folder = tmp_path_factory.mktemp("published")
    found = {}
    for kind, formats in FORMATS.items():
        for how in formats:
            out = folder / f"{kind}-{how.replace(' --', '-')}"
            publish(runs, trained[kind], out, how).expect(0)
            found[kind, how] = out
    return found


def compute(environment: Environment, model: Path, tmp_path: Path) -> float:
    """The largest difference of what the library of a folder's format computes in an environment."""
    record, recorded = read_record(model), read_recorded(model)
    exchange = tmp_path / "exchange"
    exchange.mkdir()
    save_file(recorded.inputs(record.normalization), exchange / "given.safetensors")
    shutil.copy(Path(__file__).parents[2] / "finetune/stock.py", tmp_path / "stock.py")
    call = "import pathlib, runpy, sys; s, layout, model, place = sys.argv[1:]; "
    call += "runpy.run_path(s)['main'](layout, model, pathlib.Path(place))"
    command = [environment.python, "-I", "-c", call, tmp_path / "stock.py", record.proof.layout, model, exchange]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    outputs = load_file(exchange / "outputs.safetensors")
    for name, values in recorded.expected.items():
        torch.testing.assert_close(outputs[f"given.{name}"], values, rtol=1e-5, atol=1e-5)
    return max(float((outputs[f"given.{name}"] - values).abs().max()) for name, values in recorded.expected.items())


EVERY = [(kind, how) for kind, formats in FORMATS.items() for how in formats]


@pytest.mark.parametrize("which", [0, 1], ids=["newest", "transformers-4"])
@pytest.mark.parametrize("asked", EVERY, ids=" ".join)
def test_loaded_where_sherd_is_not(
    environments: list[Environment],
    published: dict[tuple[str, str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    asked: tuple[str, str],
    which: int,
) -> None:
    (kind, how), model = asked, published[asked]
    difference = compute(environments[which], model, tmp_path)
    printed = run_lines(environments[which], model, tmp_path)
    with capsys.disabled():
        print(f"\n{datetime.datetime.now():%F %T} {kind}, {how}, with {environments[which].versions}: {difference:.2g}")
    assert printed == printed_in(model)


def run_lines(environment: Environment, model: Path, tmp_path: Path, **variables: str) -> str:
    """What the lines of a card print, as they stand there, beside the folder and an image."""
    (code,) = re.findall(r"^```python\n(.*?)^```", (model / "README.md").read_text(), re.MULTILINE | re.DOTALL)[:1]
    around = tmp_path / "around"
    around.mkdir()
    (around / model.name).symlink_to(model)
    Image.fromarray(read_recorded(model).pixels[0].numpy()).save(around / "image.png")
    (around / "lines.py").write_text(code)
    finished = subprocess.run(
        [environment.python, "lines.py"],
        cwd=around,
        capture_output=True,
        text=True,
        env=os.environ | variables,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.parametrize(("kind", "how"), REFUSED)
def test_what_a_format_cannot_hold_is_refused(
    runs: "Runs", trained: dict[str, Path], tmp_path: Path, kind: str, how: str
) -> None:
    refused = publish(runs, trained[kind], tmp_path / "m", how)
    assert refused.code != 0
    assert REFUSED[kind, how] in refused.err
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("how", ["timm", "transformers", "facebook"])
def test_from_the_hub(
    environments: list[Environment],
    runs: "Runs",
    trained: dict[str, Path],
    hub: Any,
    *,
    tmp_path: Path,
    how: str,
) -> None:
    """Uploaded over HTTP, and loaded from there by name: timm's hf-hub:, from_pretrained and hf_hub_download."""
    asked = {**hub.environment, "HF_TOKEN": "hf_stand_in"}
    words = runs.python(runs.ROOT / "finetune/publish.py", "--run", trained["token"], "--out", tmp_path / "m")
    words += ["--format", how, "--push", "user/m"]
    own = {**asked, "HF_HOME": str(tmp_path / "home")}
    said = runs.Child(words, tmp_path / "log", own, cold=True).wait().expect(0).out
    assert "ran from the Hub, as they stand there" in said
    for number, environment in enumerate(environments):
        there = tmp_path / str(number)
        there.mkdir()
        shutil.copytree(tmp_path / "m", there / "elsewhere")
        printed = run_lines(environment, there / "elsewhere", there, **asked, HF_HOME=str(there / "home"))
        assert printed == printed_in(tmp_path / "m")


def printed_in(model: Path) -> str:
    """What its card says that its lines print."""
    return (model / "README.md").read_text().split("it printed\n\n```\n")[1].split("```")[0]
