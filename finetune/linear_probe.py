"""A linear layer on frozen features, trained by LARS on random crops, as He et al. 2022 (arXiv:2111.06377) probe."""

from typing import Any

import torch
from torch import Tensor, nn

from data_pipeline.augment import RandomResizedCrop, View
from data_pipeline.manifest import NO_LABEL, Manifest
from data_pipeline.order import Plan, lanes_for
from data_pipeline.randomness import Purpose, key
from data_pipeline.rows import Part
from data_pipeline.stream import Batch, Stream
from data_pipeline.subset import labelled_samples
from finetune.frozen_features import FrozenEncoder
from finetune.linear_layer import LinearLayer, create_lars
from finetune.probe_config import LarsProbeConfig
from launch.strict_json import read_json
from pretrain.accuracy import evaluate_split
from pretrain.loop import fit
from pretrain.optimizer import schedule
from pretrain.saver import Keeping
from pretrain.session import Session, bit_equality_depends_on, find_start
from pretrain.training import Objective, Options, Pace, Training


def train_linear_probe(
    config: LarsProbeConfig, own: Session, manifest: Manifest, encoder: FrozenEncoder, *, view: View, workers: int
) -> dict[str, Any] | None:
    """Train, or go on, to the end: on rank 0 what probe.json says of it, elsewhere {}; None where it was stopped.

    `view` is how the held-out images are shown.

    Raises:
        ValueError: no labels, a batch that the processes cannot share, or a checkpoint that does not fit.
    """
    world, console, run = own.world, own.console, own.run
    members, subset = labelled_samples(manifest, config.split, None, config.seed)
    classes = manifest.classes
    assert classes is not None
    generator = torch.Generator().manual_seed(key(config.seed, Purpose.HEAD) >> 1)
    model = LinearLayer(encoder.width, len(classes), std=config.head_std, generator=generator).to(world.device)
    stream = Stream(
        [Part(manifest, config.split)],
        RandomResizedCrop(encoder.size, config.crop_scale, mirror=config.mirror),
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
    promise = {**bit_equality_depends_on(world), "encoder": encoder.source.sha256}
    training = Training(world, model, create_lars(model, config.optimizer), stream, run, console, promise)
    pace = Pace(
        accumulate=1,
        log_every=config.log_every,
        checkpoint_steps=config.checkpoint_steps,
        evaluate_steps=stream.steps(config.evaluate_epochs),
        keeping=Keeping(config.keep_checkpoints, every=0),
    )
    console.say(
        f"{stream.epoch_positions:,} images of {manifest.folder} [{config.split}] in {len(classes)} classes, "
        f"{config.epochs:g} epochs in {stream.steps(config.epochs):,} steps of {config.batch_size}; "
        f"{world.size} x {world.device.type}, {workers} loader workers each, {config.precision}, seed {config.seed}"
    )
    stream.explain(console.say)
    stream.open(console.say)
    start = find_start(training, None, "starting with a new layer")

    def inputs_of(batch: Batch) -> tuple[Tensor, Tensor]:
        images = batch.images.to(world.device, non_blocking=True)
        labels = batch.labels.to(world.device, non_blocking=True)
        return encoder(images), labels

    def loss_of(shared: nn.Module, features: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logits = shared(model.standardize(features, world.gather)).float()
        # What stands in for an image that does not decode may lack a label.
        return nn.functional.cross_entropy(logits, labels, ignore_index=NO_LABEL, reduction="none"), {}

    def evaluate(step: int, _: float) -> dict[str, float]:
        accuracy = evaluate_split(
            lambda images: model.predict(encoder(images)),
            Part(manifest, config.held_out),
            view,
            world,
            workers=workers,
        )
        if world.rank == 0:
            run.write_json(run.evaluation, {"step": step, "split": config.held_out, **accuracy.to_json(classes)})
        console.say(f"step {step:,}  top1 {accuracy.top1:.2%} of {accuracy.images:,} images of {config.held_out}")
        return accuracy.summary()

    ending = fit(
        training,
        Objective(inputs_of, loss_of),
        pace,
        Options(config.optimizer.clip_norm),
        learning_rate=schedule(config.optimizer.schedule, config.batch_size, config.epochs),
        evaluate=evaluate,
        start=start,
    )
    stream.close()
    if ending.status == "preempted":
        own.close(ending.status, ending.step)
        return None
    if world.rank > 0:
        return {}
    evaluated = read_json(run.evaluation)
    console.say(f"linear {100 * evaluated['top1']:.1f} % (LARS, {config.epochs:g} epochs)")
    return {
        "method": "LARS",
        "epochs": config.epochs,
        "steps": ending.step,
        "batch_size": config.batch_size,
        "base_lr": config.optimizer.base_lr,
        "trust": config.optimizer.trust,
        "train_images": stream.epoch_positions,
        "held_out_images": evaluated["images"],
        "top1": evaluated["top1"],
    }
