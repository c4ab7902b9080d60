"""Files of weights: what is read, and what is refused, by its message; nothing in them is run."""

import argparse
import os
import pickle
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pretrain.weight_files import read_weight_file

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}


class RunsCode:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {shlex.quote(str(self.path))}",)


def refusal(where: Path | str) -> str:
    with pytest.raises(ValueError, match="--init-from") as caught:
        read_weight_file(str(where), "--init-from")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.bin", "w.safetensors", "under model.pth", "old.pth"])
def test_tensors_are_read_to_the_bit(tmp_path: Path, name: str):
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(TENSORS, path)
    else:
        content: Any = {"model": TENSORS} if name.startswith("under") else TENSORS
        torch.save(content, path, _use_new_zipfile_serialization=name != "old.pth")
    file = read_weight_file(str(path), "--init-from")
    assert (file.path, file.config, file.rounded) == (path, {}, ())
    assert file.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(file.tensors[name], tensor) for name, tensor in TENSORS.items())


def test_of_a_folder_safetensors_and_config_are_read(tmp_path: Path):
    torch.save({"model": {"last": torch.ones(1)}}, tmp_path / "model.pth")
    assert read_weight_file(str(tmp_path), "--init-from").tensors.keys() == {"last"}
    torch.save({"other": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    assert read_weight_file(str(tmp_path), "--init-from").tensors.keys() == {"other"}
    save_file(TENSORS, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    file = read_weight_file(str(tmp_path), "--init-from")
    assert (file.tensors.keys(), file.config) == (TENSORS.keys(), {"model_type": "vit"})


def test_half_precision_becomes_float32(tmp_path: Path):
    value = torch.tensor([1.0, 0.1])
    save_file({"a": value.half(), "b": value.bfloat16(), "c": value}, tmp_path / "w.safetensors")
    file = read_weight_file(str(tmp_path / "w.safetensors"), "--init-from")
    assert file.rounded == ("bfloat16", "float16")
    assert {tensor.dtype for tensor in file.tensors.values()} == {torch.float32}
    assert torch.equal(file.tensors["a"], value.half().float())
    assert torch.equal(file.tensors["b"], value.bfloat16().float())


def test_a_file_that_would_run_code_does_not(tmp_path: Path):
    path, mark = tmp_path / "w.pth", tmp_path / "ran"
    torch.save({"model": TENSORS, "more": RunsCode(mark)}, path)
    assert refusal(path) == (
        f"--init-from {path}: w.pth pickles posix.system beside its tensors, and is not read, for that could run any "
        "code; get the weights alone, best as .safetensors"
    )
    path.write_bytes(pickle.dumps({"model": RunsCode(mark)}))
    assert "w.pth is not a file of tensors that torch.save wrote, or is damaged" in refusal(path)
    assert not mark.exists()
    os.system(f"touch {shlex.quote(str(mark))}")  # it would have been seen
    assert mark.exists()


def test_a_training_checkpoint_is_refused_and_its_way_out_works(tmp_path: Path):
    path, out = tmp_path / "checkpoint-799.pth", tmp_path / "w.pth"
    run = argparse.Namespace(lr=1e-3, data_path="/data", betas=[0.9, 0.95], distributed=False)
    torch.save({"model": TENSORS, "optimizer": {"state": {0: {"step": 3}}}, "epoch": 799, "args": run}, path)
    told = refusal(path)
    assert told.startswith(
        f"--init-from {path}: checkpoint-799.pth pickles argparse.Namespace beside its tensors, so it is a training "
        "checkpoint, and nothing but tensors is read; keep its weights alone, if you trust it, with: python -c "
    )
    command = shlex.split(told.partition("with: ")[2])
    assert command[-2:] == ["CHECKPOINT", "WEIGHTS.pth"]
    subprocess.run([sys.executable, *command[1:-2], path, out], check=True, timeout=120)
    tensors = read_weight_file(str(out), "--init-from").tensors
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([torch.ones(2)], "w.pth holds a list, expected tensors by name, or these under `model`"),
        (torch.ones(2), "w.pth holds a Tensor, expected"),
        (
            {"teacher": TENSORS},
            "expected floating-point tensors by name, found dict under teacher; give the weights",
        ),
        ({"a": torch.ones(2), "step": 3}, "found int under step"),
        ({"a": torch.ones(2, dtype=torch.int8), 3: torch.ones(1)}, "found torch.float32, torch.int8 under a, 3"),
        (
            {"a": torch.tensor([1.0, float("nan")]), "b": torch.ones(1)},
            "NaN or infinite values in a; get the file anew",
        ),
        ({f"n{i}": torch.tensor([float("inf")]) for i in range(7)}, "values in n0, n1, n2, n3, n4 and 2 more;"),
        ({"a": torch.tensor([1e300], dtype=torch.float64)}, "NaN or infinite values in a"),
    ],
    ids=str,
)
def test_content_that_is_no_weights_is_refused(tmp_path: Path, content: Any, told: str):
    torch.save(content, path := tmp_path / "w.pth")
    assert f"--init-from {path}: " in refusal(path)
    assert told in refusal(path)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("damage", ["empty", "cut", "other bytes"])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str, damage: str):
    path = tmp_path / name
    if name == "w.pth":
        torch.save(TENSORS, path)
    else:
        save_file(TENSORS, path)
    content = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "cut": content[: len(content) // 2], "other bytes": b"<html>not found</html>"}[damage]
    )
    kind = (
        "a file of tensors that torch.save wrote, or is damaged" if name == "w.pth" else "a readable safetensors file"
    )
    told = refusal(path)
    assert f"--init-from {path}: {name} is not {kind} (" in told
    assert "get it anew" in told


def test_what_is_not_there_or_of_another_kind_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert "--init-from no.pth: no such file or folder; expected a folder that timm" in refusal("no.pth")
    assert "no such file or folder; on the Hub it would be hf://facebook/vit-mae-base;" in refusal(
        "facebook/vit-mae-base"
    )
    assert "download the file and give its path" in refusal("https://somewhere.org/mae.pth")
    assert "hf://name: expected hf://user/name or hf://user/name@revision" in refusal("hf://name")
    Path("w.npz").write_bytes(b"")
    assert "w.npz: a file of another kind; expected a folder" in refusal("w.npz")
    Path("m").mkdir()
    Path("m/flax_model.msgpack").write_bytes(b"")
    told = "a folder without model.safetensors, pytorch_model.bin or model.pth, found flax_model.msgpack;"
    assert told in refusal("m")
    Path("m/model.safetensors.index.json").write_text("{}")
    assert "its weights are split over several files, expected one" in refusal("m")
    Path("m/config.json").write_text("{")
    save_file(TENSORS, "m/model.safetensors")
    with pytest.raises(ValueError, match=r"m/config\.json: not valid JSON"):
        read_weight_file("m", "--init-from")
