"""Near duplicates: the same pairs as comparing all with all, each once, and one of each group stays."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import near_duplicates
from data_pipeline.near_duplicates import (
    HASHED,
    LOOK,
    PAIR,
    choose_dropped,
    count_shared,
    find_pairs,
    find_same_bytes,
    first_of_runs,
    write_report,
)


def looks(hashes: Sequence[int], at_once: int = 1000) -> Iterator[np.ndarray]:
    records = np.zeros(len(hashes), LOOK)
    records["perceptual"], records["number"] = np.array(hashes, np.uint64), np.arange(len(hashes))
    return (records[start : start + at_once] for start in range(0, len(records), at_once))


def pairs_of(hashes: Sequence[int], folder: Path) -> list[tuple[int, int, int]]:
    return [tuple(pair) for batch in find_pairs(looks(hashes), folder) for pair in batch.tolist()]


def all_with_all(hashes: Sequence[int]) -> list[tuple[int, int, int]]:
    """The definition: first images of equal hashes with each other, the other ones with their first."""
    first = {value: number for number, value in reversed(list(enumerate(hashes)))}
    found = [(number, first[value], 0) for number, value in enumerate(hashes) if first[value] != number]
    numbers = sorted(first.values())
    for other in numbers:
        for number in numbers[numbers.index(other) + 1 :]:
            distance = (hashes[number] ^ hashes[other]).bit_count()
            if distance <= 3:
                found.append((number, other, distance))
    return sorted(found)


def altered(value: int, bits: Sequence[int]) -> int:
    for bit in bits:
        value ^= 1 << bit
    return value


def crowd(count: int, seed: int, spread: int = 64) -> list[int]:
    """Hashes that lie close together: a few at random, the rest with some of `spread` bits of another one turned."""
    random = np.random.default_rng(seed)
    hashes = [int(value) for value in random.integers(0, 1 << 63, 10)]
    while len(hashes) < count:
        bits = random.choice(spread, random.integers(0, 5), replace=False)
        hashes.append(altered(hashes[random.integers(len(hashes))], bits.tolist()))
    return hashes


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spread", [10, 20, 64])
def test_the_pairs_are_those_of_comparing_all_with_all(seed: int, spread: int, tmp_path: Path) -> None:
    hashes = crowd(700, seed, spread)
    expected = all_with_all(hashes)
    assert len(expected) > 300
    assert pairs_of(hashes, tmp_path) == expected
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("few", [8, 30])
def test_long_runs_are_narrowed_down(few: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "_FEW", few)
    for spread in (13, 30, 64):
        hashes = crowd(400, 7, spread)
        assert pairs_of(hashes, tmp_path) == all_with_all(hashes)


@given(
    value=st.integers(0, 2**64 - 1),
    bits=st.sets(st.integers(0, 63), max_size=6),
    others=st.lists(st.integers(0, 2**64 - 1), max_size=5),
)
@settings(max_examples=60, deadline=None)
def test_up_to_three_bits_anywhere_are_seen(
    value: int, bits: set[int], others: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    hashes = [value, *others, altered(value, sorted(bits))]
    folder = tmp_path_factory.mktemp("pairs")
    assert pairs_of(hashes, folder) == all_with_all(hashes)


def test_many_images_of_one_hash_are_linked_to_the_first_only(tmp_path: Path) -> None:
    hashes = [5] * 100_000 + [4]
    assert pairs_of(hashes, tmp_path) == [*((number, 0, 0) for number in range(1, 100_000)), (100_000, 0, 1)]


def test_many_hashes_of_one_band_take_little_time(tmp_path: Path) -> None:
    """Three copies of a number of 14 bits: all with all would be 134 million comparisons, and only neighbours differ in
    three bits.
    """
    count = 14
    hashes = [number | number << 16 | number << 32 for number in range(1 << count)]
    pairs = pairs_of(hashes, tmp_path)
    assert len(pairs) == len(set(pairs)) == (1 << count) * count // 2
    assert {distance for _, _, distance in pairs} == {3}


def greedy(hashes: Sequence[int]) -> list[tuple[int, int, int]]:
    """In order, whatever looks like one that stayed goes; and the first of those it looks like."""
    stayed: list[int] = []
    gone = []
    for number, value in enumerate(hashes):
        alike = [other for other in stayed if (hashes[other] ^ value).bit_count() <= 3]
        if alike:
            gone.append((number, alike[0], (hashes[alike[0]] ^ value).bit_count()))
        else:
            stayed.append(number)
    return gone


@pytest.mark.parametrize("seed", range(4))
def test_what_looks_like_an_earlier_one_that_stays_is_dropped(seed: int, tmp_path: Path) -> None:
    hashes = crowd(600, seed)
    batches = choose_dropped(find_pairs(looks(hashes), tmp_path), len(hashes), tmp_path)
    dropped = [tuple(pair) for batch in batches for pair in batch.tolist()]
    assert dropped == greedy(hashes)
    assert not any(tmp_path.iterdir())


def test_the_like_of_one_that_was_dropped_goes_for_the_same_reason(tmp_path: Path) -> None:
    hashes = [0b000, 0b111, 0b111, 0b111111]
    batches = choose_dropped(find_pairs(looks(hashes), tmp_path), 4, tmp_path)
    assert [tuple(pair) for batch in batches for pair in batch.tolist()] == [(1, 0, 3), (2, 0, 3)]


@pytest.mark.parametrize("at_once", [1, 2, 3, 100])
def test_runs_reach_over_batches(at_once: int) -> None:
    values = [1, 1, 1, 2, 3, 3, 3, 3, 4]
    found = list(first_of_runs(looks(values, at_once), ("perceptual",)))
    assert np.concatenate([firsts["number"] for _, firsts in found]).tolist() == [0, 0, 0, 3, 4, 4, 4, 4, 8]


def test_the_report_names_them(tmp_path: Path) -> None:
    names: Any = SimpleNamespace(split="train", names=lambda numbers: [f"{number}.jpg" for number in numbers])
    report = tmp_path / "report.jsonl"
    assert write_report(report, names, [np.array([(7, 3, 2)], PAIR), np.array([(9, 7, 0)], PAIR)]) == 2
    assert [json.loads(line) for line in report.read_text().splitlines()] == [
        {"split": "train", "name": "7.jpg", "other": "3.jpg", "distance": 2},
        {"split": "train", "name": "9.jpg", "other": "7.jpg", "distance": 0},
    ]


def hashed(hashes: Sequence[tuple[int, int, int]]) -> Iterator[np.ndarray]:
    """Records of (high, low, split), numbered within their splits, two at a time and from behind."""
    seen: Counter[int] = Counter()
    rows = []
    for high, low, split in hashes:
        rows.append((high, low, split, seen[split]))
        seen[split] += 1
    records = np.array(rows, HASHED)[::-1]
    return (records[start : start + 2] for start in range(0, len(records), 2))


def test_the_same_bytes_are_the_same_in_all_128_bits(tmp_path: Path) -> None:
    hashes = [(1, 1, 0), (1, 2, 0), (2, 1, 0), (1, 1, 0), (2, 1, 0), (1, 1, 0)]
    pairs = [tuple(pair) for batch in find_same_bytes(hashed(hashes), tmp_path) for pair in batch.tolist()]
    assert pairs == [(3, 0, 0), (4, 2, 0), (5, 0, 0)]


def test_what_a_split_shares_with_the_first_is_counted(tmp_path: Path) -> None:
    train, test, other = [5, 6, 7, 7, 8, 9], [9, 1, 8, 1, 7, 6, 7], [1, 9]
    hashes = [(value, 0, split) for split, values in enumerate((train, test, other)) for value in values]
    assert count_shared(hashed(hashes), 2, tmp_path) == [(5, [0, 2, 4]), (1, [1])]
