"""Which of the listed images are written, to which split, and in which order.

A function of the listing, the facts and the rules. What grows with the corpus lies on the disk: facts are read block by
block, what must be compared is sorted there, and the outcome is files.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import xxhash
from numpy.lib.format import open_memmap

from data_pipeline import near_duplicates as pairing
from data_pipeline.disk_sort import sort_on_disk
from data_pipeline.examine import FACTS, FORMATS, Rules
from data_pipeline.listing import Listing, Listings
from data_pipeline.randomness import Purpose, key
from data_pipeline.sieve import REASONS, Sieve
from launch.atomic import PARTIAL, clean_partials, explain_full_disk, sync_tree

DROPPED = "dropped.jsonl"
NEAR_DUPLICATES = "near_duplicates.jsonl"

_SHUFFLED = np.dtype([("key", "<u8"), ("number", "<u8")])


@dataclass(frozen=True)
class Chosen:
    """What a split is made of: numbers in the listing of `source_split`, shuffled, in a file (.npy of int64)."""

    source_split: str
    numbers: Path


@dataclass(frozen=True)
class Selection:
    """What is written and what is not.

    dropped: JSON lines {"split", "name", "reason"} by the source's splits in alphabetical order, as listed. counts: of
    those, by REASONS, without zeros. formats: of the images that are written, and could be read so far, by split.
    notes: sentences for the user.
    near_duplicates: where asked for, JSON lines {"split", "name", "other", "distance"}, in the same order.
    """

    splits: dict[str, Chosen]
    dropped: Path
    counts: dict[str, int]
    formats: dict[str, Counter[str]]
    notes: tuple[str, ...]
    near_duplicates: Path | None


def select(listings: Listings, facts: Mapping[str, Sequence[Path]], rules: Rules, seed: int, work: Path) -> Selection:
    """Choose images, and shuffle those of each split by their names and the seed.

    Args:
        facts: of each split the files that `ExamineTask` wrote at `rules.depth`, in order, without gaps.
        work: a folder of this function's own; files appear in it whole, and replace those of an earlier call.

    Raises:
        ValueError: a hold-out that cannot be, or rules that leave nothing of a split; says what to do.
        OSError: a full disk.
    """
    rules.check_splits({split: len(listing) for split, listing in listings.splits.items()})
    work.mkdir(parents=True, exist_ok=True)
    clean_partials(work)
    outputs: dict[str, _Output] = {}
    counts, notes = Counter[int](), list[str]()
    with TemporaryDirectory(prefix=PARTIAL, dir=work) as temporary:
        scratch, results = Path(temporary, "scratch"), Path(temporary, "results")
        scratch.mkdir()
        results.mkdir()
        for split, listing in listings.splits.items():
            for name in ("train", "validation") if rules.holdout and split == "train" else (split,):
                outputs[name] = _Output(listing, scratch / f"{len(outputs)}.kept")
        with explain_full_disk(results, FACTS.itemsize * sum(map(len, listings.splits.values()))):
            with (results / DROPPED).open("wb") as dropped:
                for split, listing in sorted(listings.splits.items()):
                    sieve = Sieve(listing, listings.classes or (), facts[split], rules, scratch)
                    notes += sieve.compare(results / NEAR_DUPLICATES)
                    sides = [output for output in outputs.values() if output.listing is listing]
                    found = sieve.sift(dropped, [output.add for output in sides])
                    _refuse_empty(listing, found, [output.samples for output in sides])
                    counts += found
            if rules.depth != "format":
                notes += _shared_with_train(outputs, scratch)
            for place, output in enumerate(outputs.values()):
                output.shuffle(seed, results / f"numbers-{place}.npy")
            sync_tree(results)
        (work / NEAR_DUPLICATES).unlink(missing_ok=True)
        for path in results.iterdir():
            path.replace(work / path.name)
    return Selection(
        splits={
            name: Chosen(output.listing.split, work / f"numbers-{place}.npy")
            for place, (name, output) in enumerate(outputs.items())
        },
        dropped=work / DROPPED,
        counts={REASONS[reason - 1]: counts[reason] for reason in sorted(counts)},
        formats={name: output.formats for name, output in outputs.items()},
        notes=tuple(notes),
        near_duplicates=None if rules.near_duplicates == "ignore" else work / NEAR_DUPLICATES,
    )


@dataclass
class _Output:
    """What is written as one split, while it is gathered: facts in a file, in the order of the listing."""

    listing: Listing
    path: Path
    samples: int = 0
    formats: Counter[str] = field(default_factory=Counter)

    def add(self, rows: np.ndarray) -> None:
        """More facts of images."""
        with self.path.open("ab") as file:
            file.write(rows.tobytes())
        self.samples += len(rows)
        kinds = np.bincount(rows["format"][rows["readable"] == 1], minlength=len(FORMATS)).tolist()
        self.formats += Counter(dict(zip(FORMATS, kinds, strict=True)))

    def rows(self) -> Iterator[np.ndarray]:
        """All that was added."""
        return pairing.read_records(self.path, FACTS)

    def shuffle(self, seed: int, target: Path) -> None:
        """Write the numbers in an order that depends on names and seed alone."""

        def keyed() -> Iterator[np.ndarray]:
            for rows in self.rows():
                shuffled = np.empty(len(rows), _SHUFFLED)
                hashes = map(xxhash.xxh3_64_intdigest, map(os.fsencode, self.listing.names(rows["number"])))
                shuffled["key"] = [key(seed, Purpose.SHARD_SHUFFLE, value) for value in hashes]
                shuffled["number"] = rows["number"]
                yield shuffled

        numbers = open_memmap(target, "w+", "<i8", (self.samples,))
        place = 0
        for batch in sort_on_disk(keyed(), self.path.parent, ("key", "number")):
            numbers[place : place + len(batch)] = batch["number"]
            place += len(batch)
        numbers.flush()


def _shared_with_train(outputs: Mapping[str, _Output], folder: Path) -> list[str]:
    """What to tell of images whose bytes are in `train` too; those held out of it are not."""
    train = outputs.get("train")
    others = [output for output in outputs.values() if train is not None and output.listing is not train.listing]
    if train is None or not others:
        return []
    sides = enumerate((train, *others))
    hashed = (pairing.make_hashed(rows, place) for place, output in sides for rows in output.rows())
    shared = pairing.count_shared(hashed, len(others), folder)
    return [
        f"{output.listing.split}: {count:,} images are in train too, byte for byte, and kept: "
        f"{', '.join(output.listing.names(first))}{', ...' if count > len(first) else ''}"
        for output, (count, first) in zip(others, shared, strict=True)
        if count
    ]


def _refuse_empty(listing: Listing, found: Counter[int], samples: Sequence[int]) -> None:
    if not any(samples):
        options = [f"{found[reason]:,} by --{REASONS[reason - 1].replace('_', '-')}" for reason in sorted(found)]
        raise ValueError(
            f"split {listing.split}: all of its {len(listing):,} images are left out, {', '.join(options)}: relax "
            "that, or take the split out of the source"
        )
    if not all(samples):
        few, share = ("none", "larger") if samples[0] else ("all", "smaller")
        raise ValueError(
            f"--holdout puts {few} of train's {sum(samples):,} images into validation: give a {share} share, or none"
        )
