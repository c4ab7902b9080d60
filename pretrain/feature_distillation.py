"""A run that learns a frozen model's features: from a resolved config to an encoder folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from data_pipeline.augment import CropView
from data_pipeline.randomness import Purpose, key
from data_pipeline.stream import Batch
from launch.run_folder import RunFolder
from pretrain.architectures import is_plain
from pretrain.backbone_config import BackboneConfig
from pretrain.backbones import load_plain
from pretrain.cache_identity import FeatureIdentity, TeacherFacts
from pretrain.drop_path import DropPaths, check_deterministic_forward
from pretrain.encoder import create_classifier
from pretrain.encoder_run import EncoderRun, Method, Show
from pretrain.erasing import erase
from pretrain.feature_distill_config import MAY_CHANGE_ON_RESUME, FeatureDistillConfig
from pretrain.feature_student import FeatureStudent, student_flops
from pretrain.feature_teacher import FeatureTeacher, TeacherFeatures
from pretrain.first_rank import on_first
from pretrain.fixed_views import FixedViews
from pretrain.flops import training_flops
from pretrain.model_source import ModelSource, find_source
from pretrain.optimizer import exempt_parameters
from pretrain.pixels import Normalization
from pretrain.session import Session, goes_on, session
from pretrain.teacher_cache import open_or_fill
from pretrain.teacher_record import check_teacher, record_teacher
from pretrain.teacher_source import find_teacher, named_architecture
from pretrain.training import Objective
from pretrain.training_view import training_view
from pretrain.world import World


def distill_features(recipe: str, config: FeatureDistillConfig, world: World) -> None:
    """Train, evaluate and export as the config says.

    Raises:
        ValueError: data, teacher, weights or options that do not fit each other, or anything else that a user can mend.
    """
    config = replace(config, shard_parameters=config.shard_parameters or world.is_asked_to_shard)
    architecture = named_architecture(config.teacher_architecture, config.encoder.channels)
    source = find_teacher(config.teacher, architecture=architecture)  # before there is a run folder
    on_first(world, lambda: check_teacher(config.teacher, RunFolder(Path(config.out)), lambda: source))
    with session(recipe, config, config.out, MAY_CHANGE_ON_RESUME, world=world) as own:
        run = EncoderRun(own, config)
        normalization = run.normalization
        view = training_view(config.augmentation, config.encoder.image_size, normalization)
        taught = _open_teacher(run, source, config, view)
        model = _build(config, taught.widths)
        origin = _begin(config, model, own)
        paths = DropPaths(model)
        check_deterministic_forward(model)
        run.place(model)

        def evaluate(whole: FeatureStudent, epoch: float, _: Show) -> dict[str, float]:
            def features(images: Tensor) -> Tensor:
                found = whole.features(normalization.normalize(images))
                return found.mean if config.measured == "mean" else found.class_token

            return run.monitor.measure(features, epoch)

        method = Method(
            FeatureLessons(config, taught.features, normalization, paths, world).objective,
            view=view,
            flops=training_flops(student_flops(model)),
            build=partial(_build, config, taught.widths),
            evaluate=evaluate,
            views=config.views,
            fixed_views=config.cache_teacher.views or None,
            exempt=not_decayed(model),
            average=config.average,
            shares=taught.shares,
        )
        run.train(model, method, origin=origin)


@dataclass(frozen=True)
class FeatureLessons:
    """What a step computes: the teacher's features of the images that the student sees, and the distances from them.

    taught: the teacher's features, on the device, of a batch and its pixels (b, channels, h, w) as the student sees
    them.
    """

    config: FeatureDistillConfig
    taught: Callable[[Batch, Tensor], TeacherFeatures]
    normalization: Normalization
    paths: DropPaths
    world: World

    @property
    def objective(self) -> Objective:
        """For `fit`."""
        return Objective(self.inputs, self.loss)

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images (b, channels, h, w), the teacher's features of them (b, c) and of their places (b, n, e), and the
        noise of the drop paths (b, paths), on the device.
        """
        config, device = self.config, self.world.device
        images = pixels(batch, config, self.normalization, device)
        image, places = self.taught(batch, images)
        return images, image, places, self.paths.draw(batch.positions, config.seed, device)

    def loss(
        self, shared: nn.Module, images: Tensor, image: Tensor, places: Tensor, noise: Tensor
    ) -> tuple[Float[Tensor, " b"], dict[str, Tensor]]:
        """The weighted sum of both distances of each image; and each by itself, the mean over images, to be logged."""
        self.paths.noise.values = noise
        of_class, of_patches = shared(images, image, places)
        losses = self.config.class_weight * of_class + self.config.patch_weight * of_patches
        return losses, {"class_distance": of_class.mean(), "patch_distance": of_patches.mean()}


def pixels(
    batch: Batch, config: FeatureDistillConfig, normalization: Normalization, device: torch.device
) -> Float[Tensor, "b ch h w"]:
    """The images as the student sees them. With a teacher's cache boxes are erased by what a row shows, sample and
    view, and not by its run position.
    """
    images = normalization.normalize(batch.images.to(device, non_blocking=True))
    keys = batch.view_keys() if config.cache_teacher.is_on else batch.positions
    return erase(images, keys, probability=config.augmentation.erasing, seed=config.seed)


def not_decayed(model: FeatureStudent) -> frozenset[str]:
    """Names of the tensors that do not decay, beside biases and norms: positions and class token, as in timm."""
    return frozenset(f"encoder.{name}" for name in exempt_parameters(model.encoder))


class _Taught(NamedTuple):
    """See `FeatureLessons` and `FeatureStudent`; shares of the time, as `Options` has them."""

    features: Callable[[Batch, Tensor], TeacherFeatures]
    widths: tuple[int, int]
    shares: Mapping[str, Callable[[], float]]


def _open_teacher(run: EncoderRun, source: ModelSource, config: FeatureDistillConfig, view: CropView) -> _Taught:
    """The teacher, or its cache: then nothing of the teacher stays on the device."""
    own, seen, grid, kept = run.own, run.normalization, config.encoder.grid, config.cache_teacher
    world, device = own.world, own.world.device
    teacher = FeatureTeacher(source, world, seen=seen, grid=grid, image_size=config.teacher_image_size)
    own.console.say(teacher.sentence())
    on_first(world, lambda: record_teacher(source, source.sha256, own.run))
    if not kept.is_on:
        shares = {"teacher": teacher.clock.seconds}
        return _Taught(lambda _, images: teacher.features(images), teacher.widths, shares)
    model, size, normalization = repr(source.backbone), teacher.source.backbone.size, source.normalization
    facts = TeacherFacts(source.name, source.sha256, size, normalization, None, model)
    views = FixedViews(run.parts[0], None, view, config.seed, kept.views)
    erasing = config.augmentation.erasing
    cache = open_or_fill(
        kept,
        FeatureIdentity(facts, config.precision, views.facts, seen, erasing, grid, teacher.widths),
        views,
        prepare=lambda batch: pixels(batch, config, seen, device),
        judge=teacher.features,
        world=world,
        console=own.console,
        workers=run.workers,
    )

    def looked_up(batch: Batch, _: Tensor) -> TeacherFeatures:
        image, places = cache.lookup(batch)
        return TeacherFeatures(*(found.to(device, non_blocking=True).float() for found in (image, places)))

    return _Taught(looked_up, teacher.widths, {})


def _build(config: FeatureDistillConfig, widths: tuple[int, int]) -> FeatureStudent:
    encoder = create_classifier(config.encoder, classes=0, pool="token", drop_path=config.drop_path)
    return FeatureStudent(encoder, widths)


def _begin(config: FeatureDistillConfig, model: FeatureStudent, own: Session) -> str:
    """Fill the model with the weights of a new run; what to say of it."""
    model.initialize(torch.Generator().manual_seed(key(config.seed, Purpose.INITIALISATION) >> 1))
    where, option = config.init_from, "--init-from"
    if where is None or goes_on(own.run, config.resume):
        return "starting from scratch"
    source = find_source(where, option, like=BackboneConfig(**vars(config.encoder)))
    if not is_plain(source.backbone):
        raise ValueError(
            f"{option} {source.name}: expected a plain vision transformer such as vit_base_patch16_224, found a "
            f"{source.backbone.name}; leave {option} out, or give it as --teacher"
        )
    loaded = load_plain(model.encoder, source, config.encoder, "facebook", keeps_head=False)
    for sentence in loaded.resized:
        own.console.say(sentence)
    return f"starting with the encoder of {source.path} and new projections"
