"""Both heads of a student in training, their mean in evaluation and from a folder, whatever it is wrapped in."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from pretrain.architectures import create_backbone, keywords
from pretrain.backbone_config import BackboneConfig
from pretrain.backbones import restore
from pretrain.distillation_config import DistillationConfig
from pretrain.model_folder import Prepared, save_folder
from pretrain.model_source import find_source
from pretrain.pixels import IMAGENET
from pretrain.students import has_distillation_head, prepare_student, two_logits

HARD, NONE = DistillationConfig(), DistillationConfig("none")
CONFIG = BackboneConfig("deit_tiny_distilled_patch16_224", (8, 8), (4, 4), width=24, depth=2, heads=3)
IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def build(name: str = CONFIG.name) -> nn.Module:
    config = BackboneConfig(name, CONFIG.image_size, CONFIG.patch_size, width=24, depth=2, heads=3)
    model = create_backbone(config, classes=5, pool="token", drop_path=0.0, seed=3)
    model.get_parameter("head.bias").data.copy_(torch.arange(5.0))
    return model.train()


def create(name: str, **arguments: Any) -> nn.Module:
    """Without memory or numbers: what the forward gives is enough."""
    with torch.device("meta"):
        return timm.create_model(name, num_classes=5, **arguments).train()


def test_a_student_with_a_token_gives_both_heads_in_training_and_their_mean_in_evaluation():
    model = build()
    alone = model(IMAGES)
    prepare_student(model, HARD)
    labels, teachers = two_logits(model, IMAGES)
    assert not torch.allclose(labels, teachers, atol=0.5)
    torch.testing.assert_close(alone, (labels + teachers) / 2)
    model.eval()
    first, second = two_logits(model, IMAGES)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, alone)
    model.train()
    assert torch.equal(two_logits(model, IMAGES)[1], teachers)


def test_a_student_without_one_gives_the_same_twice():
    model = build("vit_tiny_patch16_224")
    assert not has_distillation_head(model)
    for config in (HARD, NONE):
        prepare_student(model, config)
        labels, teachers = two_logits(model, IMAGES)
        assert torch.equal(labels, teachers)
        assert torch.equal(labels, model(IMAGES))


def test_logits_of_low_precision_come_as_float32():
    model = build()
    prepare_student(model, HARD)
    with torch.autocast("cpu", torch.bfloat16):
        assert {logits.dtype for logits in two_logits(model, IMAGES)} == {torch.float32}


def test_each_head_learns_from_its_own_logits():
    model = build()
    prepare_student(model, HARD)
    two_logits(model, IMAGES)[0].sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert {"head.weight", "cls_token", "dist_token"} <= trained  # the tokens meet in the blocks
    assert not trained & {"head_dist.weight", "head_dist.bias"}


def test_gradients_are_shared_of_both_heads(tmp_path: Path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        model, other = build(), build()
        for one in (model, other):
            prepare_student(one, HARD)
        for shared in (DistributedDataParallel(model), other):
            labels, teachers = two_logits(shared, IMAGES)
            (labels.square().sum() + 3 * teachers.square().sum()).backward()
        for (name, ours), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=0, msg=name)
    finally:
        distributed.destroy_process_group()


def test_a_folder_holds_both_heads_and_gives_their_mean(tmp_path: Path):
    model = build()
    prepare_student(model, HARD)
    prepared = Prepared((3, 8, 8), IMAGENET, 1.0)
    save_folder(tmp_path / "m", model, keywords(CONFIG, "token"), prepared, class_names=None, guard=None)
    found = restore(find_source(str(tmp_path / "m"), "--init"))
    with torch.no_grad():
        expected = model.eval()(IMAGES)
        assert torch.equal(found(IMAGES), expected)
        assert torch.equal(timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True).eval()(IMAGES), expected)
        assert not isinstance(found.train()(IMAGES), tuple)  # what it was asked for was no weight
    prepare_student(found, HARD)
    assert isinstance(found(IMAGES), tuple)


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("deit_tiny_distilled_patch16_224", "choose a model such as deit_tiny_patch16_224 without that head"),
        ("levit_128s", "choose a model without that head"),
    ],
)
def test_a_second_head_without_a_teacher_is_refused(name: str, fix: str):
    with pytest.raises(ValueError, match=rf"--encoder\.name {name}: .* got --distillation\.kind none; .*{fix}"):
        prepare_student(create(name), NONE)


@pytest.mark.parametrize("name", ["pit_ti_distilled_224", "levit_128s", "efficientformerv2_s0", "repvit_m0_9"])
def test_other_models_with_a_second_head(name: str):
    model = create(name)
    assert has_distillation_head(model)
    prepare_student(model, HARD)
    labels, teachers = two_logits(model, torch.zeros(2, 3, 224, 224, device="meta"))
    assert labels is not teachers
    assert labels.shape == teachers.shape == (2, 5)


@pytest.mark.parametrize(("name", "arguments"), [("pit_ti_224", {}), ("repvit_m0_9", {"distillation": False})])
def test_models_that_can_be_asked_for_two_and_have_one(name: str, arguments: dict[str, Any]):
    model = create(name, **arguments)
    assert hasattr(model, "set_distilled_training")
    assert not has_distillation_head(model)
    prepare_student(model, NONE)
    prepare_student(model, HARD)
    labels, teachers = two_logits(model, torch.zeros(2, 3, 224, 224, device="meta"))
    assert labels is teachers
