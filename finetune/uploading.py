"""A published model folder goes to the Hub, and what its card says is tried from there."""

import tempfile
from pathlib import Path

from finetune.proof_inputs import Inputs
from finetune.proof_record import CARD, PROOF, parse_record, read_record
from finetune.publish_config import PublishConfig
from finetune.snippets import Snippet, put_image, run_lines
from launch.console import Console
from launch.hub import Pushed, Upload, preview, push


def upload(folder: Path, config: PublishConfig, console: Console) -> Pushed | None:
    """Upload what proof.json lists, in one commit; with `dry_run` only say what would go, and return None.

    Raises:
        ValueError: the Hub refuses, as `push` says.
        HubError: the Hub is out of reach.
    """
    assert config.push is not None
    record = read_record(folder)
    names = (*record.proof.files, PROOF)
    asked = Upload(
        repository=config.push,
        kind="model",
        files={name: folder / name for name in names},
        marker=PROOF,
        written=lambda content: {*parse_record(content, f"{config.push}: {PROOF}").proof.files, PROOF},
        message=f"Publish {folder.name}, step {record.checkpoint.step:,}",
        sha256=record.proof.files,
    )
    if config.share_images:
        console.say(
            f"{record.recorded_images} images of the dataset go along, for --verify"
            f"{', and a picture of reconstructions' if 'figures/reconstruction.png' in names else ''}; "
            "--no-share-images leaves them out"
        )
    if config.dry_run:
        preview(asked, config.hub, console)
        return None
    return push(asked, config.hub, console)


def try_from_hub(pushed: Pushed, snippet: Snippet, inputs: Inputs, *, folder: Path) -> None:
    """Run the card's lines as they stand there. Raises ValueError unless they print what they printed here."""
    with tempfile.TemporaryDirectory() as name:
        put_image(Path(name), inputs)
        printed = run_lines(snippet.code, Path(name))
    if printed != snippet.printed:
        raise ValueError(
            f"{pushed.url} is there, but the lines of its {CARD} print {printed!r} from the Hub, and printed "
            f"{snippet.printed!r} from {folder}; give the same command again"
        )
