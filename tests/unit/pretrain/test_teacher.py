"""A teacher sees a student's own pixels as it is used to see pixels, judges each by itself, and learns nothing."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from pretrain import teacher as module
from pretrain.architectures import complete, create_backbone, keywords
from pretrain.backbone_config import BackboneConfig
from pretrain.model_folder import Prepared, save_folder
from pretrain.out_of_memory import OutOfMemoryError
from pretrain.pixels import IMAGENET, Normalization
from pretrain.teacher import Teacher, as_shown
from pretrain.teacher_source import find_teacher
from pretrain.world import World

SIZE, CLASSES = (32, 32), 5
OWN = Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
NAMES = ("test_resnet", "deit_tiny_distilled_patch16_224")


@pytest.fixture(scope="module")
def world() -> World:
    return World("fp32")


def random_model(name: str) -> tuple[BackboneConfig, nn.Module]:
    sizes: dict[str, Any] = {"width": 48, "depth": 2, "heads": 3} if "deit" in name else {}
    config = complete(BackboneConfig(name, SIZE, **sizes))
    model = create_backbone(config, classes=CLASSES, pool="own", drop_path=0.0, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
        for buffer_name, buffer in model.named_buffers():
            if "running" in buffer_name:
                buffer.uniform_(0.5, 1.5, generator=generator)
    return config, model


@pytest.fixture(scope="module", params=NAMES)
def teacher(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, world: World) -> Teacher:
    return saved(request.param, tmp_path_factory.mktemp("teacher"), world)


def saved(name: str, folder: Path, world: World) -> Teacher:
    config, model = random_model(name)
    prepared = Prepared((3, *SIZE), OWN, 0.9)
    save_folder(folder / "model", model, keywords(config, "own"), prepared, class_names=None, guard=None)
    return Teacher(find_teacher(str(folder / "model"), architecture=None), world)


def pixels(rows: int = 6, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.randint(0, 256, (rows, *size, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)


def test_pixels_are_those_of_the_student_in_the_teachers_own_terms(teacher: Teacher):
    expected = OWN.normalize(pixels())
    torch.testing.assert_close(as_shown(IMAGENET.normalize(pixels()), IMAGENET, teacher.source), expected)
    assert as_shown(expected, OWN, teacher.source) is expected
    # What is darker than black, as erased pixels may be, stays so.
    beyond = torch.full((1, 3, *SIZE), -9.0)
    shown = as_shown(beyond, IMAGENET, teacher.source)
    torch.testing.assert_close(shown[0, 0, 0, 0].item(), (-9 * 0.229 + 0.485 - 0.1) / 0.4)


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (48, 32)])
def test_pixels_of_another_size_are_resized(teacher: Teacher, size: tuple[int, int]):
    shown = as_shown(IMAGENET.normalize(pixels(2, size)), IMAGENET, teacher.source)
    assert shown.shape == (2, 3, *SIZE)
    # Resizing neither shifts an even colour nor a gradient's mean.
    gradient = torch.linspace(-1, 1, size[0])[:, None].expand(1, 3, *size)
    resized = as_shown(gradient, OWN, teacher.source)
    torch.testing.assert_close(resized.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    assert resized[0, 0, 0].mean() < -0.9


def test_logits_are_those_of_timms_model(teacher: Teacher):
    model = timm.create_model(f"local-dir:{teacher.source.path}", pretrained=True).eval()
    with torch.no_grad():
        expected = model(OWN.normalize(pixels()))
    logits = teacher.logits(IMAGENET.normalize(pixels()), IMAGENET)
    assert expected.std(dim=0).min() > 1e-3, "the images must matter"
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert (logits.dtype, logits.requires_grad) == (torch.float32, False)


def test_two_heads_are_averaged(tmp_path: Path, world: World):
    teacher = saved("deit_tiny_distilled_patch16_224", tmp_path, world)
    model: Any = timm.create_model(f"local-dir:{teacher.source.path}", pretrained=True)
    model.set_distilled_training(True)
    images = OWN.normalize(pixels())
    with torch.no_grad():
        one, other = model.train()(images)
    torch.testing.assert_close(teacher.logits(images, OWN), (one + other) / 2)
    assert (one - other).abs().mean() > 1e-2


def test_a_row_is_judged_alone_and_asking_changes_nothing(teacher: Teacher):
    images = IMAGENET.normalize(pixels())
    logits = teacher.logits(images, IMAGENET)
    order = torch.tensor([3, 1, 5])
    torch.testing.assert_close(teacher.logits(images[order], IMAGENET), logits[order], atol=1e-5, rtol=1e-5)
    with torch.enable_grad():
        again = teacher.logits(images.clone().requires_grad_(), IMAGENET)
    assert torch.equal(again, logits)
    assert not again.requires_grad


def test_random_numbers_are_left_alone(tmp_path: Path, world: World):
    before = torch.random.get_rng_state()
    teacher = saved("test_resnet", tmp_path, world)
    teacher.logits(IMAGENET.normalize(pixels()), IMAGENET)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_student_that_holds_its_teacher_has_nothing_of_it(teacher: Teacher):
    student: Any = nn.Linear(3, 2)
    student.teacher = teacher
    student.train()
    assert [*student.state_dict()] == [name for name, _ in student.named_parameters()] == ["weight", "bias"]
    assert not teacher._model.training


def test_its_time_is_counted(teacher: Teacher):
    before = teacher.clock.seconds()
    assert teacher.clock.seconds() == before
    teacher.logits(IMAGENET.normalize(pixels()), IMAGENET)
    assert teacher.clock.seconds() > before


def test_in_lower_precision_it_computes_as_the_student_does(teacher: Teacher):
    images = IMAGENET.normalize(pixels())
    expected = teacher.logits(images, IMAGENET)
    lower = Teacher(teacher.source, World("bf16"))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain = lower._model(OWN.normalize(pixels())).float()
    found = lower.logits(images, IMAGENET)
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, plain, atol=0.02 * expected.abs().max().item(), rtol=0)


def test_which_model_it_is_and_how_it_sees_is_said(tmp_path: Path, world: World):
    teacher = saved("test_resnet", tmp_path, world)
    millions = sum(parameter.numel() for parameter in random_model("test_resnet")[1].parameters()) / 1e6
    colours = "mean 0.1 0.2 0.3, std 0.4 0.5 0.6"
    assert teacher.sentence(SIZE) == (
        f"teacher: {tmp_path / 'model'}, a test_resnet of {millions:.1f} M parameters and 5 classes, which sees the "
        f"student's 32 x 32 pixels with {colours}"
    )
    assert f"student's 24 x 32 pixels resized to 32 x 32 (bicubic) with {colours}" in teacher.sentence((24, 32))
    assert teacher.sha256 == teacher.source.sha256


def test_too_little_memory_for_it_is_said(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch):
    teacher = saved("test_resnet", tmp_path, world)

    def full(*_: object) -> Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(module, "as_shown", full)
    with pytest.raises(OutOfMemoryError, match=r"where the teacher, .*model, judges 6 images at once .*--batch-size"):
        teacher.logits(IMAGENET.normalize(pixels()), IMAGENET)
