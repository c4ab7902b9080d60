"""`fit`: from a stream of batches and a closure that gives the loss to trained weights, through any interruption."""

import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext

from pretrain.anomalies import TooManyError
from pretrain.checkpoint import newest_step
from pretrain.fitting import Fitting
from pretrain.saver import Saver
from pretrain.selection import EVALUATED
from pretrain.stall_watch import StallWatch
from pretrain.stop_signals import terminations
from pretrain.training import Ending, Objective, Options, Pace, Start, Training
from pretrain.world import steps_between_questions


def fit(
    training: Training,
    objective: Objective,
    pace: Pace,
    options: Options,
    *,
    learning_rate: Callable[[float], float],
    evaluate: Callable[[int, float], dict[str, float]],
    start: Start,
) -> Ending:
    """Train from a start to the end, or until asked to stop by TERM, Ctrl-C or a file `stop` in the run folder.

    With `options.selection` the end may come early, at once in a run that ended so. With `training.average` that is
    what is evaluated, in the model's place; the model has its own weights again when this returns.

    Args:
        learning_rate: of the epoch, a fraction counted in positions of the stream; multiplied by a parameter group's
            `lr_scale` where it has one.
        evaluate: called with a step and its epoch after it, on every process; what it returns is logged and, on
            rank 0, compared.

    Raises:
        FloatingPointError: too many losses or gradients are not finite, or a weight is not.
        ValueError: the evaluation does not give what the best checkpoint is to be chosen by.
        OutOfMemoryError: a step does not fit the memory.
    """
    world, compiles = training.world, options.compilation is not None
    world.place.step, world.place.stage = start.step, "start"
    with ExitStack() as stack:
        watch = StallWatch(world, training.run, training.console, loader=training.stream.busy, compiles=compiles)
        stack.enter_context(watch)
        saver = stack.enter_context(Saver(training.run, pace.keeping, writes=world.rank == 0))
        terminated = stack.enter_context(terminations())
        stack.push(lambda kind, *_: training.stop_tracking() if kind is not None else None)
        state = Fitting(training, objective, pace, options, saver)
        if "anomalies" in start.state:
            state.watch.load_state(start.state["anomalies"])
        training.model.train()
        state.track(start.step)
        state.stand(start.step)
        if _owes_evaluation(state, start.step):
            position = start.state["stream"]["position"]
            if _lacks_checkpoint(state, start.step):
                state.save(start.step, position)
            _evaluate(state, start.step, position, evaluate)
        while True:
            try:
                ending = _train(state, start, terminated, learning_rate, evaluate)
            except TooManyError as error:
                start = state.go_back(error)
            else:
                world.place.stage = "end"
                return ending


def _train(
    state: Fitting,
    start: Start,
    terminated: Callable[[], bool],
    learning_rate: Callable[[float], float],
    evaluate: Callable[[int, float], dict[str, float]],
) -> Ending:
    training, pace, step = state.training, state.pace, start.step
    world, stream, run, say = training.world, training.stream, training.run, training.console.say
    if (why := state.why_over(step)) is not None:
        say(why)
        return Ending("done", step, stopped_early=True)
    state.begin(start)
    with training.console.progress(state.last, start=step, every_seconds=10) as progress:
        while (taken := state.take()) is not None:
            step += 1
            world.at(step)
            rate = learning_rate(taken.start / stream.epoch_positions)
            outcome = state.step(step, taken, rate)
            is_last = step == state.last
            is_evaluated = _is_evaluated(step, pace, state.last)
            if step % pace.log_every == 0 or is_last:
                state.log(step, taken, outcome, rate)
            progress.advance(1, items=stream.batch_size, **state.meter.shown)
            world.place.stage = "wait"
            is_asked = (is_last or step % steps_between_questions(world.size) == 0) and world.any(
                terminated() or (world.rank == 0 and run.stop_requested())
            )
            state.saver.check()
            is_chosen_from = is_evaluated and state.options.selection is not None
            if step % pace.checkpoint_steps == 0 or is_last or is_asked or is_chosen_from:
                state.save(step, taken.stop)
            if is_last or is_asked:
                state.saver.wait()
                _tell(state)
            if is_asked and not is_last:
                say(f"asked to stop: saved step {step}; the same command goes on from there")
                if world.rank == 0:
                    run.clear_stop()
                return Ending("preempted", step)
            if is_evaluated:
                _evaluate(state, step, taken.stop, evaluate)
                if (why := state.why_over(step)) is not None:
                    state.saver.wait()
                    _tell(state)
                    say(why)
                    return Ending("done", step, stopped_early=True)
    return Ending("done", step)


def _tell(state: Fitting) -> None:
    for sentence in state.account():
        state.training.console.say(sentence)


def _is_evaluated(step: int, pace: Pace, last: int) -> bool:
    return step == last or (pace.evaluate_steps > 0 and step % pace.evaluate_steps == 0)


def _owes_evaluation(state: Fitting, start: int) -> bool:
    """Whether the run was interrupted between a checkpoint and the evaluation of that step."""
    training = state.training
    if start == 0 or not _is_evaluated(start, state.pace, state.last):
        return False
    is_missing = training.world.rank == 0 and not any(
        EVALUATED in line for line in training.run.read_metrics() if line["step"] == start
    )
    return training.world.any(is_missing)


def _lacks_checkpoint(state: Fitting, start: int) -> bool:
    """Whether the run chooses among its own checkpoints, and goes on from one of another run."""
    training = state.training
    if state.options.selection is None:
        return False
    return training.world.any(training.world.rank == 0 and newest_step(training.run.checkpoints) != start)


def _evaluate(state: Fitting, step: int, position: int, evaluate: Callable[[int, float], dict[str, float]]) -> None:
    training, compilation, begin = state.training, state.options.compilation, time.perf_counter()
    training.world.place.stage = "evaluate"
    epoch = position / training.stream.epoch_positions
    state.align()
    training.model.eval()
    with (
        nullcontext() if compilation is None else compilation.aside(),
        nullcontext() if training.average is None else training.average.in_place(training.model),
    ):
        results = evaluate(step, epoch)
    training.model.train()
    seconds = time.perf_counter() - begin
    training.stream.leave_out(seconds)
    state.record({"step": step, "epoch": epoch, **results, EVALUATED: seconds})
    state.judge(step, results)
    state.restart()
