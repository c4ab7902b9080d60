"""What the doctor finds: each a verdict on one thing, with what was measured, what is needed, and what to change."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """A problem keeps the run from working; a warning makes it slower than need be, or is what could not be checked.

    measured: says on what, where another machine would have another value. needed: "" where nothing in particular is.
    fix: what to change; "" where all is well.
    """

    verdict: Verdict
    what: str
    measured: str
    needed: str = ""
    fix: str = ""

    def __post_init__(self) -> None:
        assert self.verdict == "ok" or self.fix, self


def works(findings: Sequence[Finding]) -> bool:
    """Whether there is no problem among them."""
    return all(finding.verdict != "problem" for finding in findings)


def findings_table(findings: Sequence[Finding]) -> str:
    """A finding a line; below it what to change, where there is anything."""
    width = max(len(finding.what) for finding in findings)
    lines = []
    for one in findings:
        needed = f"; needed: {one.needed}" if one.needed else ""
        lines.append(f"{one.verdict:7}  {one.what:{width}}  {one.measured}{needed}")
        if one.fix:
            lines.append(f"{'':7}  {'':{width}}  to change: {one.fix}")
    return "\n".join(lines)


def conclusion(findings: Sequence[Finding]) -> str:
    """One sentence: whether the run would work."""
    problems = sum(finding.verdict == "problem" for finding in findings)
    warnings = sum(finding.verdict == "warning" for finding in findings)
    verdict = "not work" if problems else "work"
    return f"the run would {verdict}: {counted(problems, 'problem')}, {counted(warnings, 'warning')}"


def counted(count: int, name: str) -> str:
    """`1 process`, `1,024 processes`: a number of things with their name, which is given in the singular."""
    plural = "" if count == 1 else "es" if name.endswith("s") else "s"
    return f"{count:,} {name}{plural}"


def told_bytes(size: int | float) -> str:
    """A number of bytes as people read it."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:,.{0 if size >= 100 * unit else 1}f} {name}"
    return f"{size:,.0f} bytes"
