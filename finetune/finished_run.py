"""A finished run as publishing sees it: what it exported, the checkpoint behind that, and the data of both."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from data_pipeline.augment import CenterCrop
from data_pipeline.manifest import Manifest, read_manifest
from data_pipeline.rows import Part
from finetune.architectures import create_backbone
from finetune.classify_config import ClassifyConfig
from finetune.evaluation_files import evaluation_files
from finetune.model_source import ModelSource, find_source
from finetune.report_accuracy import EvaluationFile
from finetune.report_folders import read_folder, read_known
from finetune.report_multi_label import MultiLabelFile, has_several_labels
from launch.run_folder import RunFolder
from launch.strict_json import from_json, read_json
from pretrain.best_checkpoint import find_best
from pretrain.checkpoint import Checkpoint, find_checkpoint, load_weights
from pretrain.encoder import create_encoder
from pretrain.mae_config import MaeConfig
from pretrain.masked_autoencoder import MaskedAutoencoder
from pretrain.model_folder import WEIGHTS


@dataclass(frozen=True)
class FinishedRun:
    """A run that ended as it should; `evaluation` is None where it left none, as pre-training does."""

    folder: RunFolder
    recipe: str
    config: MaeConfig | ClassifyConfig
    exported: ModelSource
    checkpoint: Checkpoint
    manifest: Manifest
    evaluation: EvaluationFile | MultiLabelFile | None

    @property
    def held_out(self) -> Part:
        """The split that the run is evaluated on or, where the dataset has none, the one that it trained on."""
        config = self.config
        return Part(self.manifest, config.held_out if config.held_out in self.manifest.splits else config.split)

    @property
    def view(self) -> CenterCrop:
        """How the run prepares images for evaluation."""
        fraction = self.config.evaluation_crop if isinstance(self.config, ClassifyConfig) else 1.0
        assert self.config.encoder.image_size is not None
        return CenterCrop(self.config.encoder.image_size, fraction)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Of the classifier's classes, by its data; None for an encoder."""
        if not isinstance(self.config, ClassifyConfig):
            return None
        return self.manifest.classes if self.config.label_field is None else self.exported.class_names

    def rebuild(self) -> nn.Module:
        """The model from the run's own config.json and checkpoint: nothing of what was exported is read.

        Raises:
            ValueError: the checkpoint is of another model.
        """
        config = self.config
        if isinstance(config, ClassifyConfig):
            model = create_backbone(
                config.encoder, classes=self.exported.classes, pool=config.pool, drop_path=0.0, seed=config.seed
            )
            load_weights(self.checkpoint, model, averaged=self.checkpoint.has_average)
            return model.eval()
        autoencoder = MaskedAutoencoder(create_encoder(config.encoder), config.decoder, config.objective)
        load_weights(self.checkpoint, autoencoder)
        return autoencoder.encoder.eval()


def read_finished(
    where: str, data: str | None, say: Callable[[str], None], *, which: Literal["last", "best"] = "last"
) -> FinishedRun:
    """Read and check the run that a user named with `--run`, its data from `--data` where that is given.

    `which` of its models is meant: a run whose last evaluation was its best keeps one alone.

    Raises:
        ValueError: no finished run there, its newest checkpoint or its evaluation is of another step than its end, or
            its data are not there or not those it was trained on.
    """
    exported = find_source(where, "--run")
    folder = RunFolder(Path(where))
    if exported.path == folder.path:
        raise ValueError(
            f"--run {where}: expected a run folder, found a model folder alone, without the checkpoint to prove it "
            "against; give the folder that --out of pretrain/mae.py or finetune/classify.py named"
        )
    step = _check_done(where, folder)
    if which == "best" and (folder.best / WEIGHTS).is_file():
        exported, checkpoint = find_source(str(folder.best), "--run"), _best_checkpoint(where, folder)
        step = checkpoint.step
    else:
        which = "last"
        checkpoint = find_checkpoint(where, "--run", say)
    if checkpoint.step != step:
        raise ValueError(
            f"--run {where}: the run ended at step {step:,}, but its newest whole checkpoint is of step "
            f"{checkpoint.step:,}; give the command that began the run again, it goes on from there"
        )
    settings = read_json(folder.config)
    recipe = settings.pop("recipe")
    # Only pre-training has a decoder to tell of.
    kind = MaeConfig if "decoder" in settings else ClassifyConfig
    config: MaeConfig | ClassifyConfig = from_json(kind, settings, str(folder.config))
    measured, _ = evaluation_files(folder.path, which)
    evaluation = _read_evaluation(measured) if measured.is_file() else None
    if evaluation is not None and evaluation.step != step:
        raise ValueError(
            f"--run {where}: {measured.name} is of step {evaluation.step:,}, the model of step {step:,}; "
            "restore the file, or remove it: the card then names no accuracy"
        )
    manifest = _read_data(where, data, config.split, checkpoint.state)
    return FinishedRun(folder, recipe, config, exported, checkpoint, manifest, evaluation)


def _read_evaluation(path: Path) -> EvaluationFile | MultiLabelFile:
    kind: Any = MultiLabelFile if has_several_labels(read_json(path)) else EvaluationFile
    return read_known(kind, path)


def _best_checkpoint(where: str, folder: RunFolder) -> Checkpoint:
    checkpoint = find_best(folder.checkpoints)
    if checkpoint is None:
        raise ValueError(
            f"--run {where}: {folder.best} is there, but no checkpoint is named the best; give --which last, or the "
            "command that began the run again"
        )
    return checkpoint


def _check_done(where: str, folder: RunFolder) -> int:
    """The step that the run ended at."""
    ended = read_json(folder.exit) if folder.exit.is_file() else {}
    if ended.get("status") != "done":
        found = f"exit.json: {ended['status']}" if ended else "no exit.json: it still runs, or was killed"
        raise ValueError(
            f"--run {where}: expected a finished run, found {found}; give the command that began it again, it goes on "
            "from its newest checkpoint"
        )
    return ended["step"]


def _read_data(where: str, data: str | None, split: str, state: dict[str, Any]) -> Manifest:
    if data is None:
        try:
            place = str(read_folder(where).find_data())
        except ValueError as error:
            raise ValueError(f"--run {where}: {error}; say where it has been moved to: --data FOLDER") from error
    else:
        place = data
    manifest = read_manifest(place)
    trained, found = state["stream"]["fingerprints"], manifest.split(split).fingerprint
    if trained != [found]:
        raise ValueError(
            f"{'--data ' * (data is not None)}{place}: not the images that {where} was trained on: its split {split} "
            f"has the fingerprint {found[:16]}, the run's is {', '.join(each[:16] for each in trained)}; give the "
            "dataset folder of the run: --data FOLDER"
        )
    return manifest
