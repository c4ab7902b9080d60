"""Samples that take no part any more: `withdrawn.txt` in the folder lists their keys; the tars stay as they are.

One key a line, as the tars' members are called without extension; what follows a `#` is a comment. The list is part of
the splits' fingerprints: a run that was begun before it changed refuses to go on.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_pipeline.location import RemotePath
from data_pipeline.manifest import DatasetError, Manifest, Shard, Split, key_prefix, open_index, sample_starts

WITHDRAWN = "withdrawn.txt"

_SHOWN = 3


def without_withdrawn(manifest: Manifest) -> Manifest:
    """The manifest with the samples that `withdrawn.txt` lists marked in its splits.

    Raises:
        ValueError: a key that no sample has, or a split of which nothing is left.
        DatasetError: an index or list of names is absent or altered.
    """
    path = manifest.folder / WITHDRAWN
    if not path.is_file():
        return manifest
    keys = read_keys(path.read_text())
    splits = dict(manifest.splits)
    for name, numbers in find_keys(manifest, keys).items():
        if len(numbers) == splits[name].samples:
            raise ValueError(f"{path}: withdraws every sample of split {name}; leave some, or take the split out")
        splits[name] = replace(splits[name], withdrawn=tuple(numbers))
    return replace(manifest, splits=splits)


def read_keys(text: str) -> list[str]:
    """The keys that the text of a `withdrawn.txt` lists, each once, sorted."""
    return sorted({line.partition("#")[0].strip() for line in text.splitlines()} - {""})


def find_keys(manifest: Manifest, keys: Sequence[str]) -> dict[str, list[int]]:
    """Sorted numbers of the samples with these keys, by split; splits without any are left out.

    Keys of tars that sherd wrote say where they belong, so one index is read for each shard concerned; for tars of
    others the names of all shards are looked through.

    Raises:
        ValueError: a key that no sample has.
        DatasetError: an index or list of names is absent or altered.
    """
    wanted, found = set(keys), {}
    for name, split in manifest.splits.items():
        ours = min(split.table.column("first"), default=0) >= 0
        numbers = (_by_place if ours else _by_name)(manifest, name, split, wanted)
        if numbers:
            found[name] = sorted(numbers.values())
        wanted -= set(numbers)
    if wanted:
        shown = ", ".join(sorted(wanted)[:_SHOWN]) + (", ..." if len(wanted) > _SHOWN else "")
        raise ValueError(
            f"{manifest.folder / WITHDRAWN}: no sample has the key {shown}; expected keys as the tars' members are "
            "called without extension: `survey.py explain` shows them"
        )
    return found


def _by_place(manifest: Manifest, name: str, split: Split, keys: set[str]) -> dict[str, int]:
    pattern = re.compile(rf"{re.escape(key_prefix(name))}-(\d{{9,}})")
    places = {key: int(match[1]) for key in keys if (match := pattern.fullmatch(key))}
    firsts, starts = np.asarray(split.table.column("first")), sample_starts(split)
    by_shard: dict[int, list[str]] = {}
    for key in sorted(places):
        shard = int(np.searchsorted(firsts, places[key], side="right")) - 1
        if shard >= 0:
            by_shard.setdefault(shard, []).append(key)
    found = {}
    for shard, members in by_shard.items():
        rows = open_index(manifest, split.shards[shard])["place"]
        for key in members:
            row = int(np.searchsorted(rows, places[key]))
            if row < len(rows) and rows[row] == places[key]:
                found[key] = int(starts[shard]) + row
    return found


def _by_name(manifest: Manifest, name: str, split: Split, keys: set[str]) -> dict[str, int]:
    found = {}
    for shard, start in zip(split.shards, sample_starts(split)[:-1], strict=True):
        for row, key in enumerate(read_names(manifest, shard)):
            if key in keys:
                found[key] = int(start) + row
    return found


def read_names(manifest: Manifest, shard: Shard) -> list[str]:
    """The names of a shard's samples in the source, in order; of tars of others, their keys.

    Raises:
        DatasetError: the list is missing.
    """
    path: Path | RemotePath = manifest.folder / shard.names
    if not path.is_file():
        raise DatasetError(f"names {shard.names}: missing from {manifest.folder}; {manifest.repair(shard.file)}")
    return path.read_bytes().decode(errors="surrogateescape").split("\n")[:-1]
