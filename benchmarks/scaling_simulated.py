"""Rows of figures that are simulated: runs with failures, checkpoint intervals, loaders that keep up or do not."""

from dataclasses import replace
from typing import Any

import numpy as np
from scaling_failures import Saving, best_interval, cycle_of, daly, expected_goodput, simulate, young
from scaling_model import save_stall, step
from scaling_plan import Facts, Plan, workload
from scaling_queue import Loader, fewest_workers
from scaling_queue import simulate as simulate_ring
from scaling_setting import CLUSTERS, FAILURE_RATES, REQUEUE_SECONDS, START_SECONDS

SLOWNESS = 1.5
"""Of the one rank whose workers take longer."""
STORED = ("full", "256")
"""How images may be stored: as they are, or with a shorter side of 256 pixels."""
_DAY = 86_400.0
_WORK_DAYS = 30.0  # of a simulated run
_RUNS = 100
_STEPS = 200
_INTERVALS = np.geomspace(5, 20_000, 40)
Row = dict[str, Any]


def _saving(facts: Facts, plan: Plan, gpus: int, *, is_silent: bool) -> tuple[Saving, float, float]:
    """What a checkpoint and a failure cost, the seconds of training between checkpoints, and those of a step."""
    work, cluster = workload(facts, plan), CLUSTERS[0]
    found = step(work, cluster, gpus)
    detect = plan.patience if is_silent else 0.0
    load = work.checkpoint_bytes / cluster.storage_rate
    saving = Saving(
        stall=save_stall(work, cluster, gpus, 1e9, sharded=False),  # the wait for the one before is in the cycle
        write=work.checkpoint_bytes / work.write_rate,
        restart=detect + REQUEUE_SECONDS + START_SECONDS + load,
    )
    return saving, plan.checkpoint_steps * (found.total - found.saving), found.total


def _between(a_node_day: float, gpus: int) -> float:
    return _DAY / (a_node_day * CLUSTERS[0].place(gpus)[0])


def failure_row(facts: Facts, plan: Plan, gpus: int) -> Row:
    """As the recipe saves: goodput at each rate, when a host is lost without a word and when its connections close."""
    silent, interval, seconds = _saving(facts, plan, gpus, is_silent=True)
    hours = workload(facts, plan).steps * seconds / 3600
    told, _, _ = _saving(facts, plan, gpus, is_silent=False)
    cycle, found = cycle_of(interval, silent), {}
    undisturbed = interval / cycle  # that checkpoints hold a run up is in the seconds of a step
    for rate in FAILURE_RATES:
        between = _between(rate.a_node_day, gpus)
        luck = np.random.default_rng(plan.seed)
        outcome = simulate(_WORK_DAYS * _DAY, interval, between, silent, runs=_RUNS, generator=luck)
        found[rate.name] = {
            "between_hours": between / 3600,
            "lost": outcome.lost,
            "goodput": outcome.goodput / undisturbed,
            "closed_form": expected_goodput(interval, between, silent) / undisturbed,
            "told": expected_goodput(interval, between, told) / undisturbed,
            # Of this run, which is shorter than the simulated ones: work done twice, and GPUs that wait for a restart.
            "gpu_hours": hours / (between / 3600) * (outcome.lost + silent.restart) / 3600 * gpus,
        }
    return {
        "gpus": gpus,
        "cycle": cycle,
        "restart": silent.restart,
        "restart_told": told.restart,
        "rates": found,
    }


def interval_row(facts: Facts, plan: Plan, gpus: int) -> Row:
    """The best interval at the highest rate, where it matters most."""
    saving, interval, seconds = _saving(facts, plan, gpus, is_silent=False)
    between = _between(FAILURE_RATES[-1].a_node_day, gpus)
    work = _WORK_DAYS * _DAY
    best, goodput = best_interval(work, between, saving, _INTERVALS.tolist(), runs=_RUNS, seed=plan.seed)

    def at(value: float) -> float:
        return simulate(work, value, between, saving, runs=_RUNS, generator=np.random.default_rng(plan.seed)).goodput

    rule = daly(saving.stall, between)
    return {
        "gpus": gpus,
        "between_hours": between / 3600,
        "stall": saving.stall,
        "write": saving.write,
        "best": best,
        "best_goodput": goodput,
        "best_steps": best / seconds,
        "young": young(saving.stall, between),
        "daly": rule,
        "daly_goodput": at(rule),
        "recipe": interval,
        "recipe_goodput": at(interval),
    }


def loader_row(facts: Facts, plan: Plan, gpus: int) -> Row:
    """Workers that keep up with the GPUs' own pace, at the recipe's batch: by the mean, simulated, with a slow rank."""
    cluster = CLUSTERS[0]
    row: Row = {"gpus": gpus, "workers": cluster.workers()}
    for stored in STORED:
        work = replace(workload(facts, plan, stored), message_seconds=0.0)
        pace = step(work, cluster, gpus)
        seconds = pace.compute + pace.gradients + pace.optimizer
        spread = np.asarray(facts["measured"]["images"][stored]["spread"]) * work.image_seconds
        loader = Loader(gpus, work.batch // gpus, cluster.workers(), seconds)
        slow = replace(loader, slowness=SLOWNESS)
        found = fewest_workers(loader, spread, steps=_STEPS, seed=plan.seed)
        row[stored] = {
            "formula": loader.rows * work.image_seconds / seconds,
            "workers": found,
            "with_a_slow_rank": fewest_workers(slow, spread, steps=_STEPS, seed=plan.seed),
            "fewer": _waiting(loader, found - 1, spread, plan.seed),
        }
    return row


def _waiting(loader: Loader, workers: int, spread: np.ndarray, seed: int) -> float | None:
    """The share of steps that wait with so many workers; None without any."""
    if workers == 0:
        return None
    luck = np.random.default_rng(seed)
    return simulate_ring(replace(loader, workers=workers), spread, steps=_STEPS, generator=luck).steps
