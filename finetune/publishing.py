"""Publishing: a model folder is put together aside, proven, described, and only then gets its name."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from finetune.card_facts import data_name, is_by_class_token
from finetune.card_figures import write_figures
from finetune.card_results import read_results
from finetune.finished_run import FinishedRun, read_finished
from finetune.formats import describe, write_model
from finetune.licences import find_licence
from finetune.model_card import Published, render_card
from finetune.proof import OUTPUTS, Proof, check_library, hashes_in, library_of, prove, whose
from finetune.proof_inputs import Inputs, drawn_pixels, gather_inputs
from finetune.proof_record import (
    CARD,
    PROOF,
    Checkpoint,
    Record,
    Recorded,
    is_earlier,
    read_record,
    write_record,
    write_recorded,
)
from finetune.publish_config import PublishConfig
from finetune.published_model import PublishedModel, choose_model
from finetune.snippets import Place, Snippet, run_snippet, write_snippet
from finetune.uploading import try_from_hub, upload
from launch.atomic import explain_full_disk, replaced_folder
from launch.console import Console
from launch.file_hash import file_sha256
from launch.hub import account
from pretrain.model_folder import WEIGHTS

_RECORDED = 8  # images whose outputs go along: tokens of a large encoder take megabytes each


def publish(config: PublishConfig, console: Console) -> Proof:
    """Write the model folder, whole or not at all, and upload it where that is asked for.

    Raises:
        ValueError: the run is not finished, the format cannot express its model, the exported model is not the
            checkpoint's, or the folder or the repository holds something that publishing has not written.
    """
    assert config.run is not None
    assert config.out is not None
    out = Path(os.path.abspath(config.out))
    check_replaceable(out)
    if config.push is not None and not config.dry_run:
        console.say(account(config.push, "model"))  # before minutes of work, not after
    run = read_finished(config.run, config.data, console.say, which=config.which)
    model = choose_model(run, decoder=config.decoder)
    check_library(config.format, model.compared)
    licence, measured = find_licence(config.license, run), read_results(config.results, run)
    description = describe(config.format, run, model)
    what = f"classifier of {run.exported.classes} classes" if run.exported.classes else model.kind
    console.say(f"{config.run}: {what}, recipe {run.recipe}, done at step {run.checkpoint.step:,}")
    size = sum(tensor.nbytes for tensor in model.model.state_dict().values())
    with explain_full_disk(out, size), replaced_folder(out, partial(check_replaceable, out)) as staged:
        write_model(config.format, run, model, description, staged)
        inputs = gather_inputs(run.held_out, run.view, run.exported.normalization)
        proof = _prove(config, run, model, inputs, folder=staged, console=console)
        figures = write_figures(run, staged, pictures=config.share_images)
        record = _record(config, run, model, inputs, proof=proof, folder=staged)
        snippet = _snippet(config, run, model, inputs, folder=staged, name=out.name)
        card = Published(
            out.name,
            run,
            model.model,
            replace(proof, files=hashes_in(staged)),
            licence,
            library="transformers" if config.format == "transformers" else "timm",
            figures=figures,
            measured=measured,
            snippet=snippet,
            is_on_hub=config.push is not None,
            shares_images=config.share_images,
        )
        (staged / CARD).write_text(render_card(card), encoding="utf-8")
        record = replace(record, proof=replace(proof, files=hashes_in(staged)))
        write_record(staged, record)
    console.say(f"done: {config.out} holds {', '.join((*record.proof.files, PROOF))}")
    console.say(f"largest difference to the checkpoint: {proof.largest_difference:.3g}, at most {proof.tolerance:g}")
    console.say(f"check it anywhere with: python finetune/publish.py --verify {config.out}")
    if config.push is not None and (pushed := upload(out, config, console)) is not None:
        try_from_hub(pushed, snippet, inputs, folder=out)
        console.say(f"the lines of its {CARD} ran from the Hub, as they stand there")
        at = f"@{pushed.revision}" if pushed.revision else ""
        console.say(f"check it anywhere with: python finetune/publish.py --verify {config.push}{at}")
    return proof


def check_replaceable(out: Path) -> None:
    """Raise ValueError unless a model folder may be written there: nothing, or exactly what publishing has written."""
    if not out.is_symlink() and (not out.exists() or (out.is_dir() and not any(out.iterdir()))):
        return
    another = "give another --out, or move it away"
    if not out.is_dir() or out.is_symlink():
        raise ValueError(f"--out {out}: expected a new or an empty folder, found a file or a link; {another}")
    if not (out / PROOF).is_file():
        found = sorted(path.name for path in out.iterdir())
        raise ValueError(
            f"--out {out}: expected a new folder or one that publish.py has written, found one without its {PROOF}, "
            f"with {', '.join(found[:3])}; {another}"
        )
    if is_earlier(out):
        return
    try:
        read_record(out)
    except ValueError as error:
        raise ValueError(f"--out {error}, {another}") from error


def _prove(
    config: PublishConfig, run: FinishedRun, model: PublishedModel, inputs: Inputs, *, folder: Path, console: Console
) -> Proof:
    library = library_of(config.format, model.compared)
    console.say(
        f"computing {len(inputs.pixels)} images of {run.manifest.folder} [{inputs.part.split}] with "
        f"{run.checkpoint.path}, and with the model in a process that has {library} but not sherd"
    )
    proof = prove(config.format, folder, model, inputs, run.class_names)
    stock = proof.stock_preparation
    told = f"{OUTPUTS[proof.compared]} differ by {proof.largest_difference:.3g} at most"
    if stock is not None:
        same = "" if stock.top1_agrees is None else f"{stock.top1_agrees} of {proof.images} in the same top-1 class, "
        told += f"; with {whose(library)} own preparation of the images {same}by {stock.largest_difference:.3g} at most"
    console.say(told)
    return proof


def _record(
    config: PublishConfig, run: FinishedRun, model: PublishedModel, inputs: Inputs, *, proof: Proof, folder: Path
) -> Record:
    """Keep a few inputs with what the checkpoint computes from them; the record, without the card's hash."""
    pixels = inputs.pixels[:_RECORDED]
    shown = f"the first of {data_name(run.manifest)}, split {inputs.part.split}, as prepared for evaluation"
    if not config.share_images:
        pixels, shown = drawn_pixels(pixels), "random pixels"
    given = model.inputs(replace(inputs, pixels=pixels).images)
    write_recorded(folder, Recorded(pixels, given.get("noise"), model.compute(given)))
    checkpoint = Checkpoint(run.checkpoint.step, file_sha256(run.checkpoint.path / WEIGHTS))
    return Record(proof, checkpoint, inputs.normalization, len(pixels), shown)


def _snippet(
    config: PublishConfig, run: FinishedRun, model: PublishedModel, inputs: Inputs, *, folder: Path, name: str
) -> Snippet:
    """The card's lines and what they print: run here on the folder, and once more from the Hub when all is there."""
    by_class_token, here = is_by_class_token(run), Place(name)
    snippet = write_snippet(config.format, run, model, here, by_class_token=by_class_token)
    snippet = run_snippet(snippet, folder, here, inputs)
    if config.push is None:
        return snippet
    there = Place(name, config.push, config.hub.tag or config.hub.revision)
    as_shown = write_snippet(config.format, run, model, there, by_class_token=by_class_token)
    return replace(as_shown, printed=snippet.printed)
