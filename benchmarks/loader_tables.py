"""From raw rounds to tables: medians, ratios within a round, and whether targets were met. Plain text and numbers."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from loader_contenders import BASES, CONTENDERS, CORE, FULL, READING, SMALL, SMALL_READING, TARGETS, Target

Round = Mapping[str, Mapping[str, Any]]
"""What was measured of each contender that was there, by name."""

HEADINGS = {
    CORE: "per core: from bytes in memory to the pixels of a crop, the same boxes for all; "
    "256: stored at short side 256, quality 90",
    READING: "reading alone: one process, from tars to bytes",
    SMALL_READING: "reading alone, small images",
    FULL: "end to end, shuffled batches; 256: stored at short side 256, quality 90",
    SMALL: "end to end, small images",
}
_MORE = {CORE: ["grey levels from Pillow"], READING: ["MB/s"], SMALL_READING: ["MB/s"]}
_MOST_SPREAD = 1.3  # of the greatest over the least
_STAGES = ("read", "decode", "resize", "augment", "write", "other", "order", "wait", "collate", "step", "transfer")


class Spread(NamedTuple):
    """The median, least and greatest of some numbers."""

    median: float
    least: float
    greatest: float

    def text(self) -> str:
        """`2.05 (1.98 to 2.11)`; whole numbers from a hundred on."""
        digits = 0 if self.median >= 100 else 2
        return f"{self.median:,.{digits}f} ({self.least:,.{digits}f} to {self.greatest:,.{digits}f})"


def spread(values: Sequence[float]) -> Spread:
    """Of at least one number."""
    return Spread(median(values), min(values), max(values))


def values_of(rounds: Sequence[Round], name: str, field: str = "images_per_second") -> list[Any]:
    """What was measured of a contender, round by round, where it was."""
    return [one[name][field] for one in rounds if one.get(name, {}).get(field) is not None]


def ratios(rounds: Sequence[Round], name: str, base: str) -> list[float]:
    """How many times as fast as `base` a contender was in each round that has both."""
    both = [one for one in rounds if values_of([one], name) and values_of([one], base)]
    return [one[name]["images_per_second"] / one[base]["images_per_second"] for one in both]


def group_table(group: str, rounds: Sequence[Round], absent: Mapping[str, str]) -> str:
    """One table: rate, ratio to the base of the group, and what else is known of its contenders.

    absent: why a contender could not be measured, or no longer, by name.
    """
    base = BASES[group]
    heading = ["", "images/s", f"times {base}"]
    heading += _MORE.get(group, ["delivers", "imports", "first batch"])
    rows = []
    for contender in (contender for contender in CONTENDERS if contender.group == group):
        name = contender.name
        rates = values_of(rounds, name)
        if rates:
            compared = ratios(rounds, name, base)
            row = [contender.title, f"{median(rates):,.0f}", spread(compared).text() if compared else "-"]
            rows.append([*row, *_details(group, rounds, name), absent.get(name, "")])
        elif name in absent:
            rows.append([contender.title, *["-"] * (len(heading) - 1), absent[name]])
    return f"{HEADINGS[group]}\n{aligned([*heading, ''], rows)}" if rows else ""


def _details(group: str, rounds: Sequence[Round], name: str) -> list[str]:
    if group == CORE:
        levels = values_of(rounds, name, "grey_levels_from_pillow")
        return [f"{median(levels):.2f}" if levels else "-"]
    if group in (READING, SMALL_READING):
        return [f"{median(values_of(rounds, name, 'bytes_per_second')) / 1e6:,.0f}"]
    delivers = next(one[name]["delivers"] for one in rounds if name in one)
    seconds = (median(values_of(rounds, name, field)) for field in ("import_seconds", "first_batch_seconds"))
    return [delivers, *(f"{value:.1f} s" for value in seconds)]


def target_table(rounds: Sequence[Round]) -> str:
    """What is asked for, what was measured, and whether that is enough: the median decides."""
    rows = []
    for target in TARGETS:
        found = outcome(rounds, target)
        if found is not None:
            unit = f"times {target.base}" if target.base else "s to the first batch" if target.limit else "images/s"
            asked = f"{'at most' if target.limit else 'at least'} {target.bound:,g} {unit}"
            verdict = "met" if is_met(rounds, target) else "NOT MET"
            if is_noisy(found):
                verdict += ", but rounds differ too much to tell: measure on a quiet machine"
            rows.append([target.contender, target.word, asked, found.text(), verdict])
    return f"targets\n{aligned(['', '', 'asked for', 'measured', ''], rows)}" if rows else ""


def outcome(rounds: Sequence[Round], target: Target) -> Spread | None:
    """What was measured of what a target asks for; None where it was not."""
    if target.base is not None:
        found = ratios(rounds, target.contender, target.base)
    else:
        found = values_of(rounds, target.contender, target.limit or "images_per_second")
    return spread(found) if found else None


def is_noisy(found: Spread) -> bool:
    """Whether rounds differ by so much that their median says little."""
    return found.greatest > _MOST_SPREAD * found.least


def is_met(rounds: Sequence[Round], target: Target) -> bool:
    """Whether the median over the rounds is enough; False where nothing was measured."""
    found = outcome(rounds, target)
    if found is None:
        return False
    return found.median <= target.bound if target.limit else found.median >= target.bound


def stage_table(rounds: Sequence[Round]) -> str:
    """Where the time of our own loaders goes, microseconds an image, medians; and below it what binds each."""
    rows, binds = [], []
    for contender in CONTENDERS:
        found = values_of(rounds, contender.name, "stages")
        if not found:
            continue
        sums = {**found[0]["workers"], **found[0]["here"]}
        middle = {stage: median({**one["workers"], **one["here"]}[stage] for one in found) for stage in sums}
        row = [f"{middle[stage]:,.1f}" if stage in middle else "-" for stage in _STAGES]
        rows.append([contender.name, *row, f"{median(one['busy'] for one in found):.0%}"])
        typical = sorted(found, key=lambda one: one["images_per_second"])[len(found) // 2]
        binds.append(f"{contender.name}: {typical['binds']}")
    heading = (
        "where our time goes, us/image: from read to other in all workers, the others in the process that uses the\n"
        "batches (step: between two of them); busy: share of the workers' time in use"
    )
    return "\n".join([heading, aligned(["", *_STAGES, "busy"], rows), *binds]) if rows else ""


def aligned(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need to be, those of numbers to the right."""
    lines = [list(heading), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heading))]
    right = [all(_is_number(row[column]) for row in rows) for column in range(len(heading))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if is_right else text.ljust(width)
            for text, width, is_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def _is_number(text: str) -> bool:
    return text == "-" or text[:1].isdigit()
