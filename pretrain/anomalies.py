"""Steps whose loss or gradient is not finite: what they were made of, and when they are too many."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from data_pipeline.order import Integers
from data_pipeline.rows import Part
from data_pipeline.sample_facts import look_up
from launch.console import Console
from launch.run_folder import RunFolder
from pretrain.ahead import Taken
from pretrain.anomaly_config import AnomalyConfig
from pretrain.loss_scale import is_least
from pretrain.step import Outcome
from pretrain.world import World

_SHOWN = 3
_Row = tuple[int, int, int, float]  # position, dataset, sample, loss


class Skipped(NamedTuple):
    """A step that was skipped, and the run positions of its batch."""

    step: int
    start: int
    stop: int


class TooManyError(Exception):
    """So many steps were skipped that the run must go back, to before the first of them; raised to the loop."""

    def __init__(self, skipped: tuple[Skipped, ...]) -> None:
        super().__init__(skipped)
        self.skipped = skipped


@dataclass(frozen=True)
class _Noted:
    """A step that nobody has looked at yet; what it computed is still on the device."""

    step: int
    taken: tuple[int, int]
    positions: Integers
    datasets: Integers
    samples: Integers
    outcome: Outcome


class Watch:
    """Notes every step, and looks at them now and then: one look waits for the device once, whatever it finds.

    Args:
        world, run, console: of the run; rank 0 writes `anomalies/step-*.json`.
        parts: the stream's, for the names of samples.
        names: of the parameters, in the order of `Outcome.norms`.
        config: how many are too many.
    """

    def __init__(
        self,
        world: World,
        run: RunFolder,
        console: Console,
        *,
        parts: Sequence[Part],
        names: Sequence[str],
        config: AnomalyConfig,
    ) -> None:
        self._world = world
        self._run = run
        self._console = console
        self._parts = parts
        self._names = names
        self._config = config
        self._noted: list[_Noted] = []
        self._recent: list[Skipped] = []
        self._untold = 0
        self.rollbacks = 0
        self.overflows = 0
        """Steps skipped because the loss scale was too large, as happens in fp16 now and then."""

    def note(self, step: int, taken: Taken, outcome: Outcome) -> None:
        """Remember a step until the next look; waits for nothing."""
        batch = taken.batch
        span = (taken.start, taken.stop)
        self._noted.append(_Noted(step, span, batch.positions, batch.datasets, batch.samples, outcome))

    def look(self) -> None:
        """Describe the steps skipped since the last look. Every process must look, at the same step.

        Raises:
            TooManyError: they have become too many.
            FloatingPointError: they have, after as many ways back as are allowed.
        """
        noted, self._noted = self._noted, []
        if not noted:
            return
        norms = torch.stack([one.outcome.norm for one in noted]).cpu()
        is_too_many = False
        for one, norm in zip(noted, norms.tolist(), strict=True):
            if math.isfinite(norm):
                continue
            self._untold += 1
            self._examine(one, norm)
            if not is_too_many:  # from then on all that follow are left out as well
                first = one.step - self._config.within_steps
                self._recent = [skipped for skipped in self._recent if skipped.step > first]
                is_too_many = len(self._recent) >= self._config.most_skipped
        if is_too_many:
            if self.rollbacks >= self._config.most_rollbacks:
                raise FloatingPointError(self._account())
            raise TooManyError(tuple(self._recent))

    def tell(self) -> int:
        """How many of the steps looked at since this was last asked were skipped."""
        untold, self._untold = self._untold, 0
        return untold

    def went_back(self) -> None:
        """Forget what led to a way back, and count it."""
        self._recent, self._noted, self._untold = [], [], 0
        self.rollbacks += 1

    def state(self) -> dict[str, Any]:
        """For a checkpoint, right after a look."""
        skipped = [list(one) for one in self._recent]
        return {"skipped": skipped, "untold": self._untold, "rollbacks": self.rollbacks}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where a state was taken."""
        self._recent = [Skipped(*skipped) for skipped in state["skipped"]]
        self._untold = state["untold"]
        self.rollbacks = state["rollbacks"]

    def _examine(self, one: _Noted, norm: float) -> None:
        outcome = one.outcome
        losses = outcome.losses.float().cpu().tolist()
        columns = (one.positions.tolist(), one.datasets.tolist(), one.samples.tolist(), losses)
        rows: list[_Row] = sorted(self._world.gather(list(zip(*columns, strict=True))))
        scale = None if outcome.scale is None else outcome.scale.item()
        bad = [row for row in rows if not math.isfinite(row[3])]
        if not bad and not is_least(scale):
            self.overflows += 1
            return
        skipped = Skipped(one.step, *one.taken)
        self._recent.append(skipped)
        if self._world.rank == 0:
            norms = dict(zip(self._names, outcome.norms.float().cpu().tolist(), strict=True))
            self._describe(skipped, rows, bad, norms, {"gradient_norm": _number(norm), "loss_scale": scale})

    def _describe(
        self,
        skipped: Skipped,
        rows: list[_Row],
        bad: list[_Row],
        norms: dict[str, float],
        more: dict[str, Any],
    ) -> None:
        """anomalies/step-*.json: of the images whose own loss is not finite or, where there is none, of the batch."""
        named = self._named(bad or rows)
        again = f"-after-way-back-{self.rollbacks}" if self.rollbacks > 0 else ""  # the same step, of another batch
        path = self._run.anomalies / f"step-{skipped.step:08d}{again}.json"
        path.parent.mkdir(exist_ok=True)
        broken = [name for name, value in norms.items() if not math.isfinite(value)]
        content = {
            "step": skipped.step,
            "positions": [skipped.start, skipped.stop],
            "what_was_done": "the step was skipped: weights and optimizer are as before it",
            **more,
            "images_with_a_loss_that_is_not_finite": len(bad),
            "images": [{**named[row[:3]], "position": row[0], "loss": _number(row[3])} for row in bad or rows],
            "parameters_with_a_gradient_that_is_not_finite": len(broken),
            "gradient_norms": {name: _number(value) for name, value in norms.items()},
        }
        self._run.write_json(path, content)
        if not bad:
            why = "gradient not finite, though the loss of every image is"
        elif len(bad) == len(rows):  # it is hardly the images
            why = f"loss not finite for any of {len(rows):,} images"
        else:
            shown = [named[row[:3]] for row in bad[:_SHOWN]]
            some = ", ".join(f"{facts['key']} of {facts['shard']}" for facts in shown)
            others = f" and {len(bad) - _SHOWN:,} more" if len(bad) > _SHOWN else ""
            why = f"loss not finite for {len(bad):,} of {len(rows):,} images ({some}{others})"
        self._console.say(f"warning: step {skipped.step:,} skipped: {why}; {path}")

    def _named(self, rows: list[_Row]) -> dict[tuple[int, int, int], dict[str, Any]]:
        """What is known of the sample of each row: data, shard, key, name."""
        known: dict[tuple[int, int, int], dict[str, Any]] = {}
        for number, part in enumerate(self._parts):
            own = [row for row in rows if row[1] == number]
            facts = look_up(part.manifest, part.split, [row[2] for row in own])
            for row, fact in zip(own, facts, strict=True):
                known[row[:3]] = {"data": str(part.manifest.folder), "split": part.split, **fact._asdict()}
        return known

    def _account(self) -> str:
        first, last = self._recent[0].step, self._recent[-1].step
        return (
            f"losses or gradients of {len(self._recent):,} steps from {first:,} to {last:,} are not finite, after "
            f"{self.rollbacks} ways back to a checkpoint; {self._run.anomalies} says of which images and parameters. "
            "Withdraw images that are to blame (data_pipeline/survey.py withdraw), or lower --optimizer.base-lr, set "
            "--optimizer.clip-norm or give --precision bf16 or fp32 in a new run; the checkpoints before are whole"
        )


def _number(value: float) -> float | str:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else str(value)
