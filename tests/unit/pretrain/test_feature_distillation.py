"""What a step computes: the teacher is asked about the very images that the student sees, and both distances count."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data_pipeline.stream import Batch
from launch.console import Console
from launch.run_folder import RunFolder
from pretrain import feature_distillation as module
from pretrain.augment_config import AugmentationConfig
from pretrain.cached_features import FeatureFormat
from pretrain.config import EncoderConfig
from pretrain.drop_path import DropPaths
from pretrain.encoder import create_encoder, initialize_encoder
from pretrain.erasing import erase
from pretrain.feature_distill_config import FeatureDistillConfig
from pretrain.feature_distillation import FeatureLessons, pixels
from pretrain.feature_student import FeatureStudent
from pretrain.feature_teacher import FeatureTeacher, TeacherFeatures
from pretrain.model_folder import save_model
from pretrain.pixels import IMAGENET
from pretrain.session import Session
from pretrain.teacher_cache_config import TeacherCacheConfig
from pretrain.teacher_source import find_teacher
from pretrain.world import World

ENCODER = EncoderConfig("vit_tiny_patch16_224", (16, 16), (8, 8), width=24, depth=2, heads=2)
CONFIG = FeatureDistillConfig(
    ENCODER,
    epochs=100.0,
    batch_size=4,
    data="d",
    out="o",
    class_weight=0.5,
    patch_weight=2.0,
    drop_path=0.5,
    augmentation=AugmentationConfig(rand_augment=None, erasing=1.0),
)


def folder(path: Path, config: EncoderConfig = ENCODER, seed: int = 0) -> str:
    encoder = create_encoder(config)
    initialize_encoder(encoder, torch.Generator().manual_seed(seed))
    save_model(path, encoder, config, IMAGENET)
    return str(path)


def begun(config: FeatureDistillConfig) -> FeatureStudent:
    model = module._build(config, (24, 24))
    world = World("fp32")
    session = Session(world, Console(rank=1), RunFolder(Path(config.out)), {})
    module._begin(config, model, session)
    return model


@pytest.fixture
def lessons(tmp_path: Path) -> tuple[FeatureLessons, FeatureStudent]:
    world = World("fp32")
    source = find_teacher(folder(tmp_path / "teacher"), architecture=None)
    teacher = FeatureTeacher(source, world, seen=IMAGENET, grid=ENCODER.grid)
    model = begun(replace(CONFIG, out=str(tmp_path / "run")))
    taught = FeatureLessons(CONFIG, lambda _, seen: teacher.features(seen), IMAGENET, DropPaths(model.train()), world)
    return taught, model


def batch() -> Batch:
    images = torch.randint(0, 256, (4, 16, 16, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    unused: Any = np.zeros(4, np.int64)
    return Batch((images[:, None],), torch.full((4,), -1), np.arange(8, 12), unused, unused, unused, ())


def test_the_teacher_sees_what_the_student_sees_erased_boxes_among_it(lessons: tuple[FeatureLessons, FeatureStudent]):
    images, image, places, noise = lessons[0].inputs(batch())
    whole = IMAGENET.normalize(batch().images)
    assert torch.equal(images, erase(whole, np.arange(8, 12), probability=1.0, seed=0))
    assert not torch.equal(images, whole)
    expected = lessons[0].taught(batch(), images)
    assert torch.equal(image, expected.image)
    assert torch.equal(places, expected.places)
    assert noise.shape == (4, 2)


def test_the_loss_is_the_weighted_sum_and_each_part_is_logged(lessons: tuple[FeatureLessons, FeatureStudent]):
    given = lessons[0].inputs(batch())
    losses, logged = lessons[0].loss(lessons[1], *given)
    of_class, of_patches = lessons[1](*given[:3])  # under the same noise
    torch.testing.assert_close(losses, 0.5 * of_class + 2 * of_patches)
    torch.testing.assert_close(logged, {"class_distance": of_class.mean(), "patch_distance": of_patches.mean()})
    others, _ = lessons[0].loss(lessons[1], *given[:3], 1 - given[3])
    assert not torch.equal(losses, others), "the noise drops other paths"


def test_the_loss_is_the_same_where_features_are_kept_but_for_the_rounding(
    lessons: tuple[FeatureLessons, FeatureStudent],
):
    """Rounding to half precision changes each cosine by 2^-11 at most."""
    live, student = lessons
    kept = FeatureFormat((24, 24), 4)

    def looked_up(batch: Batch, images: Tensor) -> TeacherFeatures:
        found = kept.unpack(kept.pack(live.taught(batch, images)))
        return TeacherFeatures(found.image.float(), found.places.float())

    asked, _ = live.loss(student, *live.inputs(batch()))
    found, _ = live.loss(student, *replace(live, taught=looked_up).inputs(batch()))
    assert not torch.equal(found, asked)
    assert ((found - asked).abs() <= (0.5 + 2.0) * 2.0**-11 + 1e-6).all()


def test_with_a_cache_boxes_are_erased_by_what_a_row_shows():
    again = batch()
    again = replace(again, positions=again.positions + 100)
    cached = replace(CONFIG, cache_teacher=TeacherCacheConfig(2))
    device = torch.device("cpu")
    assert torch.equal(pixels(batch(), cached, IMAGENET, device), pixels(again, cached, IMAGENET, device))
    assert not torch.equal(pixels(batch(), CONFIG, IMAGENET, device), pixels(again, CONFIG, IMAGENET, device))
    other = replace(again, epochs=again.epochs + 1)
    assert not torch.equal(pixels(other, cached, IMAGENET, device), pixels(again, cached, IMAGENET, device))


def test_a_student_of_the_teachers_weights_has_its_features_to_learn_already(tmp_path: Path):
    where = folder(tmp_path / "start", seed=5)
    model = begun(replace(CONFIG, init_from=where, out=str(tmp_path / "run")))
    expected = create_encoder(ENCODER)
    initialize_encoder(expected, torch.Generator().manual_seed(5))
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], tensor), name
    assert model.class_projection.weight.isfinite().all()


def test_an_encoder_to_start_with_may_have_other_sizes(tmp_path: Path):
    where = folder(tmp_path / "start", replace(ENCODER, image_size=(32, 32), patch_size=(4, 4)))
    model = begun(replace(CONFIG, init_from=where, out=str(tmp_path / "run")))
    positions: Tensor = model.encoder.state_dict()["pos_embed"]
    assert positions.shape == (1, 5, 24)


def test_an_encoder_of_another_kind_to_start_with_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = find_teacher(folder(tmp_path / "start"), architecture=None)
    other = replace(source, backbone=replace(source.backbone, name="vit_small_patch16_dinov3"))
    monkeypatch.setattr(module, "find_source", lambda *_, **__: other)
    message = r"--init-from \S+: expected a plain vision transformer .*, found a vit_small_patch16_dinov3; leave"
    with pytest.raises(ValueError, match=message):
        begun(replace(CONFIG, init_from="x", out=str(tmp_path / "run")))


def test_what_does_not_decay_are_tokens_positions_and_vectors(lessons: tuple[FeatureLessons, FeatureStudent]):
    assert module.not_decayed(lessons[1]) == {"encoder.pos_embed", "encoder.cls_token"}
