"""Weights that are known by name, with the licence that they were released under, whatever a copy's card says."""

import re
from dataclasses import dataclass

from timm.models import get_pretrained_cfg


@dataclass(frozen=True)
class Released:
    """Weights of one publication, and the licence in the Hub's spelling."""

    what: str
    licence: str


_MAE = Released("MAE's released weights", "cc-by-nc-4.0")
_DEIT = Released("DeiT's released weights", "apache-2.0")

_BY_NAME = (
    # LICENSE of https://github.com/facebookresearch/mae is CC BY-NC 4.0. Its README and FINETUNE.md name these files.
    (re.compile(r"mae_(pretrain|visualize|finetuned?)_vit_.*"), _MAE),
    # The same weights in Transformers' layout, whose card says apache-2.0, and in timm's.
    (re.compile(r"facebook/vit-mae-.*"), _MAE),
    (re.compile(r"(timm/)?vit_[^./]*\.mae([_-].*)?"), _MAE),
    # LICENSE of https://github.com/facebookresearch/deit is Apache-2.0: DeiT, its distilled models and DeiT III.
    (re.compile(r"facebook/deit-.*"), _DEIT),
    (re.compile(r"deit_(tiny|small|base|3)_.*\.pth"), _DEIT),
    (re.compile(r"(timm/)?deit3?_[^./]*\.fb_.*"), _DEIT),
)


def released_as(name: str) -> Released | None:
    """What a file, a repository of the Hub or timm's `architecture.tag` is known as; None for any other."""
    return next((known for pattern, known in _BY_NAME if pattern.fullmatch(name.lower())), None)


def timm_licence(name: str) -> str | None:
    """What the installed timm itself says of its weights `architecture.tag`; None where it does not know."""
    found = get_pretrained_cfg(name)
    said = None if found is None else found.license
    return None if said is None else said.lower()
