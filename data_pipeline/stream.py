"""The stream: every sample exactly once an epoch, the same batches on any number of ranks and workers, from any step.

Usable alone, in anyone's loop: `for batch in Stream(...)`, or through `DataLoader(stream, batch_size=None)`.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from math import ceil, gcd
from typing import Any, Literal

import torch
from torch.utils.data import IterableDataset, get_worker_info

from data_pipeline.augment import Views, WholeView
from data_pipeline.batch import Batch
from data_pipeline.batch_spans import BatchSpans
from data_pipeline.decoded import decode_all
from data_pipeline.device_filling import DeviceFilling
from data_pipeline.filling import PooledFilling
from data_pipeline.jobs import Job, locate_batches
from data_pipeline.location import RemotePath
from data_pipeline.manifest import sample_starts
from data_pipeline.order import Integers, Mixture, Order, Plan, fixed, rank_positions
from data_pipeline.rows import FillReport, Part, layout_of
from data_pipeline.stages import Stages, stages_of, what_binds
from data_pipeline.substitutions import Substitutions

_Opens = Callable[..., PooledFilling | DeviceFilling]


class Stream(IterableDataset[Batch]):
    """Batches of one split, or of a mixture, for one rank.

    Args:
        parts: the splits, one for each of the plan's weights.
        view: how a sample becomes pixels: one view, or a `MultiView`.
        batch_size: of the global batch: samples over all ranks.
        seed: of order and augmentations.
        plan: lanes, blocks, views, weights.
        members: for each part the sorted sample numbers that take part, each as often as it has places in an epoch;
            None for all.
        rank, world: this process and how many there are.
        workers: processes that decode; 0 decodes in this one.
        prefetch: batches filled ahead of their use.
        epochs: where iteration ends: ceil(epochs N / batch_size) batches; None for never.
        pin_memory: hand out page-locked tensors, for asynchronous copies to a GPU.
        say: is told of a worker that keeps a batch waiting, and with which sample; by default a warning is given.
        patience: seconds of waiting after which it is told, and again after twice as long each time.
        cache: "memory" decodes all images once, into the memory of this machine; "device" also keeps them on `device`
            and makes views there; "none" decodes each time. The views are the same to the bit.
        device: where `cache="device"` keeps images and hands out batches.
        fixed_views: show no more than so many different views of each sample, in turn; see `order.fixed`.

    Raises:
        ValueError: a batch that the ranks cannot share equally, weights that do not fit the parts, empty parts, parts
            with different channels or types of pixels, a policy that cannot change such pixels, fixed views of samples
            with several places.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        view: Views,
        *,
        batch_size: int,
        seed: int,
        plan: Plan | None = None,
        members: Sequence[Integers | None] | None = None,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        prefetch: int = 3,
        epochs: float | None = None,
        pin_memory: bool = False,
        say: Callable[[str], None] | None = None,
        patience: float = 60.0,
        cache: Literal["none", "memory", "device"] = "none",
        device: torch.device | str = "cpu",
        fixed_views: int | None = None,
    ) -> None:
        if batch_size % world or batch_size < 1:
            near = max(world, batch_size // world * world)
            raise ValueError(
                f"--batch-size {batch_size} is not divisible by {world} processes; "
                f"the nearest that are: {near}, {near + world}"
            )
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank}: expected 0 to {world - 1}")
        self.plan = plan or Plan()
        self._splits = [part.manifest.split(part.split) for part in parts]
        members = members or [None] * len(parts)
        orders = [
            Order(
                split.table.samples,
                split.table.bytes,
                fingerprint=split.fingerprint,
                plan=self.plan,
                seed=seed,
                members=chosen,
                withdrawn=split.withdrawn,
            )
            for split, chosen in zip(self._splits, members, strict=True)
        ]
        self._order = Mixture(orders, self.plan)
        self._has_copies = any(order.has_copies for order in orders)
        if fixed_views is not None and fixed_views < 1:
            raise ValueError(f"fixed_views {fixed_views}: expected at least 1, or None for new views in every epoch")
        if fixed_views is not None and self._has_copies:
            raise ValueError(
                f"fixed_views {fixed_views}: expected members that have one place in an epoch each, and some have "
                "several; name each once, or leave fixed_views out"
            )
        self._fixed_views = fixed_views
        if cache != "none" and isinstance(view, WholeView):
            raise ValueError(
                f"--cache {cache} keeps images as libjpeg-turbo decodes them for crops, and {view} takes them from "
                "Pillow; use --cache none"
            )
        layout_of(parts, view, batch_size // world)  # refuses what does not go together, before anything is started
        self._starts = [sample_starts(split) for split in self._splits]
        self.parts = tuple(parts)
        self._batch_size = batch_size
        self._seed = seed
        self._rank, self._world = rank, world
        self._workers = workers
        rows = batch_size // world
        decode = partial(decode_all, parts, members, threads=max(1, workers))
        if cache == "device":
            self._open_filling: _Opens = partial(
                DeviceFilling, parts, view, seed, decode, device=device, members=members
            )
        else:
            self._open_filling = partial(
                PooledFilling,
                parts,
                view,
                seed,
                decode if cache == "memory" else None,
                plan=self.plan,
                world=world,
                rows=rows,
                workers=workers,
                prefetch=prefetch,
                pin_memory=pin_memory,
                say=say,
                patience=patience,
            )
        self._filling: PooledFilling | DeviceFilling | None = None
        self._spans = BatchSpans(batch_size, None if epochs is None else self.steps(epochs) * batch_size)
        self._position = 0
        self._substitutions = Substitutions(self._splits)
        self.report = FillReport()

    @property
    def epoch_positions(self) -> int:
        """Positions in an epoch: samples times views, over all parts."""
        return self._order.epoch_positions

    @property
    def batch_size(self) -> int:
        """Of the global batch: samples over all ranks."""
        return self._batch_size

    @property
    def position(self) -> int:
        """t: the run position after the last batch handed out, the same on all ranks."""
        return self._position

    @property
    def read_factor(self) -> float:
        """How often a block is read in an epoch, by all ranks together."""
        return self._world / gcd(self._world, self.plan.lanes)

    def explain(self, say: Callable[[str], None]) -> None:
        """Tell what a user would want to know of this world and these members: bytes that are read more than once."""
        if self.read_factor > 1:
            say(
                f"note: {self._world} processes do not divide the {self.plan.lanes} lanes of this run, so bytes are "
                f"read up to {self.read_factor:g} times; samples and their order are the same"
            )
        if self._has_copies and any(isinstance(part.manifest.tars, RemotePath) for part in self.parts):
            size = sum(split.bytes for split in self._splits) * 4 // 3  # a cache keeps a quarter of it free
            say(
                "note: images that have several places in an epoch are read anew for each: let SHERD_CACHE name a "
                f"folder on a local disk, and SHERD_CACHE_BYTES be at least {size}"
            )

    def steps(self, epochs: float) -> int:
        """Global batches in so many epochs: the last may reach into the next epoch."""
        return ceil(epochs * self.epoch_positions / self._batch_size)

    def skip(self, start: int, stop: int) -> None:
        """Leave out the run positions from `start` to `stop`: whole batches, on every rank alike."""
        self._spans.skip(start, stop, self._position)

    @property
    def batches_left(self) -> int:
        """Batches still to be handed out. Raises ValueError for a stream without an end."""
        return self._spans.left(self._position)

    def state(self) -> dict[str, Any]:
        """Everything a resumed stream needs, for JSON. Only `substitutions` can differ between ranks: merge them."""
        # Left out where there is no such number, as in the states of before there could be one.
        fixed = {} if self._fixed_views is None else {"fixed_views": self._fixed_views}
        return {
            "fingerprints": [split.fingerprint for split in self._splits],
            "plan": asdict(self.plan) | {"weights": list(self.plan.weights)},
            "seed": self._seed,
            "position": self._position,
            "substitutions": self._substitutions.to_json(),
            "skipped": [list(span) for span in self._spans.skipped],
            **fixed,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where a state was taken, on this rank of this world, whatever world took it.

        Raises:
            ValueError: the state is of other data, another plan or another seed.
        """
        own = self.state()
        for name, why in (
            ("fingerprints", "the dataset is another one than the run was begun with: give its folder with --data"),
            ("plan", "the order would differ: give the options that the run was begun with"),
            ("seed", "the order would differ: give the --seed that the run was begun with"),
            ("fixed_views", "other views would be shown: give as many as the run was begun with"),
        ):
            if state.get(name) != own.get(name):
                raise ValueError(f"cannot resume the stream: {name} was {state.get(name)}, now {own.get(name)}; {why}")
        self._position = state["position"]
        self._spans.skipped = [(start, stop) for start, stop in state["skipped"]]
        self._substitutions.load(state["substitutions"])

    def __iter__(self) -> Iterator[Batch]:
        if get_worker_info() is not None:
            raise ValueError("the stream has its own workers: use DataLoader(stream, batch_size=None, num_workers=0)")
        filling = self.open()
        try:
            for (stop, positions, located), views, labels, report in filling.batches(self._jobs()):
                self.report.add(report)
                self._substitutions.add(report.substitutions)
                self._position = stop
                substitutions = tuple(report.substitutions)
                yield Batch(views, labels, positions, located.dataset, located.sample, located.epoch, substitutions)
        except (RuntimeError, OSError):
            self.close()
            raise

    def open(self, say: Callable[[str], None] | None = None) -> PooledFilling | DeviceFilling:
        """Start the workers, or decode everything where that is done once, and `say` so; iterating does it, too.

        Raises:
            ValueError: images that are kept do not fit the memory, or could not be shown from there.
        """
        if self._filling is None:
            self._filling = self._open_filling(told=say or _nobody)
            self._closer = weakref.finalize(self, self._filling.close)
        return self._filling

    def close(self) -> None:
        """End the workers; iterating again starts new ones."""
        if self._filling is not None:
            self._closer()  # and lets go of what was decoded, which the stream would keep otherwise
            self._filling = None

    def busy(self) -> str:
        """Who has been busy for longest and with which sample, while a batch is waited for; any thread may ask."""
        return "the loader is closed" if self._filling is None else self._filling.busy()

    def what_binds(self) -> str:
        """One sentence: what of the loader or its user bound since `report` was new, and what to change."""
        return what_binds(self.report, self._workers)

    def leave_out(self, seconds: float) -> None:
        """So much of the time since the last batch has gone into something else than a step."""
        self.report.consumer_seconds -= seconds

    def stages(self) -> Stages:
        """Where the time went since `report` was new."""
        return stages_of(self.report, self._workers)

    def _jobs(self) -> Iterator[Job]:
        own = partial(rank_positions, rank=self._rank, world=self._world)
        locate = self._order.locate
        if self._fixed_views is not None:
            locate = partial(fixed, locate, self.plan.views, self._fixed_views)
        return locate_batches(self._spans.after(self._position), own, locate, self._starts)


def _nobody(message: str) -> None:
    """Who is told of what a stream does while it opens, unless somebody asks."""
