"""What a finished run leaves: its description, figures, and an encoder that needs nothing of sherd."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

# Run where sherd cannot be imported: timm alone builds the encoder, and again from the checkpoint's weights.
LOAD_WITH_TIMM = """
import sys

class NoSherd:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("launch", "data_pipeline", "pretrain", "finetune"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoSherd())
import timm, timm.data, torch
from safetensors.torch import load_file

encoder, checkpoint = sys.argv[1:]
loaded = timm.create_model(f"local-dir:{encoder}", pretrained=True).eval()
sizes = dict(img_size=8, patch_size=2, embed_dim=48, depth=2, num_heads=3, num_classes=0)
rebuilt = timm.create_model("vit_tiny_patch16_224", **sizes).eval()
weights = load_file(checkpoint)
rebuilt.load_state_dict({n.removeprefix("encoder."): w for n, w in weights.items() if n.startswith("encoder.")})
images = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    assert torch.equal(loaded.forward_features(images), rebuilt.forward_features(images))
    assert loaded(images).shape == (5, 48)
    assert loaded(images).std() > 0.01
data = timm.data.resolve_model_data_config(loaded)
print(*data["input_size"], *data["mean"], *data["std"])
"""


def test_the_encoder_without_sherd(runs: "Runs", digits: Path, undisturbed: Path, tmp_path: Path) -> None:
    script = tmp_path / "load.py"
    script.write_text(LOAD_WITH_TIMM)
    words = runs.python(script, undisturbed / "encoder", runs.newest(undisturbed) / "model.safetensors")
    finished = runs.Child(words, tmp_path / "load", cold=True).wait().expect(0)
    statistics = json.loads((digits / "manifest.json").read_text())["statistics"]
    expected = [3, 8, 8, *statistics["mean"], *statistics["std"]]
    assert [float(word) for word in finished.out.split()] == expected


def test_what_describes_the_run(runs: "Runs", digits: Path, undisturbed: Path) -> None:
    config = json.loads((undisturbed / "config.json").read_text())
    assert (config["recipe"], config["data"], config["out"]) == ("digits", str(digits), str(undisturbed))
    assert config["encoder"]["image_size"] == [8, 8]
    assert (config["epochs"], config["optimizer"]["betas"], config["resume"]) == (2.0, [0.9, 0.95], None)
    environment = json.loads((undisturbed / "environment.json").read_text())
    assert environment["versions"].keys() >= {"sherd", "torch", "timm", "numpy", "simplejpeg"}
    assert None not in environment["versions"].values()
    assert (environment["world"], environment["threads"], environment["omp_num_threads"]) == (1, 1, "1")
    assert environment["command_line"][1:4] == ["digits", "--data", str(digits)]
    ended = runs.read_exit(undisturbed)
    assert (ended["status"], ended["step"]) == ("done", runs.STEPS)


def test_metrics(runs: "Runs", undisturbed: Path) -> None:
    lines = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if "loss" in line]
    assert [line["step"] for line in trained] == list(range(1, runs.STEPS + 1))
    fields = {"step", "epoch", "loss", "lr", "grad_norm", "images_per_second", "data_wait", "memory"}
    assert all(line.keys() >= fields for line in trained)
    evaluated = [line for line in lines if "knn_top1" in line]
    assert [line["step"] for line in evaluated] == [23, 45]
    assert trained[-1]["loss"] < trained[0]["loss"]


def test_figures(undisturbed: Path) -> None:
    figures = sorted((undisturbed / "figures").iterdir())
    assert [path.name for path in figures] == [f"reconstruction-epoch-0000{epoch}.0.png" for epoch in (1, 2)]
    pixels = []
    for path in figures:
        with Image.open(path) as image:
            image.load()
            pixels.append(np.asarray(image.convert("RGB")))
        assert min(pixels[-1].shape[:2]) > 300
        assert len(np.unique(pixels[-1])) > 20
    assert not np.array_equal(*pixels)
