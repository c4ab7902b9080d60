"""Ninety kills at random moments, most of them on two processes: every run still ends as one that nothing disturbed.

`pytest tests/soak` runs this, which takes some forty minutes, and prints a dated line for each kill. SHERD_SOAK_SEED
repeats the moments of an earlier run, as far as the machine's own pace allows.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs
    from tests.soak.campaign import Kind

MAE = ("--epochs", 6, "--keep-checkpoints", 2)
MAE_STEPS = 135

SMALL = ("--encoder.image-size", 8, 8, "--encoder.patch-size", 2, 2, "--encoder.width", 48, "--encoder.depth", 2)
SMALL += ("--encoder.heads", 3, "--precision", "fp32", "--normalization", "dataset", "--workers", 1)
SMALL += ("--batch-size", 36, "--log-every", 1, "--checkpoint-steps", 7, "--optimizer.base-lr", 5e-3)
# All that varies in training is on, so that all of it must come out the same; of the images a quarter has a label.
BAG = ("--epochs", 1.2, "--views", 2, "--labels", 40, "--unlabelled", "--validation", 0.1, "--evaluate-epochs", 0.3)
BAG += ("--augmentation.rand-augment", "rand-m9-mstd0.5-inc1", "--augmentation.erasing", 0.5, "--drop-path", 0.3)
BAG += ("--mixing.mixup", 0.8, "--mixing.cutmix", 1, "--mixing.label-smoothing", 0.1, "--average", 0.9)
BAG += ("--distillation.kind", "soft", "--distillation.temperature", 2, "--optimizer.warmup-epochs", 0.2)
OWN = ("--teacher", "own", "--own-teacher.encoder.name", "test_resnet", "--own-teacher.encoder.image-size", 16, 16)
OWN += ("--own-teacher.epochs", 2, "--own-teacher.optimizer.warmup-epochs", 0.2, "--own-teacher.optimizer.base-lr", 1)
DISTILLED_STEPS = 20 + 94  # the teacher's and the student's

FEATURES = ("--epochs", 4, "--batch-size", 64, "--optimizer.base-lr", 2e-3, "--optimizer.warmup-epochs", 0.2)
FEATURES += ("--encoder.width", 24, "--encoder.depth", 2, "--encoder.heads", 2, "--drop-path", 0.3, "--average", 0.9)
FEATURES += ("--log-every", 1, "--evaluate-epochs", 1, "--checkpoint-steps", 7, "--workers", 1)
FEATURES += ("--augmentation.erasing", 0.5, "--cache-teacher.views", 2)
FEATURES_STEPS = 90


def _of(campaign: tuple[int, int]) -> str:
    return "{}-processes-{}-kills".format(*campaign)


@pytest.mark.timeout(2400)
@pytest.mark.parametrize("campaign", [(1, 10), (2, 40)], ids=_of)
def test_masked_autoencoders(
    runs: "Runs", digits: Path, fight: Callable[..., None], kind: type["Kind"], campaign: tuple[int, int]
) -> None:
    def compare(out: Path, undisturbed: Path) -> None:
        assert runs.metrics(out) == runs.metrics(undisturbed)
        assert runs.newest(out).name == f"step-{MAE_STEPS:08d}"
        for file in ("model.safetensors", "optimizer.safetensors", "state.json"):
            assert (runs.newest(out) / file).read_bytes() == (runs.newest(undisturbed) / file).read_bytes(), file
        for folder in ("encoder", "figures"):
            assert runs.contents(out / folder) == runs.contents(undisturbed / folder), folder

    killed = kind(lambda out, processes: runs.train(digits, out, *MAE, processes=processes), MAE_STEPS, compare)
    processes, kills = campaign
    fight(killed, processes=processes, kills=kills)


@pytest.mark.timeout(2400)
@pytest.mark.parametrize("campaign", [(1, 10), (2, 20)], ids=_of)
def test_students_and_their_own_teachers(
    runs: "Runs", digits: Path, fight: Callable[..., None], kind: type["Kind"], campaign: tuple[int, int]
) -> None:
    """Which the same command trains first: kills hit either."""

    def start(out: Path, processes: int) -> "Runs.Child":
        return distil(runs, "deit-ti4-cifar10", digits, out, processes, *SMALL, *BAG, *OWN)

    def compare(out: Path, undisturbed: Path) -> None:
        runs.assert_same_classifier(out / "teacher", undisturbed / "teacher")
        runs.assert_same_classifier(out, undisturbed)

    killed = kind(start, DISTILLED_STEPS, compare, parts=("teacher", ""))
    processes, kills = campaign
    fight(killed, processes=processes, kills=kills)


@pytest.mark.timeout(2400)
def test_students_of_cached_features(
    runs: "Runs", digits: Path, fight: Callable[..., None], kind: type["Kind"], tmp_path: Path
) -> None:
    """Each run has a cache of its own: kills hit its filling too."""
    teacher = tmp_path / "teacher"
    runs.finish(digits, teacher)

    def start(out: Path, processes: int) -> "Runs.Child":
        words = (*FEATURES, "--teacher", teacher, "--cache-teacher.folder", out.with_name(f"{out.name}-cache"))
        return distil(runs, "digits-features", digits, out, processes, *words)

    def compare(out: Path, undisturbed: Path) -> None:
        assert runs.metrics(out) == runs.metrics(undisturbed)
        assert runs.contents(runs.newest(out)).keys() == runs.contents(runs.newest(undisturbed)).keys()
        for file in ("model.safetensors", "optimizer.safetensors", "state.json"):
            assert (runs.newest(out) / file).read_bytes() == (runs.newest(undisturbed) / file).read_bytes(), file
        assert runs.contents(out / "encoder") == runs.contents(undisturbed / "encoder")

    killed = kind(start, FEATURES_STEPS, compare)
    fight(killed, processes=2, kills=10)


def distil(runs: "Runs", recipe: str, data: Path, out: Path, processes: int, *more: object) -> "Runs.Child":
    """Start `distill.py`, or go on with a run of it."""
    words = (runs.ROOT / "pretrain/distill.py", recipe, "--data", data, "--out", out, *more)
    command = runs.launched(*words, processes=processes) if processes > 1 else runs.python(*words)
    return runs.start(command, out.with_name(f"{out.name}-log-{len(list(out.parent.iterdir()))}"))
