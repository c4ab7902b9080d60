"""The whole of a run that learns from labels and a teacher's logits, as a dataclass that imports nothing heavy."""

from dataclasses import dataclass, field
from typing import Literal

from launch.settings import REQUIRED
from pretrain.backbone_config import BackboneConfig, Pool
from pretrain.config import OptimizerConfig
from pretrain.distillation_config import DistillationConfig
from pretrain.supervised_config import MAY_CHANGE_ON_RESUME as _MAY_CHANGE
from pretrain.supervised_config import SCRATCH, SupervisedConfig
from pretrain.teacher_cache_config import TeacherCacheConfig

MAY_CHANGE_ON_RESUME = _MAY_CHANGE | {"teacher", "cache_teacher.folder"}
"""A teacher's place may change, its weights may not: the run folder holds their hash."""
OWN = "own"
NO_TEACHER = "none"


@dataclass(frozen=True)
class OwnTeacherConfig:
    """The teacher that `--teacher own` trains first, as the student would learn alone: on the same images and labels,
    with the same augmentations. Defaults: a ResNet-18 (He et al. 2016, arXiv:1512.03385, section 4.2, for CIFAR).

    Raises:
        ValueError: a number outside its range.
    """

    encoder: BackboneConfig = BackboneConfig("resnet18")  # noqa: RUF009 - frozen
    """Any model of timm, begun anew. Without an image size it has the student's."""
    epochs: float | None = None
    """Passes over the data; None: as many views of the images as the student has."""
    batch_size: int | None = None
    """Images of an optimizer step, over all processes; None: the student's."""
    optimizer: OptimizerConfig = OptimizerConfig(  # noqa: RUF009 - frozen
        base_lr=0.1, weight_decay=5e-4, warmup_epochs=0.5, algorithm="sgd"
    )

    def __post_init__(self) -> None:
        for option in ("epochs", "batch_size"):
            value = getattr(self, option)
            if value is not None and value <= 0:
                raise ValueError(f"--own-teacher.{option.replace('_', '-')} expects a positive number, got {value}")


@dataclass(frozen=True)
class DistillConfig(SupervisedConfig):
    """Training a classifier as DeiT does, alone or beside a teacher (Touvron et al. 2021, arXiv:2012.12877).

    Raises:
        ValueError: a number outside its range, options that do not go together, a warm-up longer than the run.
    """

    init: str = SCRATCH
    """What the student starts with: `none` for new weights, or as finetune/classify.py takes it, such as the same model
    trained at another image size."""
    teacher: str = REQUIRED
    """A classifier of the same classes: a run or model folder, a name of timm's such as regnety_160.deit_in1k,
    hf://user/name, a file of weights; `own` trains one first, `none` has the labels alone."""
    teacher_architecture: str | None = None
    """timm's name of the model that --teacher's weights are of, where that is a file alone."""
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    cache_teacher: TeacherCacheConfig = field(default_factory=TeacherCacheConfig)
    own_teacher: OwnTeacherConfig = field(default_factory=OwnTeacherConfig)
    """What `--teacher own` trains, in the folder `teacher` of --out."""
    views: int = 1
    """An epoch shows each image so often, each time differently: repeated augmentation (Hoffer et al. 2020,
    arXiv:1901.09335). Each is one of the batch, and of the images that are counted."""
    unlabelled: bool = False
    """Images that --labels leaves out, or that have no label, take part as well, with the teacher's judgement alone.
    So does a pair of images that are mixed with each other, unless both have a label."""
    interpolation: Literal["facebook", "timm"] = "timm"
    """How positions are interpolated: as timm, which filters when shrinking, or bicubic as MAE's released code."""
    pool: Pool = "own"
    """What the head sees: what the model's own head sees, the mean of the patches, or the class token."""
    head_std: float = 0.02
    """Standard deviation of a new head's weights."""
    layer_decay: float | None = None
    """Each layer's learning rate over that of the layer after it; None: one rate for all. --show-groups prints them."""
    initialization: Literal["mae", "timm"] = "timm"
    """How new weights of a plain vision transformer are drawn: as timm starts them, which is DeiT's way, or as masked
    autoencoders start. Other models always start as timm's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("views", self.views >= 1, "a positive number")
        has_teacher = self.teacher != NO_TEACHER
        if not has_teacher and self.distillation.is_on:
            raise ValueError(
                f"--teacher none: nobody to learn from by --distillation.kind {self.distillation.kind}; pass "
                "--distillation.kind none as well, or give a --teacher"
            )
        if has_teacher and not self.distillation.is_on:
            raise ValueError(
                f"--teacher {self.teacher}: would be asked for nothing by --distillation.kind none; pass "
                "--distillation.kind hard or soft, or --teacher none"
            )
        if not has_teacher:
            self._check_alone()
        if has_teacher and self.label_field is not None:
            raise ValueError(
                f"--label-field {self.label_field}: a teacher's logits are of one class an image; drop --label-field, "
                "or pass --teacher none --distillation.kind none"
            )
        if self.unlabelled and self.balance > 0:
            raise ValueError("--unlabelled: images without a class cannot be balanced by it; drop --balance")
        if self.teacher == OWN:
            self._check_own()
        if self.cache_teacher.is_on:
            self._check_cache()

    @property
    def own_teacher_epochs(self) -> float:
        """Passes over the data of the teacher that is trained first."""
        return self.own_teacher.epochs or self.epochs * self.views

    def _check_own(self) -> None:
        warmup = self.own_teacher.optimizer.warmup_epochs
        if warmup >= self.own_teacher_epochs:
            raise ValueError(
                f"--own-teacher.optimizer.warmup-epochs {warmup:g} leaves nothing of the teacher's "
                f"{self.own_teacher_epochs:g} epochs; pass less, such as {self.own_teacher_epochs / 20:g}, or give it "
                "more: --own-teacher.epochs"
            )
        if self.teacher_architecture is not None:
            raise ValueError(
                f"--teacher-architecture {self.teacher_architecture} is that of a file of weights, got --teacher own; "
                "drop it, or name what to train with --own-teacher.encoder.name"
            )

    def _check_alone(self) -> None:
        """Refuse what does nothing without a teacher."""
        for option, is_on in (("unlabelled", self.unlabelled), ("cache-teacher.views", self.cache_teacher.is_on)):
            if is_on:
                raise ValueError(f"--{option} needs a teacher, whose judgement it is about; give --teacher")
        if self.teacher_architecture is not None:
            raise ValueError("--teacher-architecture is that of --teacher; give both, or neither")

    def _check_cache(self) -> None:
        if self.mixing.is_on:
            raise ValueError(
                "--cache-teacher.views keeps what a teacher says of single images, and mixed ones are new in every "
                "batch; pass --mixing.mixup 0 --mixing.cutmix 0, or let the teacher look on: --cache-teacher.views 0"
            )
        if self.balance > 0:
            raise ValueError(
                "--cache-teacher.views is for images with one place in an epoch each; drop --balance, or the cache"
            )
        if self.cache_teacher.views < self.views:
            raise ValueError(
                f"--cache-teacher.views {self.cache_teacher.views} is less than the {self.views} different views that "
                f"an epoch shows of an image (--views); give at least {self.views}"
            )
