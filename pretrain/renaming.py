"""Tensors of others under the names that facebook's files and timm share, by the tables of key_tables.py."""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from launch.redaction import redact
from pretrain.key_tables import LEFT_OUT, READ, Naming, Table, features_of
from pretrain.weight_files import WeightFile, read_weight_file, some

Layout = Literal["facebook", "timm", "transformers"]
_PREFIXES = re.compile(r"(vit|deit)\.")


class Piece(NamedTuple):
    """A shared tensor of which a foreign one is piece `index` of `count`, along the first axis."""

    name: str
    index: int = 0
    count: int = 1


@dataclass(frozen=True)
class Renamed:
    """Tensors by shared names; the foreign names of each; foreign names that are left out; those not known, or naming
    what another named already; and shared names whose pieces are not all there, or not alike."""

    naming: Naming
    tensors: dict[str, Tensor]
    sources: dict[str, tuple[str, ...]]
    left_out: tuple[str, ...]
    unknown: tuple[str, ...]
    incomplete: tuple[str, ...]


def read_renamed(where: str, option: str) -> tuple[WeightFile, Renamed]:
    """Read a file, a folder or `hf://user/name[@revision]`; whose names they are these say themselves.

    Raises:
        ValueError: nothing there, not readable, of no layout that is known, or names that it does not have; the message
            begins with `option`.
    """
    file, said = read_weight_file(where, option), f"{option} {redact(where)}"
    renamed = rename(file.tensors)
    if renamed is None:
        if "encoder.patch_embed.proj.weight" in file.tensors:
            raise ValueError(f"{said}: the weights of a checkpoint of sherd; give its folder, or the run's")
        raise ValueError(
            f"{said}: not in the layout of facebook's MAE, timm or Transformers: found {some(list(file.tensors))}; "
            "expected patch_embed.proj.weight or embeddings.patch_embeddings.projection.weight, and what goes with it"
        )
    if renamed.unknown or renamed.incomplete:
        raise ValueError(unlike_plain(said, layout_of(file, renamed), renamed.unknown, renamed.incomplete))
    return file, renamed


def layout_of(file: WeightFile, renamed: Renamed) -> Layout:
    """Whose layout weights are in; facebook and timm share their names, so these are told apart by the file."""
    if renamed.naming == "transformers":
        return "transformers"
    is_facebooks = file.path.suffix in (".pth", ".pt") or "decoder_pred.weight" in renamed.tensors
    return "facebook" if is_facebooks else "timm"


def unlike_plain(said: str, layout: Layout, unknown: tuple[str, ...], incomplete: tuple[str, ...] = ()) -> str:
    """The message that names are not those of a plain model."""
    features = features_of(unknown)
    what = f" ({', '.join(features)})" if features else ""
    return (
        f"{said}: not a plain vision transformer or masked autoencoder in the layout of {layout}: unknown "
        f"{some(unknown)}{what}; missing or in unlike pieces {some(incomplete)}; give weights of a plain one"
    )


def rename(tensors: Mapping[str, Tensor]) -> Renamed | None:
    """The tensors by shared names, or None where no name shows whose they are: that of the patch projection does."""
    if "patch_embed.proj.weight" in tensors:
        naming: Naming = "shared"
    elif any(bare(name) == "embeddings.patch_embeddings.projection.weight" for name in tensors):
        naming = "transformers"
    else:
        return None
    found: defaultdict[str, dict[int, str]] = defaultdict(dict)
    counts: dict[str, int] = {}
    left_out, unknown = [], []
    for key in tensors:
        piece = _piece(key, naming)
        if piece is not None and piece.index not in found[piece.name]:
            found[piece.name][piece.index] = key
            counts[piece.name] = piece.count
        elif piece is None and bare(key).partition(".")[0] in LEFT_OUT:
            left_out.append(key)
        else:
            unknown.append(key)
    sources = {name: tuple(keys[index] for index in sorted(keys)) for name, keys in found.items()}
    whole = {n: keys for n, keys in sources.items() if _are_alike([tensors[key] for key in keys], counts[n])}
    joined = {
        name: tensors[keys[0]] if counts[name] == 1 else torch.cat([tensors[key] for key in keys])
        for name, keys in whole.items()
    }
    incomplete = tuple(name for name in sources if name not in whole)
    return Renamed(naming, joined, whole, tuple(left_out), tuple(unknown), incomplete)


def bare(key: str) -> str:
    """A name of Transformers without the prefix of a model that stands inside another."""
    return _PREFIXES.sub("", key, count=1) if _PREFIXES.match(key) else key


def _piece(key: str, naming: Naming) -> Piece | None:
    key = bare(key) if naming == "transformers" else key
    for tables in READ[naming]:
        module, dot, kind = key.rpartition(".")
        tops, inner = _inverse(tables.top), _inverse(tables.block)
        if key in tops:
            return tops[key]
        if module in tops:
            return _within(tops[module], "", f"{dot}{kind}")
        match = re.fullmatch(r"(\D+)\.(\d+)\.(.+)", key)
        lists = {theirs: ours for ours, theirs in tables.lists.items()}
        if match is None or match[1] not in lists:
            continue
        prefix, (module, dot, kind) = f"{lists[match[1]]}.{match[2]}.", match[3].rpartition(".")
        if match[3] in inner:
            return _within(inner[match[3]], prefix, "")
        if module in inner:
            return _within(inner[module], prefix, f"{dot}{kind}")
    return None


def _inverse(table: Table) -> dict[str, Piece]:
    return {
        theirs: Piece(ours, index, len(pieces)) for ours, pieces in table.items() for index, theirs in enumerate(pieces)
    }


def _within(piece: Piece, prefix: str, kind: str) -> Piece:
    return Piece(f"{prefix}{piece.name}{kind}", piece.index, piece.count)


def _are_alike(pieces: list[Tensor], count: int) -> bool:
    shapes = {piece.shape for piece in pieces}
    return count == 1 or (len(pieces) == count and len(shapes) == 1 and len(shapes.pop()) > 0)
