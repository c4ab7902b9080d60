"""`publish.py --verify`: is a published model still what was proven, and does its library still compute the same?"""

import re
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from finetune.proof import OUTPUTS, check_library, compare, whose
from finetune.proof_record import read_record, read_recorded
from finetune.stock_process import ask_stock
from launch.console import Console
from launch.hub_errors import explained

_HUB = re.compile(r"(?:hf://)?([\w.-]+/[\w.-]+)(?:@(\S+))?")


def verify(where: str, console: Console) -> float:
    """Check a folder, or a repository of the Hub, and compute its recorded inputs again; the largest difference.

    Raises:
        ValueError: nothing there that was published, a file that changed by a bit, or other outputs.
    """
    folder = find_published(where, console)
    record = read_record(folder)
    layout, library = record.proof.layout, record.proof.library
    console.say(f"{where}: {len(record.proof.files)} files, each as it was written (SHA-256)")
    check_library(layout, record.proof.compared)
    recorded = read_recorded(folder)
    inputs = recorded.inputs(record.normalization)
    try:
        answer = ask_stock(layout, folder, inputs)
    except ValueError as error:
        raise ValueError(
            f"{where}: {library} here cannot use it: {error}; its card names the versions it was proven with"
        ) from error
    fix = "these versions compute something else: its card names those it was proven with"
    difference = compare(answer.given, recorded.expected, whose(library), "the run's checkpoint", fix)
    versions = ", ".join(f"{name} {version}" for name, version in answer.versions.items())
    console.say(f"computed {record.recorded_images} images ({record.recorded_pixels}) with {versions}")
    compared, checkpoint = OUTPUTS[record.proof.compared], record.checkpoint
    console.say(
        f"verified: {compared} differ by {difference:.3g} at most from those of the checkpoint at step "
        f"{checkpoint.step:,}, whose weights had the SHA-256 {checkpoint.sha256}"
    )
    return difference


def find_published(where: str, console: Console) -> Path:
    """The folder itself, or what huggingface_hub fetches. Raises ValueError where there is neither."""
    if Path(where).is_dir():
        return Path(where)
    hub = _HUB.fullmatch(where)
    if hub is None:
        raise ValueError(
            f"--verify {where}: expected a folder that publish.py has written, or user/name on the Hub, found neither"
        )
    console.say(f"{where}: fetched from the Hub, unless its cache has it")
    return fetch_snapshot(hub[1], hub[2], "--verify")


def fetch_snapshot(repository: str, revision: str | None, said: str) -> Path:
    """All files of a repository, in huggingface_hub's cache. Raises ValueError or HubError, as `explained` says."""
    # A broken connection is no OSError but an error of the HTTP library, which changes with huggingface_hub's version.
    broken: Any = HfHubHTTPError.__bases__
    try:
        return Path(snapshot_download(repository, revision=revision))
    except (OSError, ValueError, *broken) as error:
        raise explained(error, f"{said}: model {repository}", "download", HfApi().endpoint) from error
