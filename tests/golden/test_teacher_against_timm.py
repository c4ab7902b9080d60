"""A teacher's logits of what a student sees of the sample images are those of plain timm code for their pixels."""

import importlib.util
import io
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from pretrain.backbone_config import BackboneConfig
from pretrain.pixels import Normalization
from pretrain.teacher import Teacher
from pretrain.teacher_source import find_teacher
from pretrain.world import World

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT.parent / "shared/data/imagenet_samples/train.parquet"
STUDENT = Normalization((0.45, 0.4, 0.35), (0.3, 0.25, 0.2))
CLASSES = 6
# How their images are prepared, where that is not as timm states it.
MODELS: dict[str, dict[str, Any]] = {
    "resnet10t": {"input_size": (3, 64, 64), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)},
    "test_vit": {},
    "deit_tiny_distilled_patch16_224": {"input_size": (3, 96, 96)},
}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "deit_tiny_distilled_patch16_224": {"img_size": 96, "embed_dim": 48, "depth": 2, "num_heads": 3}
}


@pytest.fixture(scope="module")
def world() -> World:
    return World("fp32")


def create(name: str) -> nn.Module:
    """A model with random weights, also where a fresh one has 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=CLASSES, **ARGUMENTS.get(name, {}))
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=generator) * 0.05)
    described: Any = model.pretrained_cfg
    described.update(MODELS[name])
    return model.eval()


def photographs(size: tuple[int, int]) -> Tensor:
    """The first sample images in uint8, (b, h, w, c)."""
    column = pq.read_table(SAMPLES, columns=["image"])["image"].slice(0, 8)
    pictures = [Image.open(io.BytesIO(one["bytes"].as_py())).convert("RGB") for one in column]
    return torch.stack([torch.from_numpy(np.array(one.resize((size[1], size[0])))) for one in pictures])


@torch.no_grad()
def by_timm(model: nn.Module, images: Tensor) -> Tensor:
    """Plain code, whose only order is the usual one: floats from 0 to 1, resized, then normalised."""
    described: Any = model.pretrained_cfg
    shares = images.permute(0, 3, 1, 2).float() / 255
    _, height, width = described["input_size"]
    resized = transforms.resize(shares, [height, width], InterpolationMode.BICUBIC, antialias=True)
    return model(transforms.normalize(resized, list(described["mean"]), list(described["std"])))


@pytest.mark.skipif(not SAMPLES.exists(), reason=f"{SAMPLES} is absent")
@pytest.mark.parametrize("size", [(32, 32), (160, 160), (128, 96)])
@pytest.mark.parametrize("name", MODELS)
def test_logits_of_the_sample_images(tmp_path: Path, world: World, name: str, size: tuple[int, int]):
    model, images = create(name), photographs(size)
    arguments = ARGUMENTS.get(name, {})
    save_for_hf(model, str(tmp_path / "stock"), model_args=arguments, safe_serialization=True)
    teacher = Teacher(find_teacher(str(tmp_path / "stock"), architecture=None), world)
    found = teacher.logits(STUDENT.normalize(images), STUDENT)
    expected = by_timm(model, images)
    assert expected.std(dim=0).min() > 5e-3, "the images must matter"
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(not SAMPLES.exists(), reason=f"{SAMPLES} is absent")
def test_logits_of_a_file_alone(tmp_path: Path, world: World):
    model, images = create("test_vit"), photographs((32, 32))
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    source = find_teacher(str(tmp_path / "w.safetensors"), architecture=BackboneConfig("test_vit"))
    found = Teacher(source, world).logits(STUDENT.normalize(images), STUDENT)
    torch.testing.assert_close(found, by_timm(model, images), atol=1e-5, rtol=1e-5)


BY_NAME = """
import sys, torch
from pretrain.pixels import IMAGENET
from pretrain.teacher import Teacher
from pretrain.teacher_source import find_teacher
from pretrain.world import World
teacher = Teacher(find_teacher("test_resnet", architecture=None), World("fp32"))
own = teacher.source.normalization
logits = teacher.logits(torch.linspace(-1, 1, 3 * 160 * 160).view(1, 3, 160, 160), own)
torch.save({"logits": logits, "name": teacher.source.name}, sys.argv[1])
"""


def load_stand_in() -> ModuleType:
    path = ROOT / "tests/end_to_end/hub_stand_in.py"
    spec = importlib.util.spec_from_file_location("teacher_hub_stand_in", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def test_a_name_of_timms_is_fetched_from_the_hub(tmp_path: Path):
    stand_in, model = load_stand_in(), timm.create_model("test_resnet", num_classes=CLASSES).eval()
    save_for_hf(model, str(tmp_path / "stock"), safe_serialization=True)
    files = {path.name: path.read_bytes() for path in (tmp_path / "stock").iterdir()}
    hub = stand_in.HubStandIn({("model", "timm/test_resnet.r160_in1k"): stand_in.Repository(files)})
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", BY_NAME, str(tmp_path / "found.pt")]
    with stand_in.serve(hub):
        subprocess.run(command, env=environment | hub.environment, cwd=ROOT, timeout=200, check=True)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    assert found["name"] == "hf://timm/test_resnet.r160_in1k"
    with torch.no_grad():
        expected = model(torch.linspace(-1, 1, 3 * 160 * 160).view(1, 3, 160, 160))
    torch.testing.assert_close(found["logits"], expected, atol=1e-5, rtol=0)
