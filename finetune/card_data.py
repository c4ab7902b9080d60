"""What a model card tells of the images: where they came from, what became of them, how many there are."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from data_pipeline.manifest import Manifest, Split
from finetune.card_facts import Row, data_name, hub_datasets, plain
from launch.redaction import redact

_KINDS = ("folder of images", "WebDataset tars", "Hub dataset", "stream of", "table", "list")
_PLACES = ("source",)
"""Options that name a place; what they say is told, without the place, as the source."""


@dataclass(frozen=True)
class SplitFacts:
    """A row of the table of splits."""

    name: str
    images: str
    classes: str
    fingerprint: str


@dataclass(frozen=True)
class DataFacts:
    """How a dataset was made, and its splits. `links` are (name, address) of what lies on the Hub."""

    name: str
    links: tuple[Row, ...]
    rows: tuple[Row, ...]
    splits: tuple[SplitFacts, ...]


def data_facts(manifest: Manifest) -> DataFacts:
    """All that manifest.json tells of how its images were chosen and stored, without the folders that they lay in."""
    splits = tuple(
        SplitFacts(plain(name), f"{split.present:,}", _balance(split), split.fingerprint)
        for name, split in manifest.splits.items()
    )
    links = tuple((plain(name), f"https://huggingface.co/datasets/{name}") for name in hub_datasets(manifest))
    return DataFacts(data_name(manifest), links, tuple(_rows(manifest)), splits)


def _rows(manifest: Manifest) -> Iterator[Row]:
    made = manifest.made
    if "source" in made:
        yield "Source", plain(_without_place(str(made["source"])))
    options = [_option(name, value) for name, value in made.get("options", {}).items() if name not in _PLACES]
    if options:
        yield "Options", " ".join(f"`{option}`" for option in options)
    if "listed" in made:
        yield "Found", ", ".join(f"{count:,} images in {plain(name)}" for name, count in made["listed"].items())
    yield "Left out", ", ".join(_left_out(manifest)) or "nothing"
    changes = ", ".join(_changed(made))
    yield "Changed", changes or "nothing: each image is stored byte for byte"
    (width, height), (widest, highest) = manifest.statistics.smallest, manifest.statistics.largest
    is_one = (width, height) == (widest, highest)
    yield "Size", f"{width} x {height} pixels" + ("" if is_one else f" at least, {widest} x {highest} at most")
    if made.get("versions"):
        yield "Made with", plain(", ".join(f"{name} {version}" for name, version in made["versions"].items()))


def _left_out(manifest: Manifest) -> Iterator[str]:
    for reason, count in manifest.made.get("dropped", {}).items():
        yield f"{count:,} by `--{reason.replace('_', '-')}`"
    if broken := manifest.made.get("quarantined"):
        yield f"{broken:,} that do not decode"
    if withdrawn := sum(len(split.withdrawn) for split in manifest.splits.values()):
        yield f"{withdrawn:,} withdrawn since"


def _changed(made: dict[str, Any]) -> Iterator[str]:
    if converted := made.get("converted"):
        yield f"{converted:,} images encoded as PNG, without loss"
    if shrunk := made.get("shrunk"):
        yield f"{shrunk:,} images made smaller, and encoded anew as JPEG"


def _balance(split: Split) -> str:
    """How many classes have images, and how many these have."""
    counts = [count for count in split.class_counts if count]
    if not counts:
        return "no labels"
    least, most = min(counts), max(counts)
    each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    return f"{len(counts):,}, of {each} images"


def _option(name: str, value: Any) -> str:
    text = f"--{name}" if value is True else f"--{name} {value}"
    return re.sub(r"`", "'", " ".join(text.split()))


def _without_place(source: str) -> str:
    """`table cifar10` of `table /home/somebody/cifar10`: what was read, of its place the last name alone."""
    kind = next((kind for kind in _KINDS if source.startswith(f"{kind} ")), None)
    if kind is None:
        return source if "/" not in source else _last(source)
    place = source.removeprefix(f"{kind} ")
    return f"{kind} {place if kind in ('Hub dataset', 'stream of') else _last(place)}"


def _last(place: str) -> str:
    plain_place = redact(place).partition("?")[0] if "://" in place else place
    return plain_place.rstrip("/").rpartition("/")[2]
