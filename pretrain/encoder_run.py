"""A run that trains an encoder without labels, by whatever method: from a dataset to an encoder folder."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from data_pipeline.augment import CropView
from data_pipeline.manifest import read_manifest
from data_pipeline.order import Plan, lanes_for
from data_pipeline.rows import Part
from data_pipeline.stream import Stream
from pretrain.averaging import Average
from pretrain.compiling import Compilation
from pretrain.feature_distill_config import FeatureDistillConfig
from pretrain.feature_student import FeatureStudent
from pretrain.loop import fit
from pretrain.mae_config import MaeConfig
from pretrain.masked_autoencoder import MaskedAutoencoder
from pretrain.matrix_rate import matrix_rate
from pretrain.meter import Work
from pretrain.model_folder import save_model
from pretrain.monitor import Monitor
from pretrain.optimizer import create_optimizer, schedule
from pretrain.pixels import check_channels, choose_normalization
from pretrain.recomputing import recompute_blocks
from pretrain.saver import Keeping
from pretrain.session import Session, bit_equality_depends_on, find_start, loader_workers
from pretrain.sharding import is_sharded, shard_parameters, whole_copy
from pretrain.training import Objective, Options, Pace, Training

Model = TypeVar("Model", MaskedAutoencoder, FeatureStudent)
Show = Callable[[str, Path], None]
"""Is told of a figure: what it is called, and the PNG file."""


@dataclass(frozen=True)
class Method(Generic[Model]):
    """What a way of training an encoder brings along.

    objective: what a step computes. view: how images are shown, `views` times in an epoch. flops: of training on one
    image. build: makes a model like the trained one, for its weights. evaluate: what is measured of a whole model at an
    epoch, on every process. fixed_views: see `Stream`. exempt: names of tensors that do not decay. average: decay of
    the average of the weights. shares: see `Options`.
    """

    objective: Objective
    view: CropView
    flops: float
    build: Callable[[], Model]
    evaluate: Callable[[Model, float, Show], dict[str, float]]
    views: int = 1
    fixed_views: int | None = None
    exempt: frozenset[str] = frozenset()
    average: float | None = None
    shares: Mapping[str, Callable[[], float]] = field(default_factory=dict)


class EncoderRun:
    """What is made once of a run's config: its data, and how it trains, measures and exports.

    Args:
        own: the session; every process has one.
        config: of whatever method.

    Raises:
        ValueError: the data do not fit the encoder or its normalisation.
    """

    def __init__(self, own: Session, config: MaeConfig | FeatureDistillConfig) -> None:
        self.own, self.config = own, config
        given = [Part(read_manifest(folder), config.split) for folder in (config.data, *config.also)]
        self.parts = check_channels(config.encoder.channels, given, config.held_out)
        self.manifest = self.parts[0].manifest
        self.normalization = choose_normalization(config.normalization, self.manifest)
        self.workers = loader_workers(config.workers, own.world)
        self.monitor = Monitor(config, self.manifest, own, self.workers)
        self._compilation: Compilation | None = None
        self._parameters = 0

    def place(self, model: MaskedAutoencoder | FeatureStudent) -> None:
        """Move the model to its device, and compile, recompute and share it out there, in place, as the config asks."""
        config, own = self.config, self.own
        model.to(own.world.device)
        self._parameters = sum(parameter.numel() for parameter in model.parameters())
        processes = own.world.size
        if config.compile:
            by_block = processes > 1 and (config.shard_parameters or config.gradient_checkpointing)
            self._compilation = Compilation(model, own.console, by_block=by_block)
        if config.gradient_checkpointing:
            recompute_blocks(model)
        if config.shard_parameters and processes > 1:
            shard_parameters(model, own.world.device, processes)
        elif config.shard_parameters:
            alone = "this one process holds everything, as there is no other to share it with"
            own.console.say(f"--shard-parameters: {alone}")

    def train(self, model: Model, method: Method[Model], *, origin: str) -> None:
        """Train a model that was placed to the end, or until asked to stop, and export its encoder.

        origin: said of a run that begins, of the weights that the model has.

        Raises:
            ValueError: a checkpoint that does not fit, or anything else that a user can mend.
        """
        own, config = self.own, self.config
        say, world = own.console.say, own.world
        stream = self._stream(method)
        training = Training(
            world,
            model,
            create_optimizer(model, config.optimizer, exempt=method.exempt),
            stream,
            own.run,
            own.console,
            bit_equality_depends_on(world),
            average=None if method.average is None else Average(model, method.average, warm_up=True),
        )
        self._announce(stream, method.views)
        stream.explain(say)
        stream.open(say)
        start = find_start(training, config.resume, origin)
        work = Work(method.flops, matrix_rate(world.device, config.precision))

        def evaluate(step: int, epoch: float) -> dict[str, float]:
            def show(name: str, png: Path) -> None:
                if training.tracker is not None:
                    training.tracker.image(step, name, png)

            return method.evaluate(self._whole(model, method), epoch, show)

        training.track = own.tracking(config.tracker)
        ending = fit(
            training,
            method.objective,
            self._pace(stream),
            Options(config.optimizer.clip_norm, config.anomalies, work, self._compilation, shares=method.shares),
            learning_rate=schedule(config.optimizer, config.batch_size, config.epochs),
            evaluate=evaluate,
            start=start,
        )
        stream.close()
        with nullcontext() if training.average is None else training.average.in_place(model):
            trained = self._whole(model, method)
            if ending.status == "done" and world.rank == 0:
                save_model(own.run.encoder, trained.encoder, config.encoder, self.normalization, guard=own.run.guard)
                figures = f", figures in {own.run.figures}" if any(own.run.figures.iterdir()) else ""
                say(f"done: the encoder is in {own.run.encoder}{figures}")
        own.close(ending.status, ending.step)
        training.stop_tracking()

    def _whole(self, model: Model, method: Method[Model]) -> Model:
        """The model itself or, where it is sharded, a whole one with its weights; every process must ask."""
        if not is_sharded(model):
            return model
        twin = method.build().to(self.own.world.device).eval()
        whole_copy(model, twin)
        return twin

    def _stream(self, method: Method[Model]) -> Stream:
        config, world = self.config, self.own.world
        return Stream(
            self.parts,
            method.view,
            batch_size=config.batch_size,
            seed=config.seed,
            plan=Plan(
                lanes=lanes_for(config.max_world), views=method.views, weights=config.weights or (1,) * len(self.parts)
            ),
            rank=world.rank,
            world=world.size,
            workers=self.workers,
            epochs=config.epochs,
            pin_memory=world.device.type == "cuda",
            cache=config.cache,
            device=world.device,
            fixed_views=method.fixed_views,
        )

    def _announce(self, stream: Stream, views: int) -> None:
        config, world = self.config, self.own.world
        where = ", ".join(str(part.manifest.folder) for part in self.parts)
        shown = f", each shown {views} times" if views > 1 else ""
        self.own.console.say(
            f"{stream.epoch_positions // views:,} images of {where} [{config.split}]{shown}, {config.epochs:g} epochs "
            f"in {stream.steps(config.epochs):,} steps of {config.batch_size}; {self._parameters / 1e6:.1f} M "
            f"parameters; {world.size} x {world.device.type}, {self.workers} loader workers each, {config.precision}, "
            f"seed {config.seed}"
        )

    def _pace(self, stream: Stream) -> Pace:
        config = self.config
        return Pace(
            accumulate=config.accumulate,
            log_every=config.log_every,
            checkpoint_steps=config.checkpoint_steps,
            evaluate_steps=stream.steps(config.evaluate_epochs),
            keeping=Keeping(config.keep_checkpoints, config.keep_every_steps),
        )
