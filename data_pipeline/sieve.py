"""What speaks against each image of a split: facts go through block by block, and what stays goes to its side."""

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from data_pipeline import near_duplicates as pairing
from data_pipeline.examine import Rules
from data_pipeline.listing import Listing
from data_pipeline.randomness import hash_array

REASONS = ("min_side", "max_pixels", "max_aspect", "duplicates", "near_duplicates")
"""Why an image is left out: the options, in the order in which they are asked; the first that speaks against it."""

_BYTES, _LOOK = REASONS.index("duplicates") + 1, REASONS.index("near_duplicates") + 1  # 0 is for those that stay
_AT_ONCE = 1 << 16
_HOLDOUT = 0x686F6C646F7574  # another one would move images between the splits of every dataset with a hold-out


class Sieve:
    """One split of the source: its listing, the names of the classes, files of facts, and a folder for what is sorted.

    `compare` comes first, then `sift`; each goes through the facts anew.
    """

    def __init__(
        self, listing: Listing, classes: tuple[str, ...], facts: Sequence[Path], rules: Rules, scratch: Path
    ) -> None:
        self._listing, self._classes, self._facts = listing, classes, facts
        self._rules, self._scratch = rules, scratch
        self._labels = listing.records()["label"]
        self._against: dict[int, np.ndarray] = {}  # by reason: pairs of an image and the one that stays, mapped

    def compare(self, report: Path) -> list[str]:
        """Find images that are like others, by the rules, and report those that look alike; what to tell the user."""
        split, rules, notes = self._listing.split, self._rules, []
        if rules.depth != "format":
            hashed = map(pairing.make_hashed, self._staying())
            pairs, fate = self._keep(_BYTES, pairing.find_same_bytes(hashed, self._scratch)), "left out"
            if rules.duplicates == "keep":
                fate = "kept"
                del self._against[_BYTES]
            labels = self._labels
            others = sum(int((labels[part["number"]] != labels[part["other"]]).sum()) for part in _parts(pairs))
            if len(pairs):
                mislabelled = f", {others:,} of them under another class" if others else ""
                notes.append(f"{split}: {len(pairs):,} images have the bytes of an earlier one{mislabelled}: {fate}")
        if rules.near_duplicates != "ignore":
            path, fate = self._scratch / "alike.bin", "kept"
            pairing.write_records(path, pairing.find_pairs(map(pairing.make_looks, self._staying()), self._scratch))
            count = pairing.write_report(report, self._listing, pairing.read_records(path, pairing.PAIR))
            if rules.near_duplicates == "drop":
                alike = pairing.read_records(path, pairing.PAIR)
                dropped = self._keep(_LOOK, pairing.choose_dropped(alike, len(self._listing), self._scratch))
                fate = f"{len(dropped):,} images left out"
            if count:
                notes.append(f"{split}: {count:,} pairs of images look the same: {fate}")
        return notes

    def sift(self, dropped: BinaryIO, sides: Sequence[Callable[[np.ndarray], None]]) -> Counter[int]:
        """Give facts of each image to a side, or name the image as dropped; how many are, by the place in REASONS + 1.

        There are two sides with a hold-out, the second for what is held out.
        """
        counts: Counter[int] = Counter()
        most = np.uint64(int(self._rules.holdout * 2**64) if len(sides) == 2 else 0)
        for block, reasons in self._judged():
            kept = block[reasons == 0]
            held = hash_array(_HOLDOUT, kept["hash_low"]) < most
            sides[0](kept[~held])
            sides[-1](kept[held])
            counts.update(reasons[reasons > 0].tolist())
            self._write_dropped(dropped, block, reasons)
        return counts

    def _judged(self) -> Iterator[tuple[np.ndarray, NDArray[np.uint8]]]:
        """Facts of all images, and the reasons known so far."""
        expected = 0
        for path in self._facts:
            for stored in _parts(np.load(path, mmap_mode="r", allow_pickle=False)):
                block = np.array(stored)
                assert np.array_equal(block["number"], np.arange(expected, expected + len(block), dtype="<u8")), path
                expected += len(block)
                reasons = self._rules.check(block)
                for reason in self._against:
                    found = self._within(reason, block)["number"]
                    reasons[found - block["number"][0]] = reason
                yield block, reasons
        assert expected == len(self._listing), self._listing.split

    def _staying(self) -> Iterator[np.ndarray]:
        """Facts of the images that can be compared, and that nothing speaks against so far."""
        for block, reasons in self._judged():
            yield block[(reasons == 0) & (block["readable"] == 1)]

    def _keep(self, reason: int, pairs: Iterator[np.ndarray]) -> np.ndarray:
        path = self._scratch / f"{REASONS[reason - 1]}.pairs"
        path.unlink(missing_ok=True)  # of the split before; it may still be mapped
        count = pairing.write_records(path, pairs)
        self._against[reason] = np.memmap(path, pairing.PAIR, "r") if count else np.empty(0, pairing.PAIR)
        return self._against[reason]

    def _within(self, reason: int, block: np.ndarray) -> np.ndarray:
        """The pairs whose later image is in a block."""
        pairs, start = self._against[reason], int(block["number"][0])
        return pairs[bisect_left(pairs["number"], start) : bisect_left(pairs["number"], start + len(block))]

    def _write_dropped(self, file: BinaryIO, block: np.ndarray, reasons: NDArray[np.uint8]) -> None:
        like = {pair[0]: pair[1:] for reason in self._against for pair in self._within(reason, block).tolist()}
        rows, names = block[reasons > 0], self._listing.names(block["number"][reasons > 0])
        for row, name, reason in zip(rows, names, reasons[reasons > 0].tolist(), strict=True):
            if reason in (_BYTES, _LOOK):
                text = self._explain(int(row["number"]), reason, *like[int(row["number"])])
            else:
                text = self._rules.explain(reason, int(row["width"]), int(row["height"]))
            line = {"split": self._listing.split, "name": name, "reason": text}
            file.write(json.dumps(line).encode() + b"\n")

    def _explain(self, number: int, reason: int, other: int, distance: int) -> str:
        stays = self._listing.entry(other)
        if reason == _LOOK:
            return f"looks like {stays.name} ({distance} of 64 bits differ)"
        if stays.label == self._labels[number]:
            return f"same bytes as {stays.name}"
        return f"same bytes as {stays.name}, which has another class: {self._classes[stays.label]}"


def _parts(records: np.ndarray) -> Iterator[np.ndarray]:
    return (records[start : start + _AT_ONCE] for start in range(0, len(records), _AT_ONCE))
