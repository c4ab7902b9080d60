"""`fit`: from a stream of batches and a closure that gives the loss to trained weights, through any interruption."""

import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext

from pretrain.anomalies import TooManyError
from pretrain.fitting import Fitting
from pretrain.saver import Saver
from pretrain.stop_signals import terminations
from pretrain.training import Ending, Objective, Options, Pace, Start, Training

_EVALUATED = "evaluation_seconds"


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

    Args:
        learning_rate: of the epoch, a fraction counted in positions of the stream; multiplied by a parameter group's
            `lr_scale` where it has one.
        evaluate: called with a step and its epoch after it, on every process; what it returns is logged.

    Raises:
        FloatingPointError: too many losses or gradients are not finite, or a weight is not.
        OutOfMemoryError: a step does not fit the memory.
    """
    with ExitStack() as stack:
        saver = stack.enter_context(Saver(training.run, pace.keeping, writes=training.world.rank == 0))
        terminated = stack.enter_context(terminations())
        stack.push(lambda kind, *_: training.stop_tracking() if kind is not None else None)
        state = Fitting(training, objective, pace, options, saver)
        if "anomalies" in start.state:
            state.watch.load_state(start.state["anomalies"])
        training.model.train()
        state.track(start.step)
        if _owes_evaluation(training, start.step, pace):
            _evaluate(state, start.step, start.state["stream"]["position"], evaluate)
        while True:
            try:
                return _train(state, start, terminated, learning_rate, evaluate)
            except TooManyError as error:
                start = state.go_back(error)


def _train(
    state: Fitting,
    start: Start,
    terminated: Callable[[], bool],
    learning_rate: Callable[[float], float],
    evaluate: Callable[[int, float], dict[str, float]],
) -> Ending:
    training, pace, step = state.training, state.pace, start.step
    world, stream, run, say = training.world, training.stream, training.run, training.console.say
    state.begin(start)
    with training.console.progress(state.last, start=step, every_seconds=10) as progress:
        while (taken := state.take()) is not None:
            step += 1
            world.at(step)
            rate = learning_rate(taken.start / stream.epoch_positions)
            outcome = state.step(step, taken, rate)
            is_last = step == state.last
            if step % pace.log_every == 0 or is_last:
                state.log(step, taken, outcome, rate)
            progress.advance(1, items=stream.batch_size, **state.meter.shown)
            is_asked = world.any(terminated() or (world.rank == 0 and run.stop_requested()))
            state.saver.check()
            if step % pace.checkpoint_steps == 0 or is_last or is_asked:
                state.save(step, taken.stop)
            if is_last or is_asked:
                state.saver.wait()
                for sentence in state.account():
                    say(sentence)
            if is_asked and not is_last:
                say(f"asked to stop: saved step {step}; the same command goes on from there")
                if world.rank == 0:
                    run.clear_stop()
                return Ending("preempted", step)
            if _is_evaluated(step, pace, state.last):
                _evaluate(state, step, taken.stop, evaluate)
    return Ending("done", step)


def _is_evaluated(step: int, pace: Pace, last: int) -> bool:
    return step == last or (pace.evaluate_steps > 0 and step % pace.evaluate_steps == 0)


def _owes_evaluation(training: Training, start: int, pace: Pace) -> bool:
    """Whether the run was interrupted between a checkpoint and the evaluation of that step."""
    if start == 0 or not _is_evaluated(start, pace, start + training.stream.batches_left):
        return False
    is_missing = training.world.rank == 0 and not any(
        _EVALUATED in line for line in training.run.read_metrics() if line["step"] == start
    )
    return training.world.any(is_missing)


def _evaluate(state: Fitting, step: int, position: int, evaluate: Callable[[int, float], dict[str, float]]) -> None:
    training, compilation, begin = state.training, state.options.compilation, time.perf_counter()
    epoch = position / training.stream.epoch_positions
    training.model.eval()
    with nullcontext() if compilation is None else compilation.aside():
        results = evaluate(step, epoch)
    training.model.train()
    seconds = time.perf_counter() - begin
    training.stream.leave_out(seconds)
    state.record({"step": step, "epoch": epoch, **results, _EVALUATED: seconds})
    state.restart()
