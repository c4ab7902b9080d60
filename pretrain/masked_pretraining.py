"""A run of masked autoencoding: from a resolved config to an encoder folder."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from data_pipeline.augment import RandomResizedCrop
from data_pipeline.order import Integers
from data_pipeline.randomness import Purpose, hash_array, key, uniform_array
from data_pipeline.stream import Batch
from pretrain.checkpoint import find_checkpoint, is_ours, load_weights
from pretrain.encoder import create_encoder
from pretrain.encoder_run import EncoderRun, Method, Show
from pretrain.flops import autoencoder_flops, training_flops
from pretrain.interchange import read_weights, start_from
from pretrain.mae_config import MAY_CHANGE_ON_RESUME, MaeConfig
from pretrain.masked_autoencoder import MaskedAutoencoder
from pretrain.reconstruction_panels import ReconstructionPanels
from pretrain.session import Session, goes_on, session
from pretrain.training import Objective
from pretrain.world import World


def pretrain(recipe: str, config: MaeConfig, world: World) -> None:
    """Train, evaluate and export as the config says.

    Raises:
        ValueError: data, weights or options that do not fit each other, or anything else that a user can mend.
    """
    config = replace(config, shard_parameters=config.shard_parameters or world.is_asked_to_shard)
    with session(recipe, config, config.out, MAY_CHANGE_ON_RESUME, world=world) as own:
        run = EncoderRun(own, config)
        normalization = run.normalization
        model = _build(config)
        origin = _begin(config, model, own)
        run.place(model)
        noise_of = partial(_noise, config.seed, Purpose.MASK, model.patches, world.device)
        figure_noise_of = partial(_noise, config.seed, Purpose.FIGURE_MASK, model.patches, world.device)

        def inputs_of(batch: Batch) -> tuple[Tensor, Tensor]:
            images = batch.images.to(world.device, non_blocking=True)
            return images, noise_of(batch.positions)

        def loss_of(shared: nn.Module, images: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            out = shared(normalization.normalize(images), noise)
            return out.losses, {"masked_mse": out.loss}

        def evaluate(whole: MaskedAutoencoder, epoch: float, show: Show) -> dict[str, float]:
            if world.rank == 0:
                ReconstructionPanels(run.monitor, normalization, figure_noise_of, show).draw(whole, epoch)
            return run.monitor.measure(lambda images: whole.features(normalization.normalize(images)).mean, epoch)

        method = Method(
            Objective(inputs_of, loss_of),
            view=RandomResizedCrop(config.encoder.image_size, config.crop_scale, mirror=config.mirror),
            flops=training_flops(autoencoder_flops(model)),
            build=partial(_build, config),
            evaluate=evaluate,
        )
        run.train(model, method, origin=origin)


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


def _noise(seed: int, purpose: Purpose, patches: int, device: torch.device, keys: Integers) -> Tensor:
    """What hides patches: of run positions or sample numbers (b,) uniform numbers (b, patches)."""
    seeds = hash_array(key(seed, purpose), keys.astype("uint64"))
    return torch.from_numpy(uniform_array(seeds, patches)).to(device, non_blocking=True)
