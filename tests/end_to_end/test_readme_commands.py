"""The README's commands for CIFAR-10, as printed, on the real images: shard, pre-train, fine-tune."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import readme as Readme
    from tests.end_to_end import runs as Runs

# What is appended so that a test ends in a minute; tests/soak runs them without.
SHORTER = {
    "pretrain/mae.py": "--epochs 0.03 --optimizer.warmup-epochs 0.01 --knn.most-train 512 --knn.most-held-out 256",
    "finetune/classify.py": "--epochs 0.03 --optimizer.warmup-epochs 0.01",
}


@pytest.mark.timeout(600)
def test_shard_pretrain_finetune_on_cifar10(runs: "Runs", readme: "Readme", tmp_path: Path) -> None:
    if not readme.CIFAR10.is_dir():
        pytest.skip(f"{readme.CIFAR10} is not there")
    commands = readme.printed()
    assert [readme.script_of(words) for words in commands] == ["data_pipeline/shard.py", *SHORTER]
    assert [words[:2] for words in commands[1:]] == [["accelerate", "launch"]] * 2
    for words in commands:
        readme.run(runs, words, tmp_path, SHORTER.get(readme.script_of(words), ""))
    trained = json.loads((tmp_path / "runs/cifar10-mae/exit.json").read_text())
    assert (trained["status"], trained["step"]) == ("done", 6)
    evaluation = json.loads((tmp_path / "runs/cifar10/evaluation.json").read_text())
    assert evaluation["images"] == 10_000
    assert evaluation["classes"][0] == "airplane"
    assert (tmp_path / "runs/cifar10/model/model.safetensors").is_file()
