"""A finished run as publishing sees it: what it exported, the checkpoint behind that, and the data of both."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from data_pipeline.augment import CenterCrop
from data_pipeline.manifest import Manifest, read_manifest
from data_pipeline.rows import Part
from finetune.classify_config import ClassifyConfig
from finetune.report_accuracy import EvaluationFile
from finetune.report_folders import Kind, kind_of, read_folder, read_known
from finetune.report_multi_label import MultiLabelFile, has_several_labels
from finetune.report_teacher import TeacherFile
from launch.run_folder import RunFolder
from launch.strict_json import from_json, read_json
from pretrain.architectures import create_backbone
from pretrain.best_checkpoint import find_best
from pretrain.checkpoint import Checkpoint, find_checkpoint, load_weights
from pretrain.distill_config import NO_TEACHER, DistillConfig
from pretrain.encoder import create_classifier, create_encoder
from pretrain.evaluation_files import evaluation_files
from pretrain.feature_distill_config import FeatureDistillConfig
from pretrain.mae_config import MaeConfig
from pretrain.masked_autoencoder import MaskedAutoencoder
from pretrain.model_folder import WEIGHTS
from pretrain.model_source import ModelSource, find_source
from pretrain.supervised_config import SCRATCH, SupervisedConfig
from pretrain.teacher_record import TEACHER_FILE

RunConfig = MaeConfig | FeatureDistillConfig | SupervisedConfig

_CONFIGS: dict[Kind, type[RunConfig]] = {
    "pre-training": MaeConfig,
    "feature distillation": FeatureDistillConfig,
    "distillation": DistillConfig,
    "fine-tuning": ClassifyConfig,
    "training": SupervisedConfig,
}


@dataclass(frozen=True)
class FinishedRun:
    """A run that ended as it should; `evaluation` is None where it left none, as pre-training does, and `teacher` where
    nobody taught it.
    """

    folder: RunFolder
    recipe: str
    config: RunConfig
    exported: ModelSource
    checkpoint: Checkpoint
    manifest: Manifest
    evaluation: EvaluationFile | MultiLabelFile | None
    teacher: TeacherFile | None = None

    @property
    def started_from(self) -> str:
        """The model that training started from, as the user gave it; `none` for new weights."""
        config = self.config
        return config.init if isinstance(config, SupervisedConfig) else config.init_from or SCRATCH

    @property
    def held_out(self) -> Part:
        """The split that the run is evaluated on or, where the dataset has none, the one that it trained on."""
        config = self.config
        return Part(self.manifest, config.held_out if config.held_out in self.manifest.splits else config.split)

    @property
    def view(self) -> CenterCrop:
        """How the run prepares images for evaluation."""
        fraction = self.config.evaluation_crop if isinstance(self.config, SupervisedConfig) else 1.0
        assert self.config.encoder.image_size is not None
        return CenterCrop(self.config.encoder.image_size, fraction)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Of the classifier's classes, by its data; None for an encoder."""
        if not isinstance(self.config, SupervisedConfig):
            return None
        return self.manifest.classes if self.config.label_field is None else self.exported.class_names

    def rebuild(self) -> nn.Module:
        """The model from the run's own config.json and checkpoint: nothing of what was exported is read.

        Raises:
            ValueError: the checkpoint is of another model.
        """
        config, averaged = self.config, self.checkpoint.has_average
        if isinstance(config, SupervisedConfig):
            model = create_backbone(
                config.encoder, classes=self.exported.classes, pool=config.pool, drop_path=0.0, seed=config.seed
            )
            load_weights(self.checkpoint, model, averaged=averaged)
            return model.eval()
        if isinstance(config, FeatureDistillConfig):
            encoder = create_classifier(config.encoder, classes=0, pool="token", drop_path=0.0)
            load_weights(self.checkpoint, encoder, within="encoder.", averaged=averaged)
            return encoder.eval()
        return self.rebuild_autoencoder().encoder

    def rebuild_autoencoder(self) -> MaskedAutoencoder:
        """The same of a run of masked autoencoding, with its decoder.

        Raises:
            ValueError: the checkpoint is of another model.
        """
        assert isinstance(self.config, MaeConfig)
        config = self.config
        autoencoder = MaskedAutoencoder(create_encoder(config.encoder), config.decoder, config.objective)
        load_weights(self.checkpoint, autoencoder)
        return autoencoder.eval()


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
            "against; give the folder that --out of pretrain/mae.py, pretrain/distill.py or finetune/classify.py named"
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
    recipe, config = _read_config(folder)
    measured, _ = evaluation_files(folder.path, which)
    evaluation = _read_evaluation(measured) if measured.is_file() else None
    if evaluation is not None and evaluation.step != step:
        raise ValueError(
            f"--run {where}: {measured.name} is of step {evaluation.step:,}, the model of step {step:,}; "
            "restore the file, or remove it: the card then names no accuracy"
        )
    manifest = _read_data(where, data, config.split, checkpoint.state)
    return FinishedRun(
        folder, recipe, config, exported, checkpoint, manifest, evaluation, _read_teacher(where, folder, config)
    )


def _read_config(folder: RunFolder) -> tuple[str, RunConfig]:
    """The recipe's name, and the config."""
    settings = read_json(folder.config)
    kind, recipe = kind_of(settings), settings.pop("recipe")
    assert kind in _CONFIGS, "no other kind exports a model"
    return recipe, from_json(_CONFIGS[kind], settings, str(folder.config))


def _read_teacher(where: str, folder: RunFolder, config: RunConfig) -> TeacherFile | None:
    is_alone = isinstance(config, DistillConfig) and config.teacher == NO_TEACHER
    if is_alone or not isinstance(config, DistillConfig | FeatureDistillConfig):
        return None
    try:
        return read_known(TeacherFile, folder.path / TEACHER_FILE)
    except ValueError as error:
        raise ValueError(f"--run {where}: {error}; restore the file: the card tells who taught the model") from error


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
