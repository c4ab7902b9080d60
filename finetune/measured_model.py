"""Whether results lying in a folder are of the very model that is to be published."""

from pathlib import Path

from finetune.finished_run import FinishedRun
from finetune.named_places import places_named
from finetune.report_folders import Folder
from launch.strict_json import read_json
from pretrain.model_source import ModelSource, find_source


def check_measured(folder: Folder, said: str, run: FinishedRun, init: str, sha256: str | None) -> None:
    """Make sure that what a folder of results was made with is the model that the run exported.

    By the SHA-256 of its weights where that was written down, otherwise by what lies there now under the name `init`
    that was given, if the run had ended before.

    Raises:
        ValueError: it is another, or that cannot be seen; begins with `said`.
    """
    if sha256 is not None:
        if sha256 != run.exported.sha256:
            raise ValueError(another_model(said, f"{init}, weights with the SHA-256 {sha256[:16]}", run))
        return
    measured = _source_of(folder, init)
    if measured is None:
        raise ValueError(
            f"{said}: measured {init}, which is not there any more, so whether that is the model of {run.folder.path} "
            "cannot be seen; measure again, or leave this folder out"
        )
    is_same_place = measured.path.resolve() == run.exported.path.resolve()
    if not is_same_place and measured.sha256 != run.exported.sha256:
        raise ValueError(another_model(said, init, run))
    ended = read_json(run.folder.exit).get("ended", "") if run.folder.exit.is_file() else ""
    if is_same_place and str(folder.ended.get("ended", "")) < ended:
        raise ValueError(
            f"{said}: measured {init} before the run there ended, when its model may have been another; measure again, "
            "or leave this folder out"
        )


def another_model(said: str, measured: str, run: FinishedRun) -> str:
    """What to tell a user whose results are of another model."""
    return (
        f"{said}: measured another model than the one of {run.folder.path}: {measured}; expected results of this very "
        "model; leave this folder out, or measure it"
    )


def _source_of(folder: Folder, init: str) -> ModelSource | None:
    """The model that a config.json names; None where there is none any more."""
    places: tuple[str | Path, ...] = (init,) if "://" in init else places_named(init, folder.config, folder.path)
    for place in places:
        try:
            return find_source(str(place), "--results")
        except ValueError:
            continue
    return None
