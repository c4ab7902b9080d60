"""A run of masked autoencoding: from a resolved config to an encoder folder."""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from data_pipeline.augment import RandomResizedCrop
from data_pipeline.manifest import read_manifest
from data_pipeline.order import Integers, Plan, lanes_for
from data_pipeline.randomness import Purpose, hash_array, key, uniform_array
from data_pipeline.rows import Part
from data_pipeline.stream import Batch, Stream
from pretrain.checkpoint import find_checkpoint, is_ours, load_weights
from pretrain.compiling import Compilation
from pretrain.encoder import create_encoder
from pretrain.flops import autoencoder_flops, training_flops
from pretrain.interchange import read_weights, start_from
from pretrain.loop import fit
from pretrain.mae_config import MAY_CHANGE_ON_RESUME, MaeConfig
from pretrain.masked_autoencoder import MaskedAutoencoder
from pretrain.matrix_rate import matrix_rate
from pretrain.meter import Work
from pretrain.model_folder import save_model
from pretrain.monitor import Monitor
from pretrain.optimizer import create_optimizer, schedule
from pretrain.pixels import check_channels, choose_normalization
from pretrain.recomputing import recompute_blocks
from pretrain.saver import Keeping
from pretrain.session import Session, bit_equality_depends_on, find_start, goes_on, loader_workers, session
from pretrain.sharding import is_sharded, shard_parameters, whole_copy
from pretrain.training import Objective, Options, Pace, Training
from pretrain.world import World


def pretrain(recipe: str, config: MaeConfig, world: World) -> None:
    """Train, evaluate and export as the config says.

    Raises:
        ValueError: data, weights or options that do not fit each other, or anything else that a user can mend.
    """
    with session(recipe, config, config.out, MAY_CHANGE_ON_RESUME, world=world) as own:
        console = own.console
        folders = [read_manifest(folder) for folder in (config.data, *config.also)]
        given = [Part(folder, config.split) for folder in folders]
        parts = check_channels(config.encoder.channels, given, config.held_out)
        manifest = parts[0].manifest
        normalization = choose_normalization(config.normalization, manifest)
        model = _build(config)
        origin = _begin(config, model, own)
        model.to(world.device)
        flops = training_flops(autoencoder_flops(model))
        parameters = sum(parameter.numel() for parameter in model.parameters())
        compilation = _arrange(config, model, own)
        workers = loader_workers(config.workers, world)
        stream = Stream(
            parts,
            RandomResizedCrop(config.encoder.image_size, config.crop_scale, mirror=config.mirror),
            batch_size=config.batch_size,
            seed=config.seed,
            plan=Plan(lanes=lanes_for(config.max_world), weights=config.weights or (1,) * len(parts)),
            rank=world.rank,
            world=world.size,
            workers=workers,
            epochs=config.epochs,
            pin_memory=world.device.type == "cuda",
            cache=config.cache,
            device=world.device,
        )
        optimizer = create_optimizer(model, config.optimizer)
        training = Training(world, model, optimizer, stream, own.run, console, bit_equality_depends_on(world))
        pace = Pace(
            accumulate=config.accumulate,
            log_every=config.log_every,
            checkpoint_steps=config.checkpoint_steps,
            evaluate_steps=stream.steps(config.evaluate_epochs),
            keeping=Keeping(config.keep_checkpoints, config.keep_every_steps),
        )
        where = ", ".join(str(part.manifest.folder) for part in parts)
        console.say(
            f"{stream.epoch_positions:,} images of {where} [{config.split}], {config.epochs:g} epochs "
            f"in {stream.steps(config.epochs):,} steps of {config.batch_size}; {parameters / 1e6:.1f} M parameters; "
            f"{world.size} x {world.device.type}, {workers} loader workers each, {config.precision}, seed {config.seed}"
        )
        stream.explain(console.say)
        stream.open(console.say)
        start = find_start(training, config.resume, origin)
        work = Work(flops, matrix_rate(world.device, config.precision))
        noise_of = partial(_noise, config.seed, Purpose.MASK, model.patches, world.device)
        figure_noise_of = partial(_noise, config.seed, Purpose.FIGURE_MASK, model.patches, world.device)

        def inputs_of(batch: Batch) -> tuple[Tensor, Tensor]:
            images = batch.images.to(world.device, non_blocking=True)
            return images, noise_of(batch.positions)

        def loss_of(shared: nn.Module, images: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            out = shared(normalization.normalize(images), noise)
            return out.losses, {"masked_mse": out.loss}

        def evaluate(step: int, epoch: float) -> dict[str, float]:
            def show(name: str, png: Path) -> None:
                if training.tracker is not None:
                    training.tracker.image(step, name, png)

            monitor = Monitor(config, manifest, normalization, figure_noise_of, own, workers, shown=show)
            return monitor.evaluate(_whole(config, model, world), epoch)

        training.track = own.tracking(config.tracker)
        ending = fit(
            training,
            Objective(inputs_of, loss_of),
            pace,
            Options(config.optimizer.clip_norm, config.anomalies, work, compilation),
            learning_rate=schedule(config.optimizer, config.batch_size, config.epochs),
            evaluate=evaluate,
            start=start,
        )
        stream.close()
        trained = _whole(config, model, world)
        if ending.status == "done" and world.rank == 0:
            save_model(own.run.encoder, trained.encoder, config.encoder, normalization, guard=own.run.guard)
            console.say(f"done: the encoder is in {own.run.encoder}, figures in {own.run.figures}")
        own.close(ending.status, ending.step)
        training.stop_tracking()


def _build(config: MaeConfig) -> MaskedAutoencoder:
    return MaskedAutoencoder(create_encoder(config.encoder), config.decoder, config.objective)


def _begin(config: MaeConfig, model: MaskedAutoencoder, own: Session) -> str:
    """Fill the model with the weights of a new run; what to say of it."""
    model.initialize(torch.Generator().manual_seed(key(config.seed, Purpose.INITIALISATION) >> 1))
    where, option, say = config.init_from, "--init-from", own.console.say
    if where is None or goes_on(own.run, config.resume):
        return "starting from scratch"
    if not is_ours(where):
        for sentence in start_from(model, read_weights(where, option), new_decoder=config.new_decoder, option=option):
            say(sentence)
        return f"starting with the weights of {where}"
    checkpoint = find_checkpoint(where, option, say)
    if config.new_decoder:
        load_weights(checkpoint, model.encoder, within="encoder.")
        return f"starting with the encoder of {checkpoint.path} and a new decoder"
    load_weights(checkpoint, model)
    return f"starting with the weights of {checkpoint.path}"


def _arrange(config: MaeConfig, model: MaskedAutoencoder, own: Session) -> Compilation | None:
    """Compile, recompute and share out the model, in place, as the config asks."""
    world, compilation = own.world, None
    if config.compile:
        by_block = world.size > 1 and (config.shard_parameters or config.gradient_checkpointing)
        compilation = Compilation(model, own.console, by_block=by_block)
    if config.gradient_checkpointing:
        recompute_blocks(model)
    if config.shard_parameters and world.size > 1:
        shard_parameters(model, world.device, world.size)
    elif config.shard_parameters:
        own.console.say("--shard-parameters: this one process holds everything, as there is no other to share it with")
    return compilation


def _whole(config: MaeConfig, model: MaskedAutoencoder, world: World) -> MaskedAutoencoder:
    """The model itself or, where it is sharded, a whole one with its weights; every process must ask."""
    if not is_sharded(model):
        return model
    twin = _build(config).to(world.device).eval()
    whole_copy(model, twin)
    return twin


def _noise(seed: int, purpose: Purpose, patches: int, device: torch.device, keys: Integers) -> Tensor:
    """What hides patches: of run positions or sample numbers (b,) uniform numbers (b, patches)."""
    seeds = hash_array(key(seed, purpose), keys.astype("uint64"))
    return torch.from_numpy(uniform_array(seeds, patches)).to(device, non_blocking=True)
