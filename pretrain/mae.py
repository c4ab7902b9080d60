"""Pre-train a vision transformer without labels by masked autoencoding (He et al. 2022, arXiv:2111.06377).

python pretrain/mae.py RECIPE --data DATASET --out RUN, or the same under `accelerate launch`. The same command goes on
with a run that was interrupted.
"""

import os

from launch.settings import parse
from pretrain.mae_config import MAY_CHANGE_ON_RESUME, MaeConfig
from pretrain.recipes import RECIPES


def train(recipe: str, config: MaeConfig) -> None:
    """Train, evaluate and export as the config says."""
    # On a CPU, threads that spin while they wait take the cores from the loader: measured eight times slower beside
    # one busy process. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch  # here and below: --help must not wait for it
    from torch import Tensor, nn

    from data_pipeline.augment import RandomResizedCrop
    from data_pipeline.manifest import read_manifest
    from data_pipeline.order import Integers, Plan, lanes_for
    from data_pipeline.randomness import Purpose, hash_array, key, uniform_array
    from data_pipeline.rows import Part
    from data_pipeline.stream import Batch, Stream
    from pretrain.encoder import create_encoder
    from pretrain.loop import Objective, Pace, Training, fit
    from pretrain.masked_autoencoder import MaskedAutoencoder
    from pretrain.model_folder import save_model
    from pretrain.monitor import Monitor
    from pretrain.optimizer import create_optimizer, schedule
    from pretrain.pixels import choose_normalization
    from pretrain.session import bit_equality_depends_on, explained, find_start, loader_workers, session
    from pretrain.world import World

    with (
        explained(),
        World(config.precision, deterministic=config.deterministic) as world,
        session(recipe, config, config.out, MAY_CHANGE_ON_RESUME, world=world) as own,
    ):
        console = own.console
        parts = [Part(read_manifest(folder), config.split) for folder in (config.data, *config.also)]
        manifest = parts[0].manifest
        normalization = choose_normalization(config.normalization, manifest)
        model = MaskedAutoencoder(create_encoder(config.encoder), config.decoder, config.objective)
        model.initialize(torch.Generator().manual_seed(key(config.seed, Purpose.INITIALISATION) >> 1))
        model.to(world.device)
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
            steps=stream.steps(config.epochs),
            accumulate=config.accumulate,
            log_every=config.log_every,
            checkpoint_steps=config.checkpoint_steps,
            evaluate_steps=stream.steps(config.evaluate_epochs),
            keep=config.keep_checkpoints,
        )
        where = ", ".join(str(part.manifest.folder) for part in parts)
        console.say(
            f"{stream.epoch_positions:,} images of {where} [{config.split}], {config.epochs:g} epochs "
            f"in {pace.steps:,} steps of {config.batch_size}; "
            f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f} M parameters; "
            f"{world.size} x {world.device.type}, {workers} loader workers each, {config.precision}, seed {config.seed}"
        )
        stream.explain(console.say)
        stream.open(console.say)
        start = find_start(training, config.resume, config.init_from)

        def noise_of(keys: Integers, purpose: Purpose) -> Tensor:
            seeds = hash_array(key(config.seed, purpose), keys.astype("uint64"))
            return torch.from_numpy(uniform_array(seeds, model.patches)).to(world.device, non_blocking=True)

        def inputs_of(batch: Batch) -> tuple[Tensor, Tensor]:
            images = batch.images.to(world.device, non_blocking=True)
            return images, noise_of(batch.positions, Purpose.MASK)

        def loss_of(shared: nn.Module, images: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            out = shared(normalization.normalize(images), noise)
            return out.loss, {"masked_mse": out.loss}

        monitor = Monitor(
            config, manifest, model, normalization, lambda keys: noise_of(keys, Purpose.FIGURE_MASK), own, workers
        )
        status = fit(
            training,
            Objective(inputs_of, loss_of),
            pace,
            learning_rate=schedule(config.optimizer, config.batch_size, config.epochs),
            clip_norm=config.optimizer.clip_norm,
            evaluate=lambda _: monitor.evaluate(stream.position / stream.epoch_positions),
            start=start,
        )
        stream.close()
        if status == "done" and world.rank == 0:
            save_model(own.run.encoder, model.encoder, config.encoder, normalization, guard=own.run.guard)
            console.say(f"done: the encoder is in {own.run.encoder}, figures in {own.run.figures}")
        own.close(status, stream.position // config.batch_size)


if __name__ == "__main__":
    assert __doc__ is not None
    train(*parse(__doc__, RECIPES))
