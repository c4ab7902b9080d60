"""Pairs of images with the same bytes, and of those that look the same: whose 64-bit perceptual hashes differ in at
most three bits.

Of four bands of 16 bits, three differing bits leave one untouched. So whoever sorts by one band after another finds
every pair among neighbours; what agrees in a band is narrowed down in the same way by four parts of its other bits.
All of it lies on the disk; in memory are only those images that agree in a band, one of 65,536 parts of the corpus.

Images with the very same hash are linked to the first of them and to nothing else, and that first stands for all of
them: a million blank pages make a million pairs, not half a million million. It loses nothing: what looks like one of
them looks like the first. Images of one flat colour all have the same hash but for one bit, whatever the colour, so
they count as looking the same; where such images matter, report near duplicates rather than dropping them.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipeline.disk_sort import sort_on_disk
from data_pipeline.listing import Listing

MOST_BITS = 3

# What is compared: the hash of an image's bytes, or of its look, and its number in the listing of its split.
HASHED = np.dtype([("hash_high", "<u8"), ("hash_low", "<u8"), ("split", "<u4"), ("number", "<u8")])
LOOK = np.dtype([("perceptual", "<u8"), ("number", "<u8")])

# An image and an earlier one of the same listing (`other` < `number`), and in how many bits their hashes differ.
PAIR = np.dtype([("number", "<u8"), ("other", "<u8"), ("distance", "u1")])

_ALL_BITS = 0xFFFFFFFFFFFFFFFF
_PARTS = MOST_BITS + 1
_FEW = 256  # so many that agree in a part are compared each with each; more than 8 distinct ones vary in 4 bits or more
_BAND_BITS = 64 // _PARTS
_BAND = (1 << _BAND_BITS) - 1

_TURNED = np.dtype([("turned", "<u8"), ("number", "<u8")])


def first_of_runs(batches: Iterable[np.ndarray], fields: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Sorted batches, each with an array of the same shape: for every record the first that agrees with it in `fields`.

    Runs may reach over any number of batches.
    """
    before: np.ndarray | None = None
    for batch in batches:
        if not len(batch):
            continue
        begins = np.zeros(len(batch), bool)
        begins[0] = True
        for field in fields:
            begins[1:] |= batch[field][1:] != batch[field][:-1]
        starts = np.flatnonzero(begins)
        firsts = batch[np.repeat(starts, np.diff(starts, append=len(batch)))]
        if before is not None and all(before[field][0] == batch[field][0] for field in fields):
            firsts[: starts[1] if len(starts) > 1 else len(batch)] = before
        before = firsts[-1:].copy()
        yield batch, firsts


def first_of_bytes(hashed: Iterable[np.ndarray], folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images (dtype HASHED) sorted by bytes, split and number, each with the first of those that have the same bytes.

    Raises:
        OSError: a full disk.
    """
    by_bytes = ("hash_high", "hash_low")
    return first_of_runs(sort_on_disk(hashed, folder, (*by_bytes, "split", "number")), by_bytes)


def find_same_bytes(hashed: Iterable[np.ndarray], folder: Path) -> Iterator[np.ndarray]:
    """Pairs (dtype PAIR) of images of one split (dtype HASHED), each with the first of those that have the same bytes,
    in the order of their numbers.

    Raises:
        OSError: a full disk.
    """

    def found() -> Iterator[np.ndarray]:
        for batch, firsts in first_of_bytes(hashed, folder):
            later = batch["number"] != firsts["number"]
            yield make_pairs(batch["number"][later], firsts["number"][later], 0)

    return sort_on_disk(found(), folder, ("number",))


def count_shared(hashed: Iterable[np.ndarray], others: int, folder: Path) -> list[tuple[int, list[int]]]:
    """For splits 1 to `others` how many of their images (dtype HASHED) split 0 has too, and the first three of them.

    Raises:
        OSError: a full disk.
    """
    counts, first = [0] * others, [[] for _ in range(others)]
    for batch, firsts in first_of_bytes(hashed, folder):
        shared = batch[(batch["split"] > 0) & (firsts["split"] == 0)]
        for other in range(others):
            numbers = shared["number"][shared["split"] == other + 1]
            counts[other] += len(numbers)
            first[other] = sorted(first[other] + np.sort(numbers)[:3].tolist())[:3]
    return list(zip(counts, first, strict=True))


def find_pairs(looks: Iterable[np.ndarray], folder: Path) -> Iterator[np.ndarray]:
    """Pairs (dtype PAIR) among images (dtype LOOK), each once, in the order of their numbers.

    Args:
        looks: the images in any order.
        folder: for temporary files, about 100 bytes an image.

    Raises:
        OSError: a full disk.
    """
    distinct, links = folder / "looks.bin", folder / "links.bin"
    with distinct.open("wb") as looks_file, links.open("wb") as links_file:
        for batch, firsts in first_of_runs(sort_on_disk(looks, folder, ("perceptual", "number")), ("perceptual",)):
            is_first = firsts["number"] == batch["number"]
            looks_file.write(batch[is_first].tobytes())
            links_file.write(make_pairs(batch["number"], firsts["number"], 0)[~is_first].tobytes())

    def found() -> Iterator[np.ndarray]:
        yield from read_records(links, PAIR)
        for band in range(_PARTS):
            yield from _alike_in_band(distinct, band, folder)

    yield from sort_on_disk(found(), folder, ("number", "other"))
    distinct.unlink()
    links.unlink()


def choose_dropped(pairs: Iterable[np.ndarray], images: int, folder: Path) -> Iterator[np.ndarray]:
    """Those pairs, of the ones `find_pairs` gives for a listing of `images`, that say what is dropped: `number`, since
    it looks like `other`, which stays.

    In the order of the listing an image is dropped if it looks like an earlier one that was not: so one of each group
    stays, and what was dropped drops no other. Kept in `folder` meanwhile: 9 bytes an image, sparse.
    """
    dtype = np.dtype([("because", "<u8"), ("distance", "u1")])  # number + 1 of the image for which one was dropped
    path = folder / "dropped.bin"
    dropped = np.memmap(path, dtype, "w+", shape=(max(images, 1),))
    because, distances = dropped["because"], dropped["distance"]
    for batch in pairs:
        chosen = []
        for number, other, distance in batch.tolist():
            if because[number]:
                continue
            if not because[other]:
                because[number], distances[number] = other + 1, distance
            elif distance == 0:  # only linked to its like, which went for another's sake: so does this one
                because[number], distances[number] = because[other], distances[other]
            else:
                continue
            chosen.append((number, int(because[number]) - 1, int(distances[number])))
        if chosen:
            yield np.array(chosen, PAIR)
    path.unlink()


def write_report(path: Path, listing: Listing, pairs: Iterable[np.ndarray]) -> int:
    """Append pairs to a file of JSON lines, `{"split", "name", "other", "distance"}`; returns their number."""
    count = 0
    with path.open("ab") as file:
        for batch in pairs:
            columns = listing.names(batch["number"]), listing.names(batch["other"]), batch["distance"].tolist()
            for name, other, distance in zip(*columns, strict=True):
                line = {"split": listing.split, "name": name, "other": other, "distance": distance}
                file.write(json.dumps(line).encode() + b"\n")
            count += len(batch)
    return count


def make_hashed(facts: np.ndarray, split: int = 0) -> np.ndarray:
    """The hashes (dtype HASHED) of those images that can be read, by their facts."""
    facts = facts[facts["readable"] == 1]
    hashed = np.empty(len(facts), HASHED)
    hashed["split"] = split
    for name in ("hash_high", "hash_low", "number"):
        hashed[name] = facts[name]
    return hashed


def make_looks(facts: np.ndarray) -> np.ndarray:
    """The looks (dtype LOOK) of images, by their facts."""
    looks = np.empty(len(facts), LOOK)
    looks["perceptual"], looks["number"] = facts["perceptual"], facts["number"]
    return looks


def make_pairs(numbers: np.ndarray, others: np.ndarray, distances: np.ndarray | int) -> np.ndarray:
    """Pairs (dtype PAIR) of images by their numbers, given in either order."""
    pairs = np.empty(len(numbers), PAIR)
    pairs["number"], pairs["other"] = np.maximum(numbers, others), np.minimum(numbers, others)
    pairs["distance"] = distances
    return pairs


def write_records(path: Path, batches: Iterable[np.ndarray]) -> int:
    """Put records into a file of nothing else; returns their number."""
    count = 0
    with path.open("wb") as file:
        for batch in batches:
            file.write(batch.tobytes())
            count += len(batch)
    return count


def read_records(path: Path, dtype: np.dtype, at_once: int = 1 << 18) -> Iterator[np.ndarray]:
    """The records of a file of nothing else, some at once."""
    with path.open("rb") as file:
        while len(batch := np.fromfile(file, dtype, at_once)):
            yield batch


def _alike_in_band(distinct: Path, band: int, folder: Path) -> Iterator[np.ndarray]:
    """The pairs that agree in a band of 16 bits, and in none before it."""

    def turned() -> Iterator[np.ndarray]:
        up, down = np.uint64(_BAND_BITS * band), np.uint64(-_BAND_BITS * band % 64)
        for batch in read_records(distinct, LOOK):
            records = np.empty(len(batch), _TURNED)
            records["turned"] = batch["perceptual"] << up | batch["perceptual"] >> down
            records["number"] = batch["number"]
            yield records

    before = tuple(_BAND << _BAND_BITS * earlier for earlier in range(band))  # turned out at the top, back in below
    for run in _whole_runs(sort_on_disk(turned(), folder, ("turned", "number"))):
        yield from _alike(run, _BAND << 64 - _BAND_BITS, before)


def _whole_runs(batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The same records, cut only between those that differ in the topmost band."""
    held: list[np.ndarray] = []
    for batch in batches:
        bands = batch["turned"] >> np.uint64(64 - _BAND_BITS)
        if held and held[-1]["turned"][-1] >> np.uint64(64 - _BAND_BITS) != bands[0]:
            yield np.concatenate(held)
            held.clear()
        last = int(np.searchsorted(bands, bands[-1]))
        if last:
            yield np.concatenate([*held, batch[:last]])
            held.clear()
        held.append(batch[last:])
    if held:
        yield np.concatenate(held)


def _alike(records: np.ndarray, agreed: int, differing: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The pairs that agree in the bits `agreed`, as all of these records do in their run, and that do not agree in any
    of the masks `differing`.
    """
    varying = int(np.bitwise_or.reduce(records["turned"] ^ records["turned"][0]))
    if not all(varying & mask for mask in differing):
        return
    parts = _split_bits(varying & ~agreed)
    for number, part in enumerate(parts):
        keys = records["turned"] & np.uint64(agreed | part)
        order = np.argsort(keys, kind="stable")
        keys, ordered = keys[order], records[order]
        starts = np.flatnonzero(np.diff(keys, prepend=~keys[:1]))
        lengths = np.diff(starts, append=len(keys))
        many = lengths > _FEW
        now_agreed, now_differing = agreed | part, (*differing, *parts[:number])
        few = np.repeat(~many, lengths)
        yield from _each_with_each(ordered[few], keys[few], now_differing)
        for start, length in zip(starts[many].tolist(), lengths[many].tolist(), strict=True):
            yield from _alike(ordered[start : start + length], now_agreed, now_differing)


def _each_with_each(records: np.ndarray, keys: NDArray[np.uint64], differing: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The pairs among neighbours with the same key: each record with the next, with the next but one, and so on."""
    here, step = np.arange(len(records)), 0
    while True:
        step += 1
        here = here[here + step < len(records)]
        here = here[keys[here] == keys[here + step]]
        if not len(here):
            return
        unlike = records["turned"][here] ^ records["turned"][here + step]
        distances = np.bitwise_count(unlike)
        found = distances <= MOST_BITS
        for mask in differing:
            found &= (unlike & np.uint64(mask)) != 0
        if found.any():
            numbers = records["number"]
            yield make_pairs(numbers[here[found]], numbers[here[found] + step], distances[found])


def _split_bits(mask: int) -> tuple[int, ...]:
    """The set bits of a mask in as many parts as needed for one to be untouched by `MOST_BITS` changes."""
    bits = [1 << position for position in range(64) if mask >> position & 1]
    return tuple(sum(bits[len(bits) * i // _PARTS : len(bits) * (i + 1) // _PARTS]) for i in range(_PARTS))
