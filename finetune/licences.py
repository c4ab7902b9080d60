"""Under which licence a model may be published: it follows from what its weights come from."""

from dataclasses import dataclass

from finetune.card_facts import plain
from finetune.finished_run import FinishedRun
from finetune.origins import Origin, trace_origins

UNSTATED = "other"
_UNSTATED_NAME = "unstated"


@dataclass(frozen=True)
class Licence:
    """The licence in the Hub's spelling, and who says so; `origins` are what the weights come from, the nearest first.

    `name` and `link` are of a licence that the Hub has no name for, `identifier` then is `other`.
    """

    identifier: str
    reason: str
    origins: tuple[Origin, ...] = ()
    name: str | None = None
    link: str | None = None

    @property
    def shown(self) -> str:
        """As people call it."""
        return self.identifier if self.name in (None, _UNSTATED_NAME) else f"{self.name}"

    @property
    def base_model(self) -> str | None:
        """The nearest repository of the Hub that the weights come from."""
        return next((origin.repository for origin in self.origins if origin.repository is not None), None)

    @property
    def chain(self) -> str:
        """What the weights come from, as a sentence of Markdown; empty where `reason` has said it all."""
        if not self.origins:
            return ""
        nearest = self.origins[0]
        if len(self.origins) == 1 and nearest.problem is None and nearest.licence in (None, self.identifier):
            return ""
        return f"Training started from {_chain(self.origins)}."


def find_licence(asked: str | None, run: FinishedRun) -> Licence:
    """The licence asked for, or that of what training started from, however many runs lie between, or `other`.

    What may not be used commercially stays so.

    Raises:
        ValueError: the licence asked for allows what that of an origin forbids, or the front matter of an origin's
            README.md is damaged.
    """
    origins = trace_origins(run)
    barred = next((origin for origin in origins if _is_non_commercial(origin.licence)), None)
    if asked is not None:
        if barred is not None and not _is_non_commercial(asked):
            raise ValueError(
                f"--license {asked}: training started from {_chain(origins)}: {barred.licence} allows no commercial "
                f"use, and these weights come under it; give --license {barred.licence}, or leave it out"
            )
        return Licence(asked, "as stated by who published it", origins)
    stated = barred or next((origin for origin in origins if origin.licence is not None or origin.damaged), None)
    if stated is None:
        return Licence(UNSTATED, _unstated(origins), origins, _UNSTATED_NAME)
    if stated.licence is None:
        raise ValueError(f"{stated.damaged}; give --license")
    step = origins.index(stated)
    between = "" if step == 0 else f" by way of {' and '.join(plain(one.name) for one in origins[:step])}"
    known = "" if stated.said_by.startswith("its ") else f" ({stated.said_by})"
    reason = f"that of {plain(stated.name)}{known}, which training started from{between}"
    return Licence(stated.licence, reason, origins, stated.licence_name, stated.licence_link)


def _is_non_commercial(licence: str | None) -> bool:
    """Whether a licence in the Hub's spelling says `nc`, as cc-by-nc-4.0 and cc-by-nc-sa-4.0 do."""
    return licence is not None and "nc" in licence.split("-")


def _unstated(origins: tuple[Origin, ...]) -> str:
    ask = "ask its author before using the weights"
    unread = next((origin for origin in origins if origin.problem is not None), None)
    if unread is not None:
        return f"no licence was stated, and {plain(unread.name)}, which training started from, {unread.problem}; {ask}"
    return f"no licence was stated when this folder was written; {ask}"


def _chain(origins: tuple[Origin, ...]) -> str:
    """`tuned (a run), that from big (cc-by-nc-4.0, says its card)`."""
    return ", that from ".join(f"{plain(origin.name)} ({_about(origin)})" for origin in origins)


def _about(origin: Origin) -> str:
    if origin.licence is not None:
        of = "says" if origin.said_by.startswith("its ") or origin.said_by == "timm" else "of"
        return f"{plain(origin.licence_name or origin.licence)}, {of} {origin.said_by}"
    if origin.problem is not None or origin.damaged is not None:
        return origin.problem or "its card is damaged"
    return "a run" if origin.is_run else "no licence stated"
