"""Which samples a rank gets in a step: the rows of its part of the batch, computed and not read."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.manifest import read_manifest
from data_pipeline.order import Plan, fixed, lanes_for, rank_positions
from data_pipeline.recorded_run import Ingredient, find_data, find_members, make_mixture, read_members, read_run
from data_pipeline.sample_facts import SampleFacts, look_up
from data_pipeline.survey_config import ExplainConfig
from data_pipeline.text_table import text_table


@dataclass(frozen=True)
class Row:
    """One sample of a batch. `replaced_by`: key of the one shown instead, where the run found it not to decode.

    `view`: of those that an epoch shows of the sample, or, where the run has fixed views, which of these.
    """

    position: int
    dataset: int
    epoch: int
    view: int
    facts: SampleFacts
    replaced_by: str | None


@dataclass(frozen=True)
class Explanation:
    """A rank's part of the batch of a step; the batch is the run positions from `start` to before `stop`.

    `fixed_views`: how many different views of each sample the run shows in all; None: new ones in every epoch.
    """

    step: int
    rank: int
    world: int
    start: int
    stop: int
    seed: int
    plan: Plan
    data: tuple[str, ...]
    split: str
    rows: tuple[Row, ...]
    fixed_views: int | None = None

    def to_json(self) -> dict[str, Any]:
        """One flat object for each row."""
        rows = [
            {
                "position": row.position,
                "dataset": row.dataset,
                "epoch": row.epoch,
                "view": row.view,
                **row.facts._asdict(),
                "replaced_by": row.replaced_by,
            }
            for row in self.rows
        ]
        return asdict(self) | {"rows": rows}

    def table(self) -> str:
        """For people."""
        has_datasets = len(self.data) > 1
        # A view is also a copy of a sample.
        has_views = self.plan.views > 1 or self.fixed_views is not None or any(row.view for row in self.rows)
        has_names = any(row.facts.name is not None for row in self.rows)
        heading = ["position", "epoch", "shard", "row", "key"]
        heading += ["data"] * has_datasets + ["view"] * has_views + ["source"] * has_names + ["class"]
        rows = []
        for row in self.rows:
            facts = row.facts
            more = [self.data[row.dataset]] * has_datasets + [row.view] * has_views
            more += [facts.name or "-"] * has_names + [_class_of(facts)]
            line = [row.position, row.epoch, facts.shard, facts.row, facts.key, *more]
            line[-1] += f"  (does not decode: {row.replaced_by} is shown)" if row.replaced_by else ""
            rows.append(line)
        title = (
            f"step {self.step:,}: positions {self.start:,} to {self.stop:,} of {', '.join(self.data)} [{self.split}], "
            f"seed {self.seed}, {self.plan.lanes:,} lanes; {len(rows):,} of them on rank {self.rank} of {self.world}"
            + ("" if self.fixed_views is None else f"; {self.fixed_views:,} fixed views of each sample, in turn")
        )
        return f"{title}\n\n{text_table(heading, rows)}"


def explain(config: ExplainConfig) -> Explanation:
    """Find the rows that the command line asks for.

    Raises:
        ValueError: no such run or data, data that are not those of the run, or a batch that the ranks cannot share.
        DatasetError: an index or list of names is absent or altered.
    """
    if config.run is not None:
        return _of_run(config, config.run)
    assert config.batch_size is not None
    views = 1 if config.views is None else config.views
    weights = config.weights or (1,) * len(config.data)
    plan = Plan(lanes=lanes_for(16 if config.max_world is None else config.max_world), views=views, weights=weights)
    split, seed = config.split or "train", config.seed or 0
    manifests = [read_manifest(place) for place in config.data]
    members = None if config.members is None else read_members(config.members)
    ingredients = [Ingredient(manifest, split, members) for manifest in manifests]
    return _explain(config, ingredients, _Course(plan, seed, config.batch_size))


def batch_start(step: int, batch_size: int, skipped: Sequence[tuple[int, int]]) -> int:
    """The run position at which the batch of a step (the first is 1) begins, where spans of positions are left out.

    A batch that would reach into a span is not taken; the stream goes on behind the span.
    """
    start, left = 0, step - 1
    for first, stop in sorted(skipped):
        if stop <= start:
            continue
        before = max(0, first - start) // batch_size
        if left < before:
            break
        left -= before
        start = stop
    return start + left * batch_size


def _of_run(config: ExplainConfig, where: str) -> Explanation:
    run = read_run(where)
    manifests = find_data(run, config.data)
    for manifest, expected in zip(manifests, run.stream["fingerprints"], strict=True):
        found = manifest.split(run.split).fingerprint
        if found != expected:
            raise ValueError(
                f"{manifest.folder}: its split {run.split} has the fingerprint {found[:16]}, {where} was trained on "
                f"{expected[:16]}: other data, or samples were withdrawn since; give the run's own with --data"
            )
    plan, seed = run.plan, run.stream["seed"]
    ingredients = [
        Ingredient(manifest, run.split, find_members(manifest, run.split, plan, seed, config.members))
        for manifest in manifests
    ]
    replaced = {(dataset, sample): other for dataset, sample, other, _ in run.stream["substitutions"]}
    course = _Course(plan, seed, run.batch_size, run.skipped, replaced, run.fixed_views)
    return _explain(config, ingredients, course)


class _Course(NamedTuple):
    """What decides which samples come when; `replaced`: (dataset, sample) to the one shown instead."""

    plan: Plan
    seed: int
    batch_size: int
    skipped: Sequence[tuple[int, int]] = ()
    replaced: Mapping[tuple[int, int], int] = MappingProxyType({})
    fixed_views: int | None = None


def _explain(config: ExplainConfig, ingredients: Sequence[Ingredient], course: _Course) -> Explanation:
    plan, seed, batch_size, skipped, replaced, fixed_views = course
    if batch_size % config.world:
        raise ValueError(f"--world {config.world}: so many processes cannot share a batch of {batch_size} equally")
    start = batch_start(config.step, batch_size, skipped)
    positions = rank_positions(start, batch_size, config.rank, config.world)
    locate = make_mixture(ingredients, plan, seed).locate
    located = locate(positions)
    if fixed_views is not None:
        located = located._replace(view=fixed(locate, plan.views, fixed_views, positions).epoch)
    facts: list[SampleFacts | None] = [None] * len(positions)
    instead: list[str | None] = [None] * len(positions)
    for number, part in enumerate(ingredients):
        chosen = np.flatnonzero(located.dataset == number)
        samples = located.sample[chosen].tolist()
        others = [replaced.get((number, sample), sample) for sample in samples]
        found = look_up(part.manifest, part.split, samples + others)
        for place, own, other in zip(chosen.tolist(), found, found[len(samples) :], strict=False):
            facts[place] = own
            instead[place] = None if other.sample == own.sample else other.key
    columns = (positions.tolist(), located.dataset.tolist(), located.epoch.tolist(), located.view.tolist())
    rows = []
    for position, dataset, epoch, view, own, other in zip(*columns, facts, instead, strict=True):
        assert own is not None
        rows.append(Row(position, dataset, epoch, view, own, other))
    return Explanation(
        step=config.step,
        rank=config.rank,
        world=config.world,
        start=start,
        stop=start + batch_size,
        seed=seed,
        plan=plan,
        data=tuple(str(part.manifest.folder) for part in ingredients),
        split=ingredients[0].split,
        rows=tuple(rows),
        fixed_views=fixed_views,
    )


def _class_of(facts: SampleFacts) -> str:
    if facts.label is None:
        return "-"
    return str(facts.label) if facts.class_name is None else f"{facts.label} {facts.class_name}"
