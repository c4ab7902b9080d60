"""How often a run has seen each sample: its order computed anew, every position counted, epoch by epoch."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from data_pipeline.ledger import Ledger, count_positions
from data_pipeline.order import Mixture, Order
from data_pipeline.recorded_run import Ingredient, RecordedRun, find_data, find_members, make_orders, read_run
from data_pipeline.sample_facts import look_up
from data_pipeline.survey_config import AuditConfig
from launch.console import Console

_SHOWN = 10


@dataclass(frozen=True)
class PartAudit:
    """One dataset of a run. `samples` that take part have `places` in an epoch: one each, but for classes that are
    balanced. `seen`: how many samples were seen how many times, those that do not decode not at all and those shown
    instead of them once more each time. `substituted` and `withdrawn` name samples by their keys.
    """

    data: str
    split: str
    fingerprint: str
    samples: int
    places: int
    views: int
    whole_epochs: int
    partial: int
    skipped: int
    seen: dict[int, int]
    substituted: tuple[dict[str, Any], ...]
    withdrawn: int
    withdrawn_keys: tuple[str, ...]

    @property
    def statement(self) -> str:
        """What was counted, in one sentence."""
        most = self.views * (self.whole_epochs + (self.partial > 0))
        least = self.views * self.whole_epochs
        if least == most:
            times = "once" if most == 1 else f"{most:,} times"
        else:
            times = f"{least:,} or {most:,} times" if most == least + 1 else f"{least:,} to {most:,} times"
        positions = self.places * self.views
        which = f"{self.samples:,} samples"
        if self.places > self.samples:
            which, times = f"{which} in {self.places:,} places", f"{times} for each of its places"
        epochs = f"{self.whole_epochs:,} whole epochs" if self.whole_epochs != 1 else "1 whole epoch"
        rest = f" + {self.partial:,}/{positions:,} of one" if self.partial else ""
        counts = [f"{count:,} samples {seen:,} times" for seen, count in self.seen.items()]
        counted = ", ".join(counts[:_SHOWN]) + (f", and {len(counts) - _SHOWN} more such" if counts[_SHOWN:] else "")
        less = " (before skipped positions and substitutions)" if self.skipped or self.substituted else ""
        return f"{which}, {epochs}{rest}: every sample was due {times}{less}; seen: {counted}"


@dataclass(frozen=True)
class Audit:
    """Of a whole run. `faults` are sentences, none where all is as it should be.

    `fixed_views`: how many different views of each sample are shown in all; None: new ones in every epoch.
    """

    run: str
    checkpoint: str
    step: int
    position: int
    batch_size: int
    seed: int
    plan: dict[str, Any]
    skipped: tuple[tuple[int, int], ...]
    fixed_views: int | None = None
    parts: tuple[PartAudit, ...] = ()
    faults: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """All of it, and the statements."""
        parts = [asdict(part) | {"statement": part.statement} for part in self.parts]
        return asdict(self) | {"parts": parts, "proven": not self.faults}

    def lines(self) -> list[str]:
        """For people."""
        skipped = sum(stop - start for start, stop in self.skipped)
        found = [
            f"{self.run}, {self.checkpoint}: {self.step:,} steps of {self.batch_size:,}, position {self.position:,}, "
            f"seed {self.seed}"
            + (f", {skipped:,} positions skipped" if skipped else "")
            + ("" if self.fixed_views is None else f", {self.fixed_views:,} fixed views of each sample, in turn")
        ]
        for part in self.parts:
            found.append(f"{part.data} [{part.split}], fingerprint {part.fingerprint[:16]}: {part.statement}")
            for each in part.substituted[:_SHOWN]:
                found.append(
                    f"  {each['key']} does not decode ({each['reason']}): {each['shown']} was shown instead, "
                    f"{each['times']:,} times"
                )
            found += [f"  and {len(part.substituted) - _SHOWN:,} more such"] * (len(part.substituted) > _SHOWN)
            if part.withdrawn:
                keys = ", ".join(part.withdrawn_keys) + (", ..." if part.withdrawn > len(part.withdrawn_keys) else "")
                found.append(f"  {part.withdrawn:,} withdrawn samples were never due: {keys}")
        return found


def audit_run(config: AuditConfig, console: Console) -> Audit:
    """Count what the run's newest checkpoint says that it has consumed; takes 16 bytes of memory for each sample.

    Raises:
        ValueError: no such run, no checkpoint yet, or data that are not there.
        DatasetError: an index is absent or altered.
    """
    run = read_run(config.run)
    plan = run.plan
    result = Audit(
        run=str(run.folder),
        checkpoint=run.checkpoint,
        step=run.step,
        position=run.stream["position"],
        batch_size=run.batch_size,
        seed=run.stream["seed"],
        plan=asdict(plan),
        skipped=tuple(run.skipped),
        fixed_views=run.fixed_views,
    )
    faults = _place_faults(result)
    ingredients = []
    for manifest, expected in zip(find_data(run, config.data), run.stream["fingerprints"], strict=True):
        found = manifest.split(run.split).fingerprint
        if found != expected:
            faults.append(
                f"{manifest.folder} [{run.split}]: fingerprint {found[:16]}, the run's is {expected[:16]}: other data, "
                "or samples were withdrawn since; give the run's own with --data"
            )
            continue
        try:
            members = find_members(manifest, run.split, plan, result.seed, config.members)
        except ValueError as error:
            faults.append(f"{manifest.folder} [{run.split}]: {error}")
            continue
        ingredients.append(Ingredient(manifest, run.split, members))
    if len(ingredients) < len(run.stream["fingerprints"]):
        return _with(result, faults=faults)
    orders = make_orders(ingredients, plan, result.seed)
    ledgers = [Ledger(part, plan.views) for part in ingredients]
    with console.progress(result.position, unit="positions", label="counted", every_seconds=10) as progress:
        count_positions(Mixture(orders, plan), ledgers, result.position, result.skipped, progress.advance)
    parts = []
    for number, (ledger, order) in enumerate(zip(ledgers, orders, strict=True)):
        part, found = _close(run, number, ledger, order)
        parts.append(part)
        faults += found
    return _with(result, parts=parts, faults=faults)


def _close(run: RecordedRun, number: int, ledger: Ledger, order: Order) -> tuple[PartAudit, list[str]]:
    """The findings of a dataset after its last position, and its faults."""
    part = ledger.part
    split = part.manifest.split(part.split)
    total = int(ledger.due.sum() + ledger.this_epoch.sum())
    whole, partial = divmod(total, order.epoch_positions)
    while ledger.epoch < whole:
        ledger.end_epoch()
    ledger.end(partial)
    seen = ledger.due.astype(np.int64) - ledger.skipped
    faults = [f"{part.manifest.folder} [{part.split}]: {fault}" for fault in ledger.faults]
    rows = [
        (sample, other, reason) for dataset, sample, other, reason in run.stream["substitutions"] if dataset == number
    ]
    facts = look_up(part.manifest, part.split, [sample for row in rows for sample in row[:2]])
    substituted = []
    for (sample, other, reason), own, shown in zip(rows, facts[::2], facts[1::2], strict=True):
        times = int(seen[sample])
        if times == 0:
            faults.append(f"{part.manifest.folder}: {own.key} was substituted, but never due")
        if other in split.withdrawn:
            faults.append(f"{part.manifest.folder}: {shown.key} is withdrawn, but was shown instead of {own.key}")
        substituted.append({"key": own.key, "shown": shown.key, "times": times, "reason": reason})
    shown_instead = seen.copy()
    for sample, other, _ in rows:
        shown_instead[sample] -= seen[sample]
        shown_instead[other] += seen[sample]
    takes_part = ledger.expected > 0
    times, samples = np.unique(shown_instead[takes_part], return_counts=True)
    withdrawn = look_up(part.manifest, part.split, list(split.withdrawn[:_SHOWN]))
    return PartAudit(
        data=str(part.manifest.folder),
        split=part.split,
        fingerprint=split.fingerprint,
        samples=int(takes_part.sum()),
        places=order.samples,
        views=ledger.views,
        whole_epochs=whole,
        partial=partial,
        skipped=int(ledger.skipped.sum()),
        seen=dict(zip(times.tolist(), samples.tolist(), strict=True)),
        substituted=tuple(substituted),
        withdrawn=len(split.withdrawn),
        withdrawn_keys=tuple(each.key for each in withdrawn),
    ), faults


def _place_faults(result: Audit) -> list[str]:
    skipped = sum(min(stop, result.position) - start for start, stop in result.skipped if start < result.position)
    consumed = result.step * result.batch_size
    # A run that began with another's checkpoint counts what that one skipped among its own steps.
    if consumed in (result.position, result.position - skipped):
        return []
    return [
        f"{result.checkpoint}: {result.step:,} steps of {result.batch_size:,} are {consumed:,} positions, but the "
        f"stream stands at {result.position:,} with {skipped:,} skipped"
    ]


def _with(result: Audit, *, faults: list[str], parts: list[PartAudit] | None = None) -> Audit:
    return replace(result, parts=tuple(parts or ()), faults=tuple(faults))
