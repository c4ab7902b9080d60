"""The README.md of a dataset on the Hub: front matter by which `datasets` finds the splits, and facts for people.

All of it is read from the manifest.
"""

import re
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import DatasetCardData
from jinja2 import Environment, StrictUndefined

from data_pipeline.manifest import Manifest, Split, key_prefix

_TEMPLATE = Path(__file__).with_name("dataset_card.md.jinja")
_SIZES = {
    1_000: "n<1K",
    10_000: "1K<n<10K",
    100_000: "10K<n<100K",
    1_000_000: "100K<n<1M",
    10_000_000: "1M<n<10M",
    100_000_000: "10M<n<100M",
    1_000_000_000: "100M<n<1B",
}
_CHANGES = {
    "quarantined": "{:,} broken images were left out",
    "duplicates": "{:,} images with the bytes of an earlier one were left out",
    "near_duplicates": "{:,} images that look like an earlier one were left out",
    "shrunk": "{:,} larger images were encoded anew",
    "converted": "{:,} images that are not PNG were encoded as PNG, without loss",
    "foreign": "{:,} images that are not JPEG are kept under `.jpg`",
}


def dataset_card(manifest: Manifest, repository: str, revision: str | None, licence: str, page: str) -> str:
    """The card of a dataset whose manifest may be shown to everybody.

    Args:
        manifest: with withdrawn samples marked.
        repository: `user/name`, where it goes.
        revision: branch or tag that readers should name; None for main.
        licence: as the Hub spells it.
        page: the repository's address.
    """
    made, statistics = manifest.made, manifest.statistics
    measured = "train" if "train" in manifest.splits else next(iter(manifest.splits))
    samples = sum(split.present for split in manifest.splits.values())
    front_matter = DatasetCardData(
        license=licence,
        pretty_name=repository.partition("/")[2],
        task_categories=["image-classification"] if manifest.classes else None,
        size_categories=[next((name for most, name in _SIZES.items() if samples < most), "n>1B")],
        tags=["webdataset"],
        configs=[
            {
                "config_name": "default",
                "data_files": [
                    {"split": re.sub(r"\W", "_", name), "path": data_files(manifest, name)} for name in manifest.splits
                ],
            }
        ],
    )
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["plain"] = _plain
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        front_matter=front_matter.to_yaml().rstrip(),
        title=repository.partition("/")[2],
        samples=samples,
        shards=sum(len(split.shards) for split in manifest.splits.values()),
        splits=manifest.splits,
        shuffled=all(shard.first >= 0 for split in manifest.splits.values() for shard in split.shards[:1]),
        withdrawn=sum(len(split.withdrawn) for split in manifest.splits.values()),
        classes=manifest.classes,
        has_annotations=bool(made.get("annotated")),
        measured=measured,
        mean=_numbers(statistics.mean),
        deviation=_numbers(statistics.std),
        smallest="{} x {}".format(*statistics.smallest),
        largest="{} x {}".format(*statistics.largest),
        address=f"hf://datasets/{repository}{'' if revision is None else '@' + revision.replace('/', '%2F')}",
        repository=repository,
        revision=revision,
        page=page,
        some_tars=_some_tars(manifest.splits[measured]),
        source=made["source"],
        command=made["command"],
        versions=", ".join(f"{name} {version}" for name, version in made["versions"].items()),
        changes=_changes(manifest),
        licence=licence,
    )


def data_files(manifest: Manifest, name: str) -> str | list[str]:
    """A pattern for the tars of a split that fits no others, or else their list."""
    pattern = f"{key_prefix(name)}-*.tar"
    files = [shard.file for shard in manifest.splits[name].shards]
    matched = [
        shard.file for split in manifest.splits.values() for shard in split.shards if fnmatch(shard.file, pattern)
    ]
    return pattern if matched == files else files


def _some_tars(split: Split) -> str:
    files = [shard.file for shard in split.shards[:3]]
    return "[" + ", ".join(f'"{file}"' for file in files) + "]" + ("  # and so on" if len(split.shards) > 3 else "")


def _changes(manifest: Manifest) -> list[str]:
    counts = {**manifest.made, **manifest.made["dropped"]}
    known = [text.format(counts[name]) for name, text in _CHANGES.items() if counts.get(name)]
    others = {name: count for name, count in manifest.made["dropped"].items() if name not in _CHANGES}
    return known + [f"{count:,} images were left out by --{name.replace('_', '-')}" for name, count in others.items()]


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


def _plain(text: object) -> str:
    """Shown as it is: Markdown takes none of it for a sign."""
    return re.sub(r"([\\`*_{}\[\]<>|#&~$])", r"\\\1", " ".join(str(text).split()))
