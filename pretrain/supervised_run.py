"""A supervised run: a classifier and what it is to learn, trained, evaluated, and left as model folders."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from data_pipeline.order import Plan, lanes_for
from data_pipeline.stream import Stream
from pretrain.architectures import create_backbone
from pretrain.averaging import Average
from pretrain.classification_objective import Supervision
from pretrain.conclusion import conclude
from pretrain.drop_path import DropPaths, check_deterministic_forward
from pretrain.examiner import Examined, Examiner
from pretrain.loop import fit
from pretrain.matrix_rate import matrix_rate
from pretrain.meter import Work
from pretrain.mixing import check_pairs
from pretrain.model_flops import model_flops
from pretrain.optimizer import create_optimizer, exempt_parameters, schedule
from pretrain.pixels import Normalization
from pretrain.saver import Keeping
from pretrain.selection import Selection
from pretrain.session import Session, bit_equality_depends_on, find_start, loader_workers
from pretrain.supervised_config import SupervisedConfig
from pretrain.task import Task
from pretrain.training import Ending, Objective, Options, Pace, Training
from pretrain.training_view import training_view

_NO_SHARES: Mapping[str, Callable[[], float]] = MappingProxyType({})


class SupervisedRun:
    """What is made once of a run's config: the model on its device, and what a step computes with it.

    Args:
        own: the session; every process has one.
        config: with its sizes, as `resolve` gives it.
        task: what is learnt from which images.
        model: on the CPU, with the weights that it starts with, frozen as far as it is to be.
        normalization: of its images.
        views: how often an epoch shows each image, each time differently (Hoffer et al. 2020, arXiv:1901.09335).
        fixed_views: see `Stream`.

    Raises:
        ValueError: a batch that cannot be mixed, or a model that draws random numbers of its own.
    """

    def __init__(
        self,
        own: Session,
        config: SupervisedConfig,
        task: Task,
        model: nn.Module,
        normalization: Normalization,
        *,
        views: int = 1,
        fixed_views: int | None = None,
    ) -> None:
        self.own, self.config, self.task, self.model, self.normalization = own, config, task, model, normalization
        self.views, self.fixed_views = views, fixed_views
        world = own.world
        self.plan = Plan(lanes=lanes_for(config.max_world), subset=task.subset, views=views)
        if config.mixing.is_on:
            samples = task.part.manifest.split(config.split).present if task.members is None else len(task.members)
            check_pairs(config.batch_size, world.size, views=views, lanes=min(self.plan.lanes, samples))
        self.view = training_view(config.augmentation, config.encoder.size, normalization)
        self.workers = loader_workers(config.workers, world)
        self.flops = model_flops(model, (config.encoder.channels, *config.encoder.size))
        model.to(world.device)
        paths = DropPaths(model)
        check_deterministic_forward(model)
        by_view = fixed_views is not None
        self.supervision = Supervision(config, task, normalization, paths, world, erases_by_view=by_view)

    def train(
        self,
        objective: Objective,
        *,
        shares: Mapping[str, Callable[[], float]] = _NO_SHARES,
        origin: str = "starting with these weights",
    ) -> tuple[Ending, dict[str, Any]]:
        """Train to the end or until asked to stop, export, evaluate; how it ended and, on rank 0, what evaluation.json
        then holds: {} elsewhere, and where the run was stopped.

        shares: parts of the time to tell apart, see `Options`. origin: said of a run that begins.

        Raises:
            ValueError: a checkpoint that does not fit, or anything else that a user can mend.
        """
        own, config, task, model = self.own, self.config, self.task, self.model
        say, world = own.console.say, own.world
        stream = self._stream()
        training = Training(
            world,
            model,
            self._optimizer(),
            stream,
            own.run,
            own.console,
            bit_equality_depends_on(world),
            average=None if config.average is None else Average(model, config.average, warm_up=True),
            track=own.tracking(config.tracker),
        )
        self._announce(stream)
        stream.explain(say)
        stream.open(say)
        start = find_start(training, config.resume, origin)
        examiner = Examiner(config, task, self.normalization, own, self.workers)
        metric = "top1" if task.sets is None else "mean_average_precision"
        known: dict[int, Examined] = {}

        def evaluate(step: int, _: float) -> dict[str, float]:
            found = examiner.examine(model, task.watched)
            if task.watched.is_held_out:
                known.clear()  # only the last is of use
                known[step] = found
            part, told = task.watched.part.split, found.summary()
            if task.watched.is_held_out and world.rank == 0:
                written = {"step": step, "split": part, "model": "last", **found.to_json(task.classes)}
                own.run.write_json(own.run.evaluation, written)
            say(f"step {step:,}  {metric} {told[metric]:.2%} of {found.images:,} images of {part}")
            return told

        ending = fit(
            training,
            objective,
            self._pace(stream),
            Options(
                config.optimizer.clip_norm,
                work=Work(self.flops, matrix_rate(world.device, world.precision)),
                selection=Selection(metric, patience=config.patience),
                shares=shares,
            ),
            learning_rate=schedule(config.optimizer, config.batch_size, config.epochs),
            evaluate=evaluate,
            start=start,
        )
        stream.close()
        result: dict[str, Any] = {}
        if ending.status == "done":
            result = conclude(training, ending, examiner, self._blank, known=known.get(ending.step))
        own.close(ending.status, ending.step, stopped_early=ending.stopped_early)
        training.stop_tracking()
        return ending, result

    def _announce(self, stream: Stream) -> None:
        config, world, task = self.config, self.own.world, self.task
        shown = f", each shown {self.views} times an epoch," if self.views > 1 else ""
        self.own.console.say(
            f"{stream.epoch_positions // self.views:,} images of {task.part.manifest.folder} [{config.split}]{shown} "
            f"in {len(task.classes)} classes, "
            f"{config.epochs:g} epochs in {stream.steps(config.epochs):,} steps of {config.batch_size}; "
            f"{sum(parameter.numel() for parameter in self.model.parameters()) / 1e6:.1f} M parameters; "
            f"{world.size} x {world.device.type}, {self.workers} loader workers each, {config.precision}, "
            f"seed {config.seed}"
        )

    def _blank(self) -> nn.Module:
        """A model like the trained one, for other weights of its."""
        config, classes = self.config, len(self.task.classes)
        return create_backbone(config.encoder, classes=classes, pool=config.pool, drop_path=0.0, seed=config.seed)

    def _stream(self) -> Stream:
        config, world = self.config, self.own.world
        return Stream(
            [self.task.part],
            self.view,
            batch_size=config.batch_size,
            seed=config.seed,
            plan=self.plan,
            members=[self.task.members],
            rank=world.rank,
            world=world.size,
            workers=self.workers,
            epochs=config.epochs,
            pin_memory=world.device.type == "cuda",
            cache=config.cache,
            device=world.device,
            fixed_views=self.fixed_views,
        )

    def _optimizer(self) -> torch.optim.Optimizer:
        config, model = self.config, self.model
        exempt = exempt_parameters(model)
        return create_optimizer(model, config.optimizer, exempt=exempt, layer_decay=config.layer_decay)

    def _pace(self, stream: Stream) -> Pace:
        config = self.config
        return Pace(
            accumulate=config.accumulate,
            log_every=config.log_every,
            checkpoint_steps=config.checkpoint_steps,
            evaluate_steps=stream.steps(config.evaluate_epochs),
            keeping=Keeping(config.keep_checkpoints, every=0),
        )
