"""How a fine-tuning run ends: the models it exports, and what each does on the held-out images."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from launch.file_hash import file_sha256
from launch.strict_json import read_json
from pretrain.accuracy import Accuracy
from pretrain.architectures import is_plain, keywords
from pretrain.best_checkpoint import find_best
from pretrain.checkpoint import load_weights
from pretrain.evaluation_files import Which, evaluation_files
from pretrain.examiner import Examined, Examiner
from pretrain.intervals import Bootstrap
from pretrain.label_set_file import write_label_sets
from pretrain.model_folder import WEIGHTS, Prepared, save_folder, save_model
from pretrain.prediction_file import write_predictions
from pretrain.training import Ending, Training


def save_classifier(folder: Path, model: nn.Module, examiner: Examiner) -> None:
    """Write a model folder. Raises OSError for a full disk."""
    config, guard = examiner.config, examiner.own.run.guard
    encoder, names = config.encoder, examiner.task.classes
    if is_plain(encoder):
        assert isinstance(model, VisionTransformer)
        how: dict[str, Any] = {"class_names": names, "crop_fraction": config.evaluation_crop, "guard": guard}
        save_model(folder, model, encoder.plain, examiner.normalization, **how)
        return
    prepared = Prepared((encoder.channels, *encoder.size), examiner.normalization, config.evaluation_crop)
    save_folder(folder, model, keywords(encoder, config.pool), prepared, class_names=names, guard=guard)


def conclude(
    training: Training, ending: Ending, examiner: Examiner, build: Callable[[], nn.Module], *, known: Examined | None
) -> dict[str, Any]:
    """Export and evaluate what training has come to, and the best of its evaluations where that was an earlier one.

    Every process must call it; `build` makes a model like the trained one, `known` is the evaluation of the held-out
    images at the last step, if there was one. Returns what evaluation.json holds.
    """
    run, say, model = examiner.own.run, examiner.own.console.say, training.model
    model.eval()
    with nullcontext() if training.average is None else training.average.in_place(model):
        last = _finish(model, run.model, ("last", ending.step), examiner, known)
    best = find_best(run.checkpoints)
    if best is not None and best.step < ending.step:
        twin = build()
        load_weights(best, twin, averaged=best.has_average)
        twin = twin.to(examiner.own.world.device).eval()
        found = _finish(twin, run.best, ("best", best.step), examiner, None)
        say(
            f"best: step {best.step:,}, {_headline(found)}, in {run.best}"
            + (
                "; it was chosen on these very images, so its figure flatters: --validation .1 chooses on others"
                if examiner.task.watched.is_held_out
                else ""
            )
        )
    say(f"done: the model is in {run.model}, its accuracy in {run.evaluation}: {_headline(last)}")
    return last


def _finish(
    model: nn.Module, folder: Path, what: tuple[Which, int], examiner: Examiner, known: Examined | None
) -> dict[str, Any]:
    """Export the model of a step, and examine it unless that has been done."""
    which, step = what
    own, task = examiner.own, examiner.task
    is_first = own.world.rank == 0
    written, predictions = evaluation_files(own.run.path, which)
    if is_first:
        save_classifier(folder, model, examiner)
    is_done = is_first and written.is_file() and predictions.is_file() and _is_final(read_json(written), step)
    if not own.world.any(is_done):
        found = examiner.examine(model, task.held_out) if known is None else known
        if is_first:
            _write(found, folder, which, step, examiner)
    return read_json(written) if is_first else {}


def _is_final(evaluation: dict[str, Any], step: int) -> bool:
    """Whether it is the last thing that a run has written for this step."""
    return evaluation["step"] == step and "intervals" in evaluation


def _write(
    found: Examined,
    folder: Path,
    which: Which,
    step: int,
    examiner: Examiner,
) -> None:
    run, task = examiner.own.run, examiner.task
    written, predictions = evaluation_files(run.path, which)
    found = found.with_intervals(Bootstrap())
    how: dict[str, Any] = {"classes": task.classes, "model_sha256": file_sha256(folder / WEIGHTS), "guard": run.guard}
    if isinstance(found, Accuracy):
        write_predictions(predictions, found.predictions, task.held_out.part, **how)
    else:
        write_label_sets(predictions, found, task.held_out.part, **how)
    chosen_on = task.watched.part.split if task.watched.is_held_out else f"a share of {task.watched.part.split}"
    told = {"step": step, "split": task.held_out.part.split, "model": which}
    if which == "best":
        told["chosen_on"] = chosen_on
    run.write_json(written, {**told, **found.to_json(task.classes)})


def _headline(evaluation: dict[str, Any]) -> str:
    """The figure that counts, with its interval; nothing on other processes than the first."""
    if not evaluation:
        return ""
    name, label = ("top1", "top-1") if "top1" in evaluation else ("mean_average_precision", "mean average precision")
    low, high = evaluation["intervals"][name]
    return f"{label} {evaluation[name]:.2%} [{low:.2%}, {high:.2%}] of {evaluation['images']:,} images"
