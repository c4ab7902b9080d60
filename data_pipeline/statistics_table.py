"""What is in a dataset, from its manifest and, shard after shard, its indexes: as tables or as JSON."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.location import RemotePath
from data_pipeline.manifest import NO_LABEL, Manifest, open_index
from data_pipeline.tape import Tape
from data_pipeline.text_table import text_table
from data_pipeline.value_counts import EXACT_BELOW, ValueCounts

PERCENTS = (0, 1, 5, 25, 50, 75, 95, 99, 100)

_QUARANTINE = "quarantine.jsonl"
_TOP, _BOTTOM = 20, 5
_QUANTITIES = ("width", "height", "bytes", "aspect")
_ASPECT_UNIT = 1000
_WINDOW = 1 << 20
_MOST_REASONS = 100
_OTHER = "other reasons"


def dataset_statistics(manifest: Manifest, report: Callable[[int], None]) -> dict[str, Any]:
    """All that is told, for JSON. `report` gets the number of samples after each shard.

    Raises:
        DatasetError: an index is absent or altered.
        ValueError: a quarantine.jsonl that was edited.
    """
    splits = {name: _split_statistics(manifest, name, report) for name in manifest.splits}
    return {
        "folder": str(manifest.folder),
        "tars": str(manifest.tars),
        "classes": None if manifest.classes is None else len(manifest.classes),
        "splits": splits,
        "channel_mean": list(manifest.statistics.mean),
        "channel_std": list(manifest.statistics.std),
        "made": manifest.made,
        "left_out": _left_out(manifest),
    }


def tables(found: dict[str, Any]) -> str:
    """`dataset_statistics` for people."""
    parts = [_overview(found)]
    for name, split in found["splits"].items():
        parts.append(_sizes(name, split["sizes"]))
        if split["class_counts"]:
            parts.append(_classes(name, split))
    mean, std = (", ".join(f"{value:.4f}" for value in found[which]) for which in ("channel_mean", "channel_std"))
    parts.append(f"channels, of a full scale of 1: mean {mean}; deviation {std}")
    parts.append(_made(found))
    parts.append(
        f"Widths, heights and bytes are exact below {EXACT_BELOW:,} and to 0.05 % above, aspects (width / height) to "
        f"{1 / _ASPECT_UNIT:g}; least and most are exact. All samples are counted, withdrawn ones too."
    )
    return "\n\n".join(parts)


def _split_statistics(manifest: Manifest, name: str, report: Callable[[int], None]) -> dict[str, Any]:
    split = manifest.splits[name]
    classes = manifest.classes or ()
    counts = np.zeros(len(classes), np.int64)
    unlabelled = 0
    quantities = {quantity: ValueCounts() for quantity in _QUANTITIES}
    for shard in split.shards:
        index = open_index(manifest, shard)
        labels = index["label"]
        unlabelled += int((labels == NO_LABEL).sum())
        counts += np.bincount(labels[labels != NO_LABEL], minlength=len(classes))[: len(classes)]
        width, height = index["width"].astype(np.int64), index["height"].astype(np.int64)
        quantities["width"].add(width)
        quantities["height"].add(height)
        quantities["bytes"].add(index["image_length"])
        quantities["aspect"].add(np.rint(_ASPECT_UNIT * width / np.maximum(height, 1)).astype(np.int64))
        report(len(index))
    sizes: dict[str, dict[str, float]] = {
        quantity: {str(percent): counted.percentile(percent) for percent in PERCENTS}
        for quantity, counted in quantities.items()
    }
    sizes["aspect"] = {percent: value / _ASPECT_UNIT for percent, value in sizes["aspect"].items()}
    return {
        "samples": split.samples,
        "withdrawn": len(split.withdrawn),
        "shards": len(split.shards),
        "bytes": split.bytes,
        "extension": split.extension,
        "channels": split.channels,
        "dtype": split.dtype,
        "fingerprint": split.fingerprint,
        "unlabelled": unlabelled,
        "class_counts": {
            label: count for label, count in zip(classes, counts.tolist(), strict=True) if unlabelled < split.samples
        },
        "sizes": sizes,
    }


def _left_out(manifest: Manifest) -> dict[str, int]:
    """Images that are not in the dataset, by reason, without what of it is special to an image."""
    path = manifest.folder / _QUARANTINE
    if not path.is_file():
        return {}
    counts: Counter[str] = Counter()
    for number, line in enumerate(_lines(path), 1):
        try:
            reason = _general(json.loads(line)["reason"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: line {number} is not an object with a reason ({error}); remove it") from error
        counts[reason if reason in counts or len(counts) < _MOST_REASONS else _OTHER] += 1
    return dict(counts.most_common())


def _general(reason: str) -> str:
    """`same bytes as a.jpg` and `12 x 900 pixels: too narrow` are reasons of their own for every image."""
    for kind in ("same bytes as", "looks like"):
        if reason.startswith(kind):
            return f"{kind} another"
    return re.sub(r"\d[\d,.]*", "#", reason.partition(":")[0])


def _lines(path: Path | RemotePath) -> Iterator[bytes]:
    """In memory of one window, as a corpus of billions may have left out millions."""
    tape, rest = Tape(path, path.stat().st_size if isinstance(path, Path) else path.size()), b""
    while window := tape.take(_WINDOW):
        *whole, rest = (rest + window).split(b"\n")
        yield from whole
    if rest:
        yield rest


def _overview(found: dict[str, Any]) -> str:
    heading = ("split", "samples", "withdrawn", "shards", "bytes", "format", "fingerprint")
    rows = [
        (
            name,
            split["samples"],
            split["withdrawn"],
            split["shards"],
            split["bytes"],
            f"{split['extension']}, {split['channels']} x {split['dtype']}",
            split["fingerprint"][:16],
        )
        for name, split in found["splits"].items()
    ]
    classes = "no classes" if found["classes"] is None else f"{found['classes']:,} classes"
    elsewhere = "" if found["tars"] == found["folder"] else f", tars in {found['tars']}"
    return f"{found['folder']}: {classes}{elsewhere}\n\n{text_table(heading, rows)}"


def _sizes(name: str, sizes: dict[str, dict[str, float]]) -> str:
    heading = (
        name,
        *("least" if p == 0 else "most" if p == 100 else "median" if p == 50 else f"{p} %" for p in PERCENTS),
    )
    rows = [(quantity, *(sizes[quantity][str(percent)] for percent in PERCENTS)) for quantity in _QUANTITIES]
    return text_table(heading, rows)


def _classes(name: str, split: dict[str, Any]) -> str:
    ordered = sorted(split["class_counts"].items(), key=lambda item: (-item[1], item[0]))
    labelled = max(1, split["samples"] - split["unlabelled"])
    shown = ordered if len(ordered) <= _TOP + _BOTTOM else [*ordered[:_TOP], *ordered[-_BOTTOM:]]
    rows = [(label, count, 100 * count / labelled) for label, count in shown]
    lines = text_table((f"{name}: class", "samples", "%"), rows).splitlines()
    if len(shown) < len(ordered):
        lines.insert(1 + _TOP, f"... {len(ordered) - _TOP - _BOTTOM:,} more ...")
    most, least = ordered[0][1], ordered[-1][1]
    ratio = (
        f"the largest class has {most / least:,.1f} times the images of the smallest"
        if least
        else (f"{sum(count == 0 for _, count in ordered):,} of {len(ordered):,} classes have no image in this split")
    )
    unlabelled = f"; {split['unlabelled']:,} samples have no label" if split["unlabelled"] else ""
    return "\n".join([*lines, f"{ratio}{unlabelled}"])


def _made(found: dict[str, Any]) -> str:
    made = found["made"]
    lines = [f"made by: python data_pipeline/shard.py {made.get('command', '')} --out {found['folder']}"]
    if made.get("versions"):
        lines.append("with: " + ", ".join(f"{name} {version}" for name, version in made["versions"].items()))
    if made.get("source"):
        lines.append(f"from: {made['source']}")
    lines += [f"left out: {count:,} {reason}" for reason, count in found["left_out"].items()]
    return "\n".join(lines)
