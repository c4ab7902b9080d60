"""Samples with several labels: sets of them, read from the annotations of a split, without its images."""

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from data_pipeline.location import RemotePath
from data_pipeline.manifest import NO_LABEL, Manifest, locate_sample, sample_starts
from data_pipeline.order import Integers, subset_hash
from data_pipeline.sample_facts import look_up
from data_pipeline.storage import ShardReader
from data_pipeline.subset import read_labels

CLASS_FIELD = "cls"
"""The field that stands for the one label of a sample, that of its .cls file."""

_TASK = 256  # samples
_REQUESTS = 32  # at a time, to a store
_SHOWN = 5


@dataclass(frozen=True)
class LabelSets:
    """The labels of every sample of a split. Takes 9 bytes for each sample, and 4 for each of its labels.

    field: that was read. names: of the labels, by number. starts: (samples + 1,), where the labels of each sample begin
    in `labels`. known: (samples,), False for samples without the field, and for withdrawn ones: they have no set,
    whereas an empty set says that none of the labels is there.
    """

    field: str
    names: tuple[str, ...]
    starts: Integers
    labels: NDArray[np.int32]
    known: NDArray[np.bool_]

    def targets(self, samples: Integers) -> NDArray[np.bool_]:
        """Which labels each of n samples has: (n, labels), all False where nothing is known."""
        counts = self.starts[samples + 1] - self.starts[samples]
        first = np.cumsum(counts) - counts
        places = np.arange(counts.sum()) + np.repeat(self.starts[samples] - first, counts)
        found = np.zeros((len(samples), len(self.names)), np.bool_)
        found[np.repeat(np.arange(len(samples)), counts), self.labels[places]] = True
        return found

    def members(self) -> tuple[Integers | None, str]:
        """Sorted numbers of the samples that have a set, None if all have, and the name of this rule for a plan."""
        if self.known.all():
            return None, ""
        members = np.flatnonzero(self.known)
        return members, f"with-{quote(self.field, safe='')}-{subset_hash(members)}"


def read_label_sets(
    manifest: Manifest,
    split: str,
    field: str,
    names: Sequence[str] | None = None,
    *,
    report: Callable[[int], None] | None = None,
) -> LabelSets:
    """The sets that a field of the samples' JSON annotations holds: a list of strings or of integers, or one of them.

    Args:
        field: its name; `objects.category` is that of an object, or of each object in a list. `cls` is the class of a
            sample, where the dataset has classes: a set of one.
        names: of the labels, as the training split has them; None finds them: sorted, integers by their value.
        report: is told of so many samples more that have been read.

    Raises:
        ValueError: no sample has the field, it holds something else, or a label that is not among the names.
        DatasetError, OSError: annotations that are absent or altered, or a store that does not answer.
    """
    described = manifest.split(split)
    tell = report or (lambda _: None)
    where = f"{manifest.folder} [{split}]"
    if field == CLASS_FIELD and manifest.classes is not None:
        return _of_classes(manifest, split, names)
    own = described.members()
    known = np.zeros(described.samples, np.bool_)
    counts = np.zeros(described.samples, np.int64)
    numbers: dict[str | int, int] = {}  # of the labels, as they are met
    met = [np.empty(0, np.int32)]
    others: dict[str, None] = {}
    for samples, contents in _contents(manifest, split, own):
        some = []
        for sample, content in zip(samples.tolist(), contents, strict=True):
            value = find_field(content, field)
            if value is None:
                others |= dict.fromkeys(content if isinstance(content, dict) and len(others) < _SHOWN else ())
                continue
            labels = _labels(value)
            if labels is None:
                key = look_up(manifest, split, [sample])[0].key
                raise ValueError(
                    f"{where}: sample {key}: the field {field!r} holds {json.dumps(value)[:60]}, expected a list of "
                    "strings or of integers"
                )
            known[sample], counts[sample] = True, len(labels)
            some += [numbers.setdefault(label, len(numbers)) for label in labels]
        met.append(np.asarray(some, np.int32))
        tell(len(samples))
    if not known.any():
        has = f"; they have: {', '.join(map(repr, others))}" if others else ", nor any other"
        raise ValueError(
            f"{where}: no sample has the field {field!r} in its .json{has}; shard a table with such a column, or "
            "images with such JSON files beside them"
        )
    ordered = _check_kinds(where, field, numbers)
    names = tuple(map(str, ordered)) if names is None else tuple(names)
    places = {name: place for place, name in enumerate(names)}
    unknown = [str(label) for label in ordered if str(label) not in places]
    if unknown:
        raise ValueError(
            f"{where}: {len(unknown):,} labels in {field!r} that the {len(names):,} known ones lack: "
            f"{', '.join(map(repr, unknown[:_SHOWN]))}{', ...' if len(unknown) > _SHOWN else ''}; the names are those "
            "of the training split"
        )
    renumbered = np.asarray([places[str(label)] for label in numbers], np.int32)
    return LabelSets(field, names, np.append(0, np.cumsum(counts)), renumbered[np.concatenate(met)], known)


def find_field(content: Any, field: str) -> Any:
    """What a field of JSON holds, None where there is none; `a.b` is field b of field a, or of each object in it."""
    if isinstance(content, dict):
        if field in content:
            return content[field]
        outer, _, inner = field.partition(".")
        return find_field(content[outer], inner) if inner and outer in content else None
    if isinstance(content, list) and all(isinstance(each, dict) for each in content):
        return [value for each in content if (value := find_field(each, field)) is not None]
    return None


def _labels(value: Any) -> list[str] | list[int] | None:
    """The distinct labels of a cell, sorted; None if it is no set of labels."""
    several = value if isinstance(value, list) else [value]
    for kind in (str, int):
        if all(isinstance(label, kind) and not isinstance(label, bool) for label in several):
            return sorted(set(several))
    return None


def _check_kinds(where: str, field: str, labels: dict[str | int, int]) -> list[str | int]:
    """The labels in order."""
    words = [label for label in labels if isinstance(label, str)]
    integers = [label for label in labels if isinstance(label, int)]
    if words and integers:
        raise ValueError(
            f"{where}: the field {field!r} holds integers, such as {integers[0]}, and strings, such as {words[0]!r}; "
            "expected one kind"
        )
    return [*sorted(words), *sorted(integers)]


def _of_classes(manifest: Manifest, split: str, names: Sequence[str] | None) -> LabelSets:
    assert manifest.classes is not None
    if names is not None and tuple(names) != manifest.classes:
        raise ValueError(
            f"{manifest.folder}: its {len(manifest.classes):,} classes are not the {len(names):,} that were trained "
            "on; give a dataset with the same classes in the same order"
        )
    labels = read_labels(manifest, split)
    known = labels != NO_LABEL
    starts = np.append(0, np.cumsum(known))
    return LabelSets(CLASS_FIELD, manifest.classes, starts, labels[known].astype(np.int32), known)


def _contents(manifest: Manifest, split: str, own: Integers) -> Iterator[tuple[Integers, list[Any]]]:
    """Samples, some at a time and in order, and what the .json of each says, {} without one."""
    described, local = manifest.split(split), threading.local()
    starts = sample_starts(described)

    def parsed(text: bytes, sample: int) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            key = look_up(manifest, split, [sample])[0].key
            raise ValueError(f"{manifest.folder} [{split}]: sample {key}: its .json is no JSON: {error}") from error

    def read(samples: Integers) -> tuple[Integers, list[Any]]:
        if not hasattr(local, "reader"):
            local.reader = ShardReader(manifest, described)  # of this thread
        shards, rows = locate_sample(starts, samples)
        places = zip(shards.tolist(), rows.tolist(), strict=True)
        files = [local.reader.annotations(shard, row) for shard, row in places]
        return samples, [parsed(one.get("json", b"{}"), sample) for one, sample in zip(files, samples, strict=True)]

    tasks = (own[start : start + _TASK] for start in range(0, len(own), _TASK))
    if not isinstance(manifest.tars, RemotePath):
        yield from map(read, tasks)
        return
    with ThreadPoolExecutor(_REQUESTS) as pool:
        waiting: deque[Future[tuple[Integers, list[Any]]]] = deque()
        try:
            for task in tasks:
                waiting.append(pool.submit(read, task))
                if len(waiting) >= 2 * _REQUESTS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
