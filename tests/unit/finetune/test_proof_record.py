"""Not a bit of a published folder changes unseen, and what is recorded is read back."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from finetune.proof import Proof, StockPreparation, hashes_in
from finetune.proof_record import (
    Checkpoint,
    Record,
    Recorded,
    is_earlier,
    parse_record,
    read_record,
    read_recorded,
    write_record,
    write_recorded,
)
from pretrain.pixels import Normalization

PROOF = Proof(
    compared="logits",
    largest_difference=1e-7,
    tolerance=1e-5,
    images=64,
    shape=(64, 10),
    split="test",
    split_fingerprint="f" * 64,
    inputs_sha256="a" * 64,
    stock_preparation=StockPreparation(0.25, 63, 0.5),
    versions={"torch": "2.8"},
    files={},
    layout="timm",
)
RECORD = Record(PROOF, Checkpoint(7, "c" * 64), Normalization((0.5,) * 3, (0.25,) * 3), 2, "the first, ü")
RECORDED = Recorded(
    torch.arange(24, dtype=torch.uint8).view(2, 2, 2, 3), torch.rand(2, 4), {"logits": torch.rand(2, 10)}
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "m"
    (inside / "figures").mkdir(parents=True)
    (inside / "figures/curves.png").write_bytes(b"png")
    (inside / "README.md").write_text("# A model\n")
    write_recorded(inside, RECORDED)
    write_record(inside, replace(RECORD, proof=replace(PROOF, files=hashes_in(inside))))
    return inside


def test_what_was_written_is_read(folder: Path):
    record = read_record(folder)
    assert replace(record, proof=replace(record.proof, files={})) == RECORD
    assert record.proof.files.keys() == {"figures/curves.png", "README.md", "proof.safetensors"}
    found = read_recorded(folder)
    assert torch.equal(found.pixels, RECORDED.pixels)
    assert found.noise is not None
    assert torch.equal(found.noise, RECORDED.noise)
    assert torch.equal(found.expected["logits"], RECORDED.expected["logits"])
    images = found.inputs(record.normalization)["images"]
    assert images.shape == (2, 3, 2, 2)
    assert images[0, 0, 0, 0] == -2  # black, by a mean of a half and a deviation of a quarter


def test_any_bit_of_the_proof_is_missed(folder: Path):
    content = (folder / "proof.json").read_bytes()
    parse_record(content, "proof.json")
    for place in range(len(content)):
        bit = 1 << (place % 8)
        changed = content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]
        with pytest.raises(ValueError, match=r"^proof\.json: "):
            parse_record(changed, "proof.json")
    for changed in (content + b"\n", content[:-1], content.replace(b"\n  ", b"\n "), b""):
        with pytest.raises(ValueError, match=r"^proof\.json: not as publish\.py wrote it"):
            parse_record(changed, "proof.json")


@pytest.mark.parametrize("name", ["README.md", "proof.safetensors", "figures/curves.png"])
def test_any_bit_of_a_file_is_missed(folder: Path, name: str):
    content = bytearray((folder / name).read_bytes())
    place = random.Random(name).randrange(8 * len(content))
    content[place // 8] ^= 1 << place % 8
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"m: not as publish\.py wrote it: {name} has been changed; get the folder"):
        read_record(folder)


def test_a_file_too_few_or_too_many_is_seen(folder: Path):
    (folder / ".gitattributes").write_text("the Hub puts it there")
    read_record(folder)
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is none of its files"):
        read_record(folder)
    (folder / "pytorch_model.bin").unlink()
    (folder / "README.md").unlink()
    with pytest.raises(ValueError, match=r"README\.md is missing"):
        read_record(folder)


def test_a_folder_of_an_earlier_version_is_known(folder: Path):
    assert not is_earlier(folder)
    files = {name: digest for name, digest in hashes_in(folder).items() if name != "proof.json"}
    (folder / "proof.json").write_text(json.dumps({"format": "sherd-proof", "version": 1, "files": files}))
    assert is_earlier(folder)
    (folder / "README.md").write_text("mine")
    assert not is_earlier(folder)
    (folder / "proof.json").write_text("[]")
    assert not is_earlier(folder)


def test_what_is_no_proof_of_ours(folder: Path, tmp_path: Path):
    shutil.copytree(folder, tmp_path / "copy")
    (folder / "proof.json").write_text(json.dumps({"format": "another"}))
    with pytest.raises(ValueError, match=r"format is 'another', expected 'sherd-proof'"):
        read_record(folder)
    said = json.loads((tmp_path / "copy/proof.json").read_text())
    (folder / "proof.json").write_text(json.dumps({**said, "version": 1}))
    with pytest.raises(ValueError, match="version 1, expected 2, which this sherd reads and writes; publish the run"):
        read_record(folder)
    (folder / "proof.json").write_text("[]")
    with pytest.raises(ValueError, match=r"not as publish\.py wrote it"):
        read_record(folder)
    (folder / "proof.json").unlink()
    with pytest.raises(ValueError, match=r"m: no proof\.json, so publish\.py has not written this"):
        read_record(folder)
