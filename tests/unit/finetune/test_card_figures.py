"""The pictures beside a card: the same bytes each time, of what there is to see, and of no image that is not to go."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.card_figures import write_figures
from finetune.finished_run import FinishedRun
from pretrain.config import EncoderConfig
from pretrain.mae_config import MaeConfig

ENCODER = EncoderConfig("vit_tiny_patch16_224", (8, 8), (2, 2), width=24, depth=2, heads=2)
MAE = MaeConfig(encoder=ENCODER, epochs=100.0, batch_size=8, data="pets", out="out")


@pytest.fixture
def run(tmp_path: Path, finish: Callable[..., FinishedRun]) -> FinishedRun:
    """Evaluated twice, and looked at twice."""
    run = finish(tmp_path / "run", MAE)
    for step in range(1, 1001):
        run.folder.append_metrics(
            {"step": step, "epoch": step / 333, "loss": 1 / step if step != 500 else float("nan")}
        )
    for epoch, top1 in ((1, 0.25), (3, 0.5)):
        run.folder.append_metrics({"step": 333 * epoch, "epoch": epoch, "knn_top1": top1, "evaluation_seconds": 1.0})
        picture = Image.fromarray(np.full((4, 4, 3), epoch, np.uint8))
        picture.save(run.folder.figures / f"reconstruction-epoch-0000{epoch}.0.png")
    return run


def test_the_same_run_gives_the_same_bytes(run: FinishedRun, tmp_path: Path):
    content = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for figure in write_figures(run, tmp_path / name, True):
            content.append((tmp_path / name / figure.file).read_bytes())
    assert len(content) == 4
    assert content[:2] == content[2:]
    with Image.open(tmp_path / "a" / "figures" / "curves.png") as curves:
        assert curves.width == 1400
        assert curves.info.keys() <= {"dpi"}


def test_what_they_show_in_words(run: FinishedRun, tmp_path: Path):
    curves, panel = write_figures(run, tmp_path, True)
    assert curves.file == "figures/curves.png"
    assert curves.alt == "Curves over 3 epochs: the training loss goes from 1 to 0.001; k-NN top-1 ends at 50.0%"
    assert curves.caption == "Training loss and what was evaluated, over 3 epochs."
    assert panel.file == "figures/reconstruction.png"
    assert panel.caption == "Held-out images of pets with 75 % of their patches hidden, and their reconstructions."


def test_the_panel_is_the_newest(run: FinishedRun, tmp_path: Path):
    write_figures(run, tmp_path, True)
    newest = run.folder.figures / "reconstruction-epoch-00003.0.png"
    assert (tmp_path / "figures" / "reconstruction.png").read_bytes() == newest.read_bytes()


def test_no_image_of_the_dataset_goes_along_unasked(run: FinishedRun, tmp_path: Path):
    assert [figure.file for figure in write_figures(run, tmp_path, False)] == ["figures/curves.png"]
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["curves.png"]


def test_what_is_no_picture_is_refused(run: FinishedRun, tmp_path: Path):
    (run.folder.figures / "reconstruction-epoch-00009.0.png").write_text("text")
    with pytest.raises(ValueError, match=r"reconstruction-epoch-00009\.0\.png: not a PNG file; remove it"):
        write_figures(run, tmp_path, True)


def test_one_result_is_no_curve(tmp_path: Path, finish: Callable[..., FinishedRun]):
    run = finish(tmp_path / "run", MAE)
    run.folder.append_metrics({"step": 1, "epoch": 1.0, "loss": 1.0})
    run.folder.append_metrics({"step": 1, "epoch": 1.0, "knn_top1": 0.5})
    (figure,) = write_figures(run, tmp_path, True)
    assert figure.caption == "Training loss, over 1 epoch."
    with Image.open(tmp_path / figure.file) as curves:
        assert curves.width == 980


def test_parts_of_a_loss_are_told_of(tmp_path: Path, finish: Callable[..., FinishedRun]):
    run = finish(tmp_path / "run", MAE)
    for step in (1, 2):
        run.folder.append_metrics({"step": step, "epoch": 150.0 * step, "loss": 1.0, "teacher_loss": 2.0})
    (figure,) = write_figures(run, tmp_path, True)
    assert figure.caption == "Training loss, its parts before weighing, over 300 epochs."


def test_nothing_to_show(tmp_path: Path, finish: Callable[..., FinishedRun]):
    assert write_figures(finish(tmp_path / "run", MAE), tmp_path, True) == ()
    assert not (tmp_path / "figures").exists()
