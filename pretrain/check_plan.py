"""Whether batch, processes, lanes, blocks and epochs of a planned run fit each other, and which to change to what."""

from math import ceil, gcd

from data_pipeline.blocks import bounds_of
from data_pipeline.location import RemotePath
from data_pipeline.order import lanes_for
from pretrain.findings import Finding, counted, told_bytes
from pretrain.planned_run import PlannedRun

MOST_RANKS = 512
"""As `lanes_for` knows them."""
_SMALL_BLOCK = 1_000_000  # bytes: below it a store's answer takes longer than the bytes do


def check_plan(planned: PlannedRun, processes: int) -> list[Finding]:
    """All of these checks, of a run by so many processes."""
    config, plan = planned.config, planned.plan
    batch, max_world = config.batch_size, config.max_world
    splits = [part.manifest.split(part.split) for part in planned.parts]
    blocks = sum(len(bounds_of(split, plan)) - 1 for split in splits)
    size = sum(split.bytes for split in splits)
    is_remote = any(isinstance(part.manifest.tars, RemotePath) for part in planned.parts)
    findings = [judge_batch(batch, processes, config.accumulate)]
    if findings[0].verdict == "ok":
        try:
            planned.check_pairs(batch, processes)
        except ValueError as error:
            findings = [Finding("problem", "batch", f"{batch:,} images, mixed in pairs", "", str(error))]
    return [
        *findings,
        judge_lanes(processes, max_world),
        judge_blocks(planned.samples, size, blocks, plan.lanes, is_remote=is_remote, max_world=max_world),
        judge_steps(planned.samples * plan.views, batch, config.epochs),
    ]


def fitting_batch(planned: PlannedRun, processes: int) -> int:
    """The run's batch or, where its processes cannot share that, the nearest that they can."""
    batch = planned.config.batch_size
    sizes = (batch, *nearest_batches(batch, processes), *nearest_batches(batch, 2 * processes))
    for size in sizes:
        try:
            planned.check_pairs(size, processes)
        except ValueError:
            continue
        if size % processes == 0:
            return size
    return sizes[-1]


def nearest_batches(batch: int, unit: int) -> tuple[int, ...]:
    """The nearest sizes, below and above, that a unit of so many images divides; the smaller first."""
    below = batch // unit * unit
    return tuple(size for size in (below, below + unit) if size > 0)


def read_factor(processes: int, lanes: int) -> int:
    """How often a byte is read in an epoch, at most, by all processes together."""
    return processes // gcd(processes, lanes)


def judge_batch(batch: int, processes: int, accumulate: int) -> Finding:
    """Whether the processes can share a global batch equally, and cut their shares into so many pieces."""
    rows, rest = divmod(batch, processes)
    what = "batch"
    if rest:
        near = " or ".join(f"--batch-size {size}" for size in nearest_batches(batch, processes))
        return Finding(
            "problem",
            what,
            f"{batch:,} images for {counted(processes, 'process')}",
            f"a multiple of {processes:,}",
            near,
        )
    share = f"{batch:,} = {processes:,} x {rows:,}"
    if accumulate > rows:
        fix = f"--accumulate {rows}" + (" or a larger --batch-size" if rows == 1 else " or less")
        return Finding("problem", what, f"{share}, in {accumulate:,} pieces each", f"at most {rows:,} pieces", fix)
    pieces = "" if accumulate == 1 else f", in {accumulate:,} pieces of {ceil(rows / accumulate):,} at most"
    return Finding("ok", what, f"{share}{pieces}")


def judge_lanes(processes: int, max_world: int) -> Finding:
    """Whether each byte is read once an epoch: where the processes divide the lanes."""
    lanes = lanes_for(max_world)
    factor = read_factor(processes, lanes)
    what, measured = "lanes", f"{lanes:,} lanes (--max-world {max_world}) for {counted(processes, 'process')}"
    if factor == 1:
        return Finding("ok", what, f"{measured}: every byte read once an epoch")
    most = lanes_for(min(processes, MOST_RANKS))
    if most % processes == 0:
        fix = f"--max-world {processes} (it decides the order: of a new run only)"
    else:
        lanes_then = max(lanes, most)
        below = next(size for size in range(processes - 1, 0, -1) if lanes_then % size == 0)
        above = next((size for size in range(processes + 1, 2 * processes + 1) if lanes_then % size == 0), None)
        option = f" with --max-world {min(above or processes, MOST_RANKS)}" if most > lanes else ""
        fix = f"{' or '.join(f'{size:,}' for size in (below, above) if size)} processes{option}"
    return Finding(
        "warning", what, f"{measured}: bytes read up to {factor} times", "processes that divide the lanes", fix
    )


def judge_blocks(samples: int, size: int, blocks: int, lanes: int, *, is_remote: bool, max_world: int) -> Finding:
    """Whether the data, `size` bytes of so many samples, are enough for the lanes."""
    what, measured = "blocks", f"{samples:,} images in {blocks:,} blocks of {told_bytes(size / blocks)} for {lanes:,}"
    measured += " lanes"
    smaller = "--max-world 16" if max_world > 16 else "more images"
    if samples < lanes:
        return Finding("warning", what, f"{measured}: some stay empty", f"{lanes:,} images", smaller)
    if is_remote and size / blocks < _SMALL_BLOCK:
        needed = f"requests of {told_bytes(_SMALL_BLOCK)} at least"
        fix = f"{smaller}, SHERD_CACHE on a local disk, or a copy of the dataset on one"
        return Finding("warning", what, f"{measured}, each a request", needed, fix)
    return Finding("ok", what, measured)


def judge_steps(positions: int, batch: int, epochs: float) -> Finding:
    """How many steps the epochs come to; positions are those of an epoch."""
    steps = ceil(epochs * positions / batch)
    measured = f"{epochs:g} epochs of {positions:,} in {steps:,} steps of {batch:,}"
    if batch > positions:
        return Finding(
            "warning",
            "steps",
            f"{measured}: a batch shows images more than once",
            "a batch of an epoch at most",
            f"a --batch-size of {positions:,} or less",
        )
    over = steps * batch - epochs * positions
    return Finding("ok", "steps", measured + (f"; the last reaches {over:,.0f} images further" if over else ""))
