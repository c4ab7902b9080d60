"""Publishing: a model folder is put together aside, proven, described, and only then gets its name."""

import os
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from finetune.finished_run import FinishedRun, read_finished
from finetune.model_card import Published, find_licence, render_card
from finetune.proof import Proof, gather_inputs, prove
from finetune.publish_config import PublishConfig
from launch.atomic import explain_full_disk, replaced_folder, write_json
from launch.console import Console
from launch.file_hash import file_sha256
from launch.strict_json import read_json, to_json
from pretrain.model_folder import WEIGHTS

PROOF, CARD = "proof.json", "README.md"
_FORMAT = "sherd-proof"
_EXPORTED = (WEIGHTS, "config.json")


@dataclass(frozen=True)
class _Weights:
    """The checkpoint that was the measure: the step and the SHA-256 of its weights file."""

    step: int
    sha256: str


def publish(config: PublishConfig, console: Console) -> Proof:
    """Write the model folder, whole or not at all.

    Raises:
        ValueError: the run is not finished, the exported model is not the checkpoint's, or the folder holds something
            that publishing has not written.
    """
    out = Path(os.path.abspath(config.out))
    check_replaceable(out)
    run = read_finished(config.run, config.data, console.say, which=config.which)
    what = f"classifier of {run.exported.classes} classes" if run.exported.classes else "encoder"
    console.say(f"{config.run}: {what}, recipe {run.recipe}, done at step {run.checkpoint.step:,}")
    size = sum((run.exported.path / file).stat().st_size for file in _EXPORTED)
    with explain_full_disk(out, size), replaced_folder(out, partial(check_replaceable, out)) as staged:
        for file in _EXPORTED:
            shutil.copyfile(run.exported.path / file, staged / file)
        model = run.rebuild()
        proof = _prove(run, model, staged, console)
        weights = _Weights(run.checkpoint.step, file_sha256(run.checkpoint.path / WEIGHTS))
        card = render_card(Published(out.name, run, model, proof, find_licence(config.license, run)))
        (staged / CARD).write_text(card, encoding="utf-8")
        files = {**proof.files, CARD: file_sha256(staged / CARD)}
        written = {"format": _FORMAT, "version": 1, "checkpoint": to_json(weights), **to_json(proof), "files": files}
        write_json(staged / PROOF, written)
    console.say(f"done: {config.out} holds {', '.join((*_EXPORTED, CARD, PROOF))}")
    console.say(f"largest difference to the checkpoint: {proof.largest_difference:.3g}, at most {proof.tolerance:g}")
    console.say(f'load it with: timm.create_model("local-dir:{config.out}", pretrained=True)')
    return proof


def check_replaceable(out: Path) -> None:
    """Raise ValueError unless a model folder may be written there: nothing, or exactly what publishing has written."""
    if not out.is_symlink() and (not out.exists() or (out.is_dir() and not any(out.iterdir()))):
        return
    another = "give another --out, or move it away"
    if not out.is_dir() or out.is_symlink():
        raise ValueError(f"--out {out}: expected a new or an empty folder, found a file or a link; {another}")
    found = {path.name: path for path in out.iterdir()}
    proof = read_json(out / PROOF) if PROOF in found else {}
    if proof.get("format") != _FORMAT:
        raise ValueError(
            f"--out {out}: expected a new folder or one that publish.py has written, found one without its {PROOF}, "
            f"with {', '.join(sorted(found)[:3])}; {another}"
        )
    for name, path in sorted(found.items()):
        if name == PROOF:
            continue
        if name not in proof.get("files", {}):
            raise ValueError(f"--out {out}: holds {name}, which publish.py has not written; {another}")
        if path.is_symlink() or not path.is_file() or file_sha256(path) != proof["files"][name]:
            raise ValueError(f"--out {out}: {name} has been changed since publish.py wrote it; {another}")


def _prove(run: FinishedRun, model: nn.Module, staged: Path, console: Console) -> Proof:
    inputs = gather_inputs(run.held_out, run.view, run.exported.normalization)
    console.say(
        f"computing {len(inputs.images)} images of {run.manifest.folder} [{inputs.part.split}] with "
        f"{run.checkpoint.path}, and with the model in a process that has timm but not sherd"
    )
    proof = prove(staged, model, inputs, run.class_names)
    stock = proof.stock_preparation
    same_class = "" if stock.top1_agrees is None else f"{stock.top1_agrees} of {proof.images} in the same top-1 class, "
    console.say(
        f"{proof.compared} differ by {proof.largest_difference:.3g} at most; with timm's own preparation of the images "
        f"{same_class}by {stock.largest_difference:.3g} at most"
    )
    return proof
