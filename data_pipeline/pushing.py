"""`--push`: a finished dataset folder goes to the Hub, with a card, and without what tells of this machine.

The tars, indexes and `_info.json` go as they are. The manifest names a local source by its last part alone. The lists
of the samples' names in the source become lists of their keys, `withdrawn.txt` loses its comments, and
`quarantine.jsonl` and `near_duplicates.jsonl` stay here: they name files that others do not have.
"""

import json
import os
import tempfile
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_pipeline.config import ShardConfig
from data_pipeline.dataset_card import dataset_card
from data_pipeline.description import TIMM_INFO
from data_pipeline.manifest import (
    FORMAT,
    MANIFEST,
    Manifest,
    key_prefix,
    open_index,
    read_manifest,
    write_manifest,
)
from data_pipeline.shard_plan import order_file
from data_pipeline.shard_table import ShardTable
from data_pipeline.tar_files import names_tars
from data_pipeline.withdrawn import WITHDRAWN, read_keys
from launch.console import Console
from launch.hub import account, page_of, preview, push
from launch.hub_plan import CARD, Upload
from launch.redaction import redact

Work = Callable[[ShardConfig, Console], Any]


def with_upload(work: Work) -> Work:
    """`work`, which writes or finds a dataset, and then the upload; a dry run of a finished one lists what would go.

    What is returned raises what `work` does, and:
        ValueError: tars that lie elsewhere, or what the Hub refuses.
        HubError: the Hub or the network failed.
    """

    def work_and_upload(config: ShardConfig, console: Console) -> None:
        assert config.push is not None
        finished = (Path(config.out) / MANIFEST).is_file()
        if config.dry_run:
            if finished:
                _upload(config, console)
            elif config.index_only:
                raise ValueError(f"--dry-run: {config.out} holds no finished dataset to upload; run without it first")
            else:
                work(config, console)
                console.say(f"then it would be uploaded as dataset {config.push}")
            return
        account(config.push, "dataset")  # hours later would be a bad moment to learn that the token is wrong
        work(config, console)
        _upload(config, console)

    return work_and_upload


def _upload(config: ShardConfig, console: Console) -> None:
    assert config.push is not None
    manifest = read_manifest(config.out)
    with tempfile.TemporaryDirectory(prefix="sherd-push-") as scratch:
        upload = dataset_upload(config, manifest, Path(scratch))
        withdrawn = sum(len(split.withdrawn) for split in manifest.splits.values())
        if withdrawn:
            console.say(f"{withdrawn:,} withdrawn samples stay in the tars that are uploaded: {WITHDRAWN} names them")
        if config.dry_run:
            preview(upload, config.hub, console)
            return
        pushed = push(upload, config.hub, console)
        console.say(f"{pushed.url}")
        at = "" if pushed.revision is None else f"@{pushed.revision.replace('/', '%2F')}"
        console.say(f"next: python pretrain/mae.py RECIPE --data hf://datasets/{config.push}{at} --out runs/x")


def dataset_upload(config: ShardConfig, manifest: Manifest, scratch: Path) -> Upload:
    """The files to upload; those that are not as in the folder are written into `scratch`.

    Raises:
        ValueError: the dataset's tars do not lie in its folder.
        DatasetError: an index is missing or altered.
    """
    assert config.push is not None
    assert isinstance(manifest.folder, Path)
    if manifest.tars_at is not None:
        raise ValueError(
            f"--push {config.push}: the tars of {config.out} lie in {redact(manifest.tars_at)}, and only what lies in "
            "the dataset's own folder is uploaded; index them in place (--out the folder of the tars), or leave out "
            "--index-only"
        )
    folder, shown = manifest.folder, replace(manifest, folder=scratch, made=public_record(config, manifest))
    files: dict[str, Path] = {}
    sha256: dict[str, str] = {}
    for name, split in manifest.splits.items():
        for shard in split.shards:
            files |= {shard.file: folder / shard.file, shard.index: folder / shard.index}
            sha256 |= {shard.file: shard.sha256, shard.index: shard.index_sha256}
            files[shard.names] = folder / shard.names
            if shard.first >= 0:  # otherwise the names are the keys already
                keys = (f"{key_prefix(name)}-{place:09d}\n" for place in open_index(manifest, shard)["place"])
                files[shard.names] = _write(scratch / shard.names, "".join(keys))
    for path in (*(order_file(folder, name) for name in manifest.splits), folder / TIMM_INFO):
        if path.is_file():
            files[path.relative_to(folder).as_posix()] = path
    if (folder / WITHDRAWN).is_file():
        keys = read_keys((folder / WITHDRAWN).read_text())
        files[WITHDRAWN] = _write(scratch / WITHDRAWN, "".join(f"{key}\n" for key in keys))
    revision = config.hub.tag or (None if config.hub.branch == "main" else config.hub.branch)
    card = dataset_card(shown, config.push, revision, config.license, page_of(config.push, "dataset"))
    files[CARD] = _write(scratch / CARD, card)
    write_manifest(shown)
    files[MANIFEST] = scratch / MANIFEST
    samples = sum(split.present for split in manifest.splits.values())
    message = f"Upload {samples:,} images by sherd"
    return Upload(config.push, "dataset", files, MANIFEST, written_files, message, sha256)


def public_record(config: ShardConfig, manifest: Manifest) -> dict[str, Any]:
    """What the manifest says of how it was made, with a source on this machine named by its last part alone."""
    source = config.source
    local = "://" not in source and (os.path.exists(source) or source.startswith(("/", ".", "~")) or names_tars(source))
    named = os.path.basename(os.path.abspath(source)) if local else redact(source)
    described = manifest.made["source"]
    for path in sorted({source, os.path.abspath(source), os.path.realpath(source)}, key=len, reverse=True):
        described = described.replace(path, named) if local else described
    return manifest.made | {
        "command": replace(config, source=named).command,
        "options": manifest.made["options"] | {"source": named},
        "source": redact(described),
    }


def written_files(marker: bytes) -> Collection[str]:
    """The files of the upload whose manifest has these bytes.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: it is no manifest.
    """
    content = json.loads(marker)
    if content["format"] != FORMAT:
        raise ValueError(f"format is {content['format']!r}, expected {FORMAT!r}")
    names = {MANIFEST, CARD, TIMM_INFO, WITHDRAWN}
    for name, split in content["splits"].items():
        names.add(order_file(Path(), name).as_posix())
        for shard in ShardTable.from_json(split["shards"]):
            names |= {shard.file, shard.index, shard.names}
    return names


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
