"""What a run's weights come from, step by step: runs, model folders, files and repositories of the Hub."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, metadata_load
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
from yaml import YAMLError

from finetune.finished_run import FinishedRun
from finetune.named_places import places_named
from finetune.released_weights import released_as, timm_licence
from launch.strict_json import read_json, to_json
from pretrain.model_folder import written_by_sherd
from pretrain.supervised_config import SCRATCH

_HUB = re.compile(r"hf://([^/@\s]+/[^/@\s]+)(?:@(\S+))?")
_CARD, _CONFIG = "README.md", "config.json"
_WEIGHTS = (".safetensors", ".pth", ".pt", ".bin")
_MOST = 50
_UNSTATED = "other"


@dataclass(frozen=True)
class Origin:
    """One step of the way back from a run.

    `name` is without folders; `repository` is that of the Hub, None elsewhere. `licence` is None where nobody states
    one, and `said_by` whoever does; `licence_name` and `licence_link` are of one that the Hub has no name for.
    `problem` says, as a clause, why no licence could be read, and `damaged` what is wrong with the card.
    """

    name: str
    is_run: bool = False
    repository: str | None = None
    licence: str | None = None
    said_by: str = ""
    licence_name: str | None = None
    licence_link: str | None = None
    problem: str | None = None
    damaged: str | None = None


@dataclass(frozen=True)
class _Next:
    """What is to be looked at, as a config.json or a card names it, and where that may lie; nowhere on the Hub."""

    where: str
    places: tuple[Path, ...] = ()


def trace_origins(run: FinishedRun) -> tuple[Origin, ...]:
    """What the run started from, what that started from, and so on; () for new weights. May ask the Hub for cards."""
    return tuple(_walk(_start_of(to_json(run.config), run.folder.path)))


def _walk(step: _Next | None) -> Iterator[Origin]:
    seen: set[str] = set()
    while step is not None and len(seen) < _MOST:
        place = next((place for place in step.places if place.exists()), None)
        key = step.where if place is None else str(place.resolve())
        if key in seen:
            return
        seen.add(key)
        hub = _HUB.fullmatch(step.where)
        origin, step = _on_hub(hub[1], hub[2]) if hub is not None else _here(step.where, place)
        yield origin


def _start_of(config: Mapping[str, Any], folder: Path) -> _Next | None:
    """What a run with this config.json took its weights from; None for new ones."""
    # A run that goes on from another's checkpoint takes that run's weights, whatever else it names.
    where = config.get("resume") or config.get("init") or config.get("init_from") or SCRATCH
    if where == SCRATCH:
        return None
    where = str(where)
    return _Next(where) if "://" in where else _Next(where, places_named(where, config, folder))


def _here(where: str, place: Path | None) -> tuple[Origin, _Next | None]:
    origin = Origin(Path(where).name)
    run = None if place is None or (place / _CARD).is_file() else _run_around(place)
    if run is not None:
        return replace(origin, name=run.name, is_run=True), _start_of(read_json(run / _CONFIG), run)
    config = _config_in(place)
    known = next((found for name in _known_as(where, place, config) if (found := released_as(name)) is not None), None)
    if known is not None:
        return replace(origin, licence=known.licence, said_by=known.what), None
    if place is None:
        return replace(origin, problem="is not there any more"), None
    if (place / _CARD).is_file():
        return _by_card(origin, place / _CARD)
    licence = _spelled((config.get("pretrained_cfg") or {}).get("license"))
    return replace(origin, licence=licence, said_by=f"its {_CONFIG}"), None


def _config_in(place: Path | None) -> dict[str, Any]:
    """The config.json of a model folder; {} where there is none."""
    return read_json(place / _CONFIG) if place is not None and (place / _CONFIG).is_file() else {}


def _known_as(where: str, place: Path | None, config: Mapping[str, Any]) -> Iterator[str]:
    """As what weights may be known: by the names of files, and by what timm and Transformers write down of where they
    had them from. What sherd has written is known by its card alone, whatever a user has called the folder.
    """
    name = Path(where).name
    if Path(name).suffix in _WEIGHTS or (config and not written_by_sherd(config)):
        yield name
    if place is not None and place.is_dir():
        yield from sorted(path.name for path in place.iterdir() if path.suffix in _WEIGHTS)
    tag = (config.get("pretrained_cfg") or {}).get("tag")
    if tag:
        yield f"{config.get('architecture')}.{tag}"
    if isinstance(config.get("_name_or_path"), str):
        yield config["_name_or_path"]


def _run_around(place: Path) -> Path | None:
    """The run folder that a place is, or lies in, as `encoder/`, `best/` or a checkpoint does."""
    for folder in (place, *place.resolve().parents[:2]):
        if (folder / _CONFIG).is_file() and "recipe" in read_json(folder / _CONFIG):
            return folder.resolve()
    return None


def _on_hub(repository: str, revision: str | None) -> tuple[Origin, _Next | None]:
    origin, known = Origin(repository, repository=repository), released_as(repository)
    if known is not None:
        return replace(origin, licence=known.licence, said_by=known.what), None
    broken: Any = HfHubHTTPError.__bases__  # see pretrain/weight_files.py
    try:
        card = Path(hf_hub_download(repository, _CARD, revision=revision))
    except (OSError, ValueError, *broken) as error:
        user, _, name = repository.partition("/")
        by_timm = timm_licence(name) if user == "timm" else None
        if by_timm is not None:
            return replace(origin, licence=by_timm, said_by="timm"), None
        has_no_card = isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)
        return origin if has_no_card else replace(origin, problem="could not be looked up on the Hub"), None
    return _by_card(origin, card)


def _by_card(origin: Origin, card: Path) -> tuple[Origin, _Next | None]:
    """What the front matter of a model's README.md says; a licence that has no name there is none."""
    try:
        found = metadata_load(card) or {}
    except (ValueError, YAMLError) as error:
        why = f"{card}: its front matter cannot be read for the licence that training started from "
        return replace(origin, damaged=why + f"({' '.join(str(error).split())})"), None
    base = found.get("base_model")
    base = base[0] if isinstance(base, list) and base else base
    following = _Next(f"hf://{base}") if isinstance(base, str) and _HUB.fullmatch(f"hf://{base}") else None
    licence, name, link = _spelled(found.get("license")), found.get("license_name"), found.get("license_link")
    if licence == _UNSTATED and name is None:
        return origin, following
    if isinstance(link, str) and "://" not in link:
        link = None if origin.repository is None else f"https://huggingface.co/{origin.repository}/blob/main/{link}"
    told = {"licence_name": name, "licence_link": link} if licence == _UNSTATED else {}
    return replace(origin, licence=licence, said_by="its card", **told), following


def _spelled(licence: Any) -> str | None:
    """As the Hub spells it; of several, which old cards have, the first."""
    first = licence[0] if isinstance(licence, list) and licence else licence
    return first.lower() if isinstance(first, str) else None
