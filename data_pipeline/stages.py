"""Where the time of a stream goes, and which stage binds: what more of would make it faster, and what would not."""

from dataclasses import dataclass

from data_pipeline.rows import FillReport
from data_pipeline.text_table import text_table

_WORKERS_BUSY = 0.85  # of their time: above it they are what is waited for
_WAITS = 0.05  # of the time: below it the stream keeps up

# Stages of the workers, in the order in which a sample goes through them, and what to change where one binds.
_ADVICE = {
    "read": "a faster disk; for a store SHERD_CACHE on a local disk",
    "decode": "more --workers where there are cores; shards written again with a smaller --short-side; --cache "
    "memory where all images fit",
    "resize": "more --workers where there are cores; shards written at about the size that is shown",
    "augment": "more --workers where there are cores; a cheaper policy",
    "write": "more --workers where there are cores",
    "other": "more --workers where there are cores",
}


@dataclass(frozen=True)
class Stages:
    """Microseconds an image, by stage.

    workers: of the processes that fill rows, summed over them; `other` is what lies between the stages. here: of the
    process that uses the batches: `order` (which samples come next), `wait` (for rows not filled yet), `collate`
    (copies them out of the ring) and `step` (between two batches: copies to the device, training).
    images_per_second: of this process. busy: share of the workers' time in which they had something to do.
    """

    workers: dict[str, float]
    here: dict[str, float]
    images_per_second: float
    busy: float

    def table(self) -> str:
        """As text, a stage a line, with its share of the workers' or of this process's time."""
        rows = []
        for where, times in (("workers", self.workers), ("this process", self.here)):
            total = sum(times.values()) or 1.0
            rows += [(where, stage, f"{value:.1f}", f"{value / total:.0%}") for stage, value in times.items()]
        return text_table(("where", "stage", "us/image", "share"), rows)


def stages_of(report: FillReport, workers: int) -> Stages:
    """The stages of what a stream reported; `workers`: its processes, 0 where it fills rows itself."""
    images = max(1, report.rows)
    by_worker = {name: getattr(report, f"{name}_seconds") / images * 1e6 for name in _ADVICE if name != "other"}
    by_worker["other"] = max(0.0, report.fill_seconds / images * 1e6 - sum(by_worker.values()))
    wall = report.order_seconds + report.wait_seconds + report.collate_seconds + report.consumer_seconds
    here = {
        "order": report.order_seconds / images * 1e6,
        "wait": report.wait_seconds / images * 1e6,
        "collate": report.collate_seconds / images * 1e6,
        "step": report.consumer_seconds / images * 1e6,
    }
    busy = sum(by_worker.values()) * images / 1e6 / (wall * max(1, workers)) if wall else 0.0
    return Stages(by_worker, here, images / wall if wall else 0.0, busy)


def what_binds(report: FillReport, workers: int) -> str:
    """One sentence: the stage that binds, by how much, and what to change."""
    stages = stages_of(report, workers)
    here = sum(stages.here.values()) or 1.0
    waits = stages.here["wait"] / here
    filling = sum(stages.workers.values())
    rate = f"data: {stages.images_per_second:,.0f} images/s; waited for {waits:.1%} of the time"
    if waits < _WAITS:
        could = f", which could give {max(1, workers) * 1e6 / filling:,.0f} images/s" if filling else ""
        return f"{rate}: the step binds, not the loader{could}"
    if report.on_device:
        return (
            f"{rate}: making views on the device binds, or what keeps the device busy; to change: --cache memory with "
            "--workers where cores are idle"
        )
    if workers > 0 and stages.busy < _WORKERS_BUSY:
        own = max(("order", "collate"), key=lambda name: stages.here[name])
        return (
            f"{rate} while workers were busy for {stages.busy:.0%} of it: this process binds, most of it in {own}, or "
            f"the machine has too few cores for {workers} workers beside it"
        )
    stage = max(stages.workers, key=lambda name: stages.workers[name])
    share = stages.workers[stage] / filling if filling else 0.0
    return f"{rate}: {stage} binds, {share:.0%} of the loader's work; to change: {_ADVICE[stage]}"


def who_decoded(report: FillReport) -> str | None:
    """One sentence on images that libjpeg-turbo did not decode; None where there were none."""
    if report.by_pillow == 0:
        return None
    share = report.by_pillow / report.rows
    return (
        f"data: Pillow decoded {report.by_pillow:,} of {report.rows:,} images ({share:.1%}), which are no JPEGs or are "
        "printed in inks: it takes three to four times as long as libjpeg-turbo does for JPEG"
    )
