"""What a run holds while it trains: the stepper, the watch, the saver, the meter, and a batch ahead of its use."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from data_pipeline.stages import who_decoded
from pretrain.ahead import Ahead, Taken
from pretrain.anomalies import TooManyError, Watch
from pretrain.best_checkpoint import move_best
from pretrain.buffers import kept_buffers
from pretrain.checkpoint import go_back_to, load_average, load_optimizer, load_weights, newest_checkpoint
from pretrain.device_clock import DeviceClock
from pretrain.loss_scale import LossScale
from pretrain.meter import Meter
from pretrain.out_of_memory import explain_out_of_memory, is_out_of_memory
from pretrain.saver import Saver
from pretrain.selection import Standing
from pretrain.sharding import own_part
from pretrain.snapshot import without_moments
from pretrain.step import Outcome, Stepper
from pretrain.training import Objective, Options, Pace, Start, Training


class Fitting:
    """Every process has one."""

    def __init__(self, training: Training, objective: Objective, pace: Pace, options: Options, saver: Saver) -> None:
        self.training, self.objective, self.pace, self.options = training, objective, pace, options
        world = training.world
        self.saver = saver
        self.scale = LossScale(world.device) if world.precision == "fp16" else None
        self.stepper = Stepper(
            world,
            world.share_gradients(training.model),
            training.optimizer,
            objective.loss,
            accumulate=pace.accumulate,
            clip_norm=options.clip_norm,
            scale=self.scale,
        )
        names, parts = self.stepper.names, training.stream.parts
        self.watch = Watch(world, training.run, training.console, parts=parts, names=names, config=options.anomalies)
        self.clock = DeviceClock(world.device)
        self.meter = Meter(world, options.work, self.clock, options.shares)
        self.ahead = Ahead(training.stream, objective.inputs, world.device)
        self.standing = Standing()
        self.last = 0

    def stand(self, step: int) -> None:
        """Where a run that goes on after a step stands: its last step, and what its evaluations have come to.

        `checkpoints/best` is made to name the best of them, of which a run that was killed may not have got round to.
        """
        world, run, selection = self.training.world, self.training.run, self.options.selection
        self.last = step + self.training.stream.batches_left
        if selection is None:
            return
        own: list[Standing] = []
        if world.rank == 0:
            own = [selection.judge(line for line in run.read_metrics() if line["step"] <= step)]
            best = own[0].records[-1] if own[0].records else None
            if not move_best(run.checkpoints, best, run.guard):
                self.training.console.say(
                    f"warning: the checkpoint of the best evaluation, of step {best:,}, is gone; "
                    "`best` names none until another beats it"
                )
        (self.standing,) = world.gather(own)

    def judge(self, step: int, results: Mapping[str, float]) -> None:
        """See whether an evaluation is the best; its checkpoint is on the disk before `checkpoints/best` names it."""
        world, run, selection = self.training.world, self.training.run, self.options.selection
        if selection is None:
            return
        standing = selection.after(self.standing, step, results)
        if world.rank == 0 and standing.waited == 0:
            self.saver.wait()
            is_there = move_best(run.checkpoints, step, run.guard)
            assert is_there
            self.saver.prune(standing.records)
        (self.standing,) = world.gather([standing] if world.rank == 0 else [])

    def why_over(self, step: int) -> str | None:
        """Why training ends after this step though batches are left; None where it does not."""
        selection = self.options.selection
        why = None if selection is None or step == self.last else selection.why_over(self.standing)
        return None if why is None else f"stopped after step {step:,} of {self.last:,}: {why}"

    def begin(self, start: Start) -> None:
        """Where a run begins or goes on, also after a way back."""
        training = self.training
        if self.scale is not None and "loss_scale" in start.state:
            self.scale.load_state(start.state["loss_scale"])
        self.ahead = Ahead(training.stream, self.objective.inputs, training.world.device)
        training.world.place.step, training.world.place.stage = start.step, "read"
        self.ahead.fetch()
        self.restart()

    def track(self, step: int) -> None:
        """Open the tracker for a run that goes on after a step, also where it has been open for later ones."""
        training = self.training
        training.stop_tracking()
        training.tracker = None if training.track is None else training.track(step)

    def restart(self) -> None:
        """What was measured until now has nothing to do with the steps that follow."""
        self.meter.restart(self.ahead.waited, self.saver.stalled)

    def take(self) -> Taken | None:
        """The next batch, None at the end."""
        self.clock.asks()
        return self.ahead.take()

    def step(self, step: int, taken: Taken, rate: float) -> Outcome:
        """One step at this learning rate; while the device is busy with it, the next batch is fetched."""
        training = self.training
        for group in training.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        self.clock.begins()
        try:
            outcome = self.stepper.step(taken.inputs)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            outcome = None  # not here, where the error still holds on to what did not fit
        if outcome is None:
            what = (training.world, training.model, training.optimizer, self.objective.loss)
            raise explain_out_of_memory(*what, inputs=taken.inputs, accumulate=self.pace.accumulate)
        if training.average is not None:
            training.average.update(outcome.norm.isfinite())
        self.clock.ends()
        if self.options.compilation is not None:
            self.options.compilation.stepped()
        self.watch.note(step, taken, outcome)
        self.meter.count(training.stream.batch_size)
        training.world.place.stage = "read"
        self.ahead.fetch()
        return outcome

    def save(self, step: int, position: int) -> None:
        """Rank 0 writes; the substitutions that each rank met are put together first."""
        training, world = self.training, self.training.world
        world.place.stage = "save"
        self.watch.look()  # what a checkpoint has not seen would be forgotten by those who go on from it
        self.align()
        self._check_finite(step)
        state = training.stream.state()
        met = {tuple(row[:2]): row for row in world.gather(state["substitutions"])}
        state["substitutions"] = [met[which] for which in sorted(met)]
        state["position"] = position  # the stream itself is a batch ahead
        content: dict[str, Any] = {"step": step, "stream": state, "promise": dict(training.promise)}
        content["anomalies"] = self.watch.state()
        if self.scale is not None:
            content["loss_scale"] = self.scale.state()
        if training.average is not None:
            content["average"] = training.average.state()
        if still := without_moments(training.optimizer):
            content["without_moments"] = still
        what = (training.model, training.optimizer, content)
        self.saver.save(*what, average=training.average, records=self.standing.records)

    def align(self) -> None:
        """Let every process have rank 0's running statistics, as each step begins with them: each has its own after."""
        average = self.training.average
        theirs = [] if average is None else average.buffers
        self.training.world.follow_first([*kept_buffers(self.training.model).values(), *theirs])

    def log(self, step: int, taken: Taken, outcome: Outcome, rate: float) -> None:
        """Look at what the steps since the last line have computed, and write it down."""
        self.training.world.place.stage = "log"
        self.watch.look()
        skipped = self.watch.tell()
        more: dict[str, Any] = {"lr": rate, "grad_norm": outcome.norm.item()}
        if outcome.scale is not None:
            more["loss_scale"] = outcome.scale.item()
        if skipped > 0:
            more["skipped_steps"] = skipped
        epoch = taken.stop / self.training.stream.epoch_positions
        self.record(
            self.meter.line(step, epoch, outcome.logged, more, waited=self.ahead.waited, stalled=self.saver.stalled)
        )

    def record(self, line: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl, and of the tracker."""
        training = self.training
        if training.world.rank == 0:
            training.run.append_metrics(line)
            if training.tracker is not None:
                training.tracker.log(line["step"], {name: value for name, value in line.items() if name != "step"})

    def go_back(self, why: TooManyError) -> Start:
        """Load the newest checkpoint from before the skipped steps, and leave their batches out from there on.

        Raises:
            FloatingPointError: there is none.
        """
        training, first = self.training, why.skipped[0].step
        training.world.place.stage = "start"
        self.saver.wait()
        training.world.barrier()
        checkpoint = newest_checkpoint(training.run.checkpoints, training.console.say, before=first)
        if checkpoint is None:
            raise FloatingPointError(
                f"losses or gradients of {len(why.skipped)} steps from {first:,} on are not finite, and there is no "
                f"checkpoint from before them to go back to; {training.run.anomalies} says of which images and "
                "parameters. In a new run lower --optimizer.base-lr or --checkpoint-steps, or set --optimizer.clip-norm"
            )
        training.stream.close()
        load_weights(checkpoint, training.model)
        load_optimizer(checkpoint, training.optimizer)
        if training.average is not None:
            load_average(checkpoint, training.average)
        left_out = training.stream.state()["skipped"]
        training.stream.load_state(checkpoint.state["stream"])
        known = training.stream.state()["skipped"]  # not what was left out on an earlier way to the same checkpoint
        left_out += [[skipped.start, skipped.stop] for skipped in why.skipped]
        for start, stop in left_out:
            if [start, stop] not in known:
                training.stream.skip(start, stop)
        self.watch.went_back()
        self.track(checkpoint.step)
        self.stand(checkpoint.step)
        training.world.barrier()  # every process has read it before others are removed
        training.console.say(
            f"warning: {len(why.skipped)} steps were skipped of late: going back to {checkpoint.path.name}, and on "
            f"without their batches (way back {self.watch.rollbacks} of {self.options.anomalies.most_rollbacks})"
        )
        if training.world.rank == 0:
            go_back_to(training.run.checkpoints, checkpoint, training.run.guard)
            training.run.cut_metrics(checkpoint.step)
            spans = [{"step": one.step, "positions": [one.start, one.stop]} for one in why.skipped]
            content = {"from_step": why.skipped[-1].step, "to_step": checkpoint.step, "left_out": spans}
            name = f"way-back-{self.watch.rollbacks}.json"
            training.run.write_json(training.run.anomalies / name, content)
        return Start(checkpoint.step, checkpoint.state)

    def account(self) -> Iterator[str]:
        """What rank 0 says at the end: whether its loader kept up, how the device was used, and what to change."""
        stream, compilation = self.training.stream, self.options.compilation
        yield stream.what_binds()
        sentences = [who_decoded(stream.report), self.meter.sentence(), self._advice()]
        sentences.append(None if compilation is None else compilation.sentence())
        if self.watch.overflows > 0:
            sentences.append(f"fp16: {self.watch.overflows} steps were skipped while the loss scale was too large")
        yield from (sentence for sentence in sentences if sentence is not None)

    def _advice(self) -> str | None:
        """What would make the step itself faster, where it binds."""
        on_gpu = self.training.world.device.type == "cuda"
        could = ["--precision bf16"] if on_gpu and self.training.world.precision == "fp32" else []
        could += ["--compile"] if on_gpu and self.options.compilation is None else []
        could += ["a smaller --accumulate, if the memory allows it"] if self.pace.accumulate > 1 else []
        return f"step: to make it faster: {', '.join(could)}" if could else None

    def _check_finite(self, step: int) -> None:
        """No checkpoint may replace a good one by what no run survives."""
        named = {**dict(self.training.model.named_parameters()), **kept_buffers(self.training.model)}
        flags = torch.stack([own_part(tensor.detach()).isfinite().all() for tensor in named.values()]).cpu()
        own = [name for name, flag in zip(named, flags.tolist(), strict=True) if not flag]
        bad = list(dict.fromkeys(self.training.world.gather(own)))  # where sharded, each process sees its part
        if bad:
            raise FloatingPointError(
                f"step {step}: weights are not finite ({', '.join(bad[:3])}); the checkpoints before it are whole. "
                "Lower --optimizer.base-lr or set --optimizer.clip-norm in a new run"
            )
