"""A fine-tuning run: from a resolved start to a model folder and its exact accuracy."""

from typing import Any

import torch
from torch import Tensor, nn

from data_pipeline.augment import CenterCrop, RandomResizedCrop
from data_pipeline.manifest import read_manifest
from data_pipeline.order import Plan, lanes_for
from data_pipeline.rand_augment import RandAugment
from data_pipeline.rows import Part
from data_pipeline.stream import Batch, Stream
from data_pipeline.subset import labelled_samples
from finetune.accuracy import evaluate_split
from finetune.classifier import build_classifier, resolve
from finetune.classify_config import MAY_CHANGE_ON_RESUME, ClassifyConfig
from launch.console import Console
from launch.strict_json import read_json
from pretrain.drop_path import DropPaths
from pretrain.erasing import erase
from pretrain.flops import encoder_flops, training_flops
from pretrain.loop import fit
from pretrain.matrix_rate import matrix_rate
from pretrain.meter import Work
from pretrain.mixing import check_pairs, mix_batch
from pretrain.model_folder import save_model
from pretrain.optimizer import create_optimizer, schedule
from pretrain.pixels import Normalization, check_channels, choose_normalization
from pretrain.saver import Keeping
from pretrain.session import bit_equality_depends_on, find_start, loader_workers, session
from pretrain.training import Objective, Options, Pace, Training
from pretrain.world import World


def classify(recipe: str, config: ClassifyConfig, world: World, console: Console | None = None) -> dict[str, Any]:
    """Train, evaluate and export as the config says; on rank 0 what evaluation.json then holds, and {}
    where the run was stopped.

    Raises:
        ValueError: labels are missing, the encoder does not fit, or anything else that a user can mend.
    """
    config, source = resolve(config)
    with session(recipe, config, config.out, MAY_CHANGE_ON_RESUME, world=world, console=console) as own:
        say, run = own.console.say, own.run
        manifest = read_manifest(config.data)
        members, subset = labelled_samples(manifest, config.split, config.labels, config.seed)
        classes = manifest.classes
        assert classes is not None
        init = "--init" if source else None
        (part,) = check_channels(config.encoder, [Part(manifest, config.split)], config.held_out, init=init)
        held_out = Part(manifest, config.held_out)
        manifest.split(config.held_out)  # refused now, not after the training
        if config.mixing.is_on:
            check_pairs(config.batch_size, world.size)
        normalization = source.normalization if source else choose_normalization(config.normalization, manifest)
        model = build_classifier(config, source, len(classes), say).to(world.device)
        paths = DropPaths(model)
        workers = loader_workers(config.workers, world)
        stream = Stream(
            [part],
            _training_view(config, normalization),
            batch_size=config.batch_size,
            seed=config.seed,
            plan=Plan(lanes=lanes_for(config.max_world), subset=subset),
            members=[members],
            rank=world.rank,
            world=world.size,
            workers=workers,
            epochs=config.epochs,
            pin_memory=world.device.type == "cuda",
            cache=config.cache,
            device=world.device,
        )
        optimizer = create_optimizer(
            model, config.optimizer, exempt=model.no_weight_decay(), layer_decay=config.layer_decay
        )
        training = Training(world, model, optimizer, stream, run, own.console, bit_equality_depends_on(world))
        pace = Pace(
            accumulate=config.accumulate,
            log_every=config.log_every,
            checkpoint_steps=config.checkpoint_steps,
            evaluate_steps=stream.steps(config.evaluate_epochs),
            keeping=Keeping(config.keep_checkpoints, every=0),
        )
        say(
            f"{stream.epoch_positions:,} images of {manifest.folder} [{config.split}] in {len(classes)} classes, "
            f"{config.epochs:g} epochs in {stream.steps(config.epochs):,} steps of {config.batch_size}; "
            f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f} M parameters; "
            f"{world.size} x {world.device.type}, {workers} loader workers each, {config.precision}, seed {config.seed}"
        )
        stream.explain(say)
        stream.open(say)
        start = find_start(training, config.resume, "starting with these weights")

        work = Work(training_flops(encoder_flops(model)), matrix_rate(world.device, world.precision))

        def inputs_of(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
            images = normalization.normalize(batch.images.to(world.device, non_blocking=True))
            images = erase(images, batch.positions, probability=config.augmentation.erasing, seed=config.seed)
            images, targets = mix_batch(
                images,
                batch.labels.to(world.device, non_blocking=True),
                batch.positions,
                config.mixing,
                classes=len(classes),
                batch_size=config.batch_size,
                seed=config.seed,
            )
            return images, targets, paths.draw(batch.positions, config.seed, world.device)

        def loss_of(
            shared: nn.Module, images: Tensor, targets: Tensor, noise: Tensor
        ) -> tuple[Tensor, dict[str, Tensor]]:
            paths.noise.values = noise
            return nn.functional.cross_entropy(shared(images).float(), targets, reduction="none"), {}

        def logits_of(images: Tensor) -> Tensor:
            with world.autocast():
                return model(normalization.normalize(images))

        def evaluate(step: int, _: float) -> dict[str, float]:
            view = CenterCrop(config.encoder.image_size, config.evaluation_crop)
            with torch.no_grad():
                accuracy = evaluate_split(logits_of, held_out, view, world, workers=workers)
            if world.rank == 0:
                run.write_json(run.evaluation, {"step": step, "split": config.held_out, **accuracy.to_json(classes)})
            say(f"step {step:,}  top1 {accuracy.top1:.2%} of {accuracy.images:,} images of {config.held_out}")
            return accuracy.summary()

        ending = fit(
            training,
            Objective(inputs_of, loss_of),
            pace,
            Options(config.optimizer.clip_norm, work=work),
            learning_rate=schedule(config.optimizer, config.batch_size, config.epochs),
            evaluate=evaluate,
            start=start,
        )
        stream.close()
        if ending.status == "done" and world.rank == 0:
            save_model(
                run.model,
                model,
                config.encoder,
                normalization,
                class_names=classes,
                crop_fraction=config.evaluation_crop,
                guard=run.guard,
            )
            say(f"done: the model is in {run.model}, its accuracy in {run.evaluation}")
        own.close(ending.status, ending.step)
        return read_json(run.evaluation) if ending.status == "done" and world.rank == 0 else {}


def _training_view(config: ClassifyConfig, normalization: Normalization) -> RandomResizedCrop:
    augmentation = config.augmentation
    policy = None
    if augmentation.rand_augment is not None:
        red, green, blue = (min(255, round(255 * value)) for value in normalization.mean)
        policy = RandAugment(augmentation.rand_augment, (red, green, blue))
    return RandomResizedCrop(
        config.encoder.image_size, augmentation.crop_scale, mirror=augmentation.mirror, policy=policy
    )
