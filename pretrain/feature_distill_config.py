"""The whole of a run that learns a frozen model's features, as one frozen dataclass that imports nothing heavy."""

from dataclasses import dataclass, field
from typing import Any, Literal

from launch.settings import REQUIRED
from pretrain.anomaly_config import AnomalyConfig
from pretrain.augment_config import AugmentationConfig
from pretrain.config import EncoderConfig, OptimizerConfig
from pretrain.mae_config import KnnConfig
from pretrain.teacher_cache_config import TeacherCacheConfig

MAY_CHANGE_ON_RESUME = frozenset(
    {
        "data",  # the path; the fingerprint of what lies there may not
        "also",
        "teacher",  # its place; the run folder holds the hash of its weights, which may not
        "cache_teacher.folder",
        "out",
        "workers",
        "cache",
        "accumulate",
        "log_every",
        "checkpoint_steps",
        "keep_checkpoints",
        "keep_every_steps",
        "compile",
        "gradient_checkpointing",
        "shard_parameters",
        "tracker",
        "patience_seconds",
        "anomalies",
        "evaluate_epochs",
        "knn",
        "measured",
        "resume",
        "init_from",
        "deterministic",
    }
)

_GENTLE = AugmentationConfig(crop_scale=(0.2, 1.0), rand_augment=None, erasing=0.0)


@dataclass(frozen=True)
class FeatureDistillConfig:
    """Pre-training an encoder on a frozen model's class token and patch tokens, by their cosines; without labels.

    Raises:
        ValueError: a number outside its range, no weight on anything, options that do not go together, a
            warm-up longer than the run.
    """

    encoder: EncoderConfig
    """What learns: a plain vision transformer."""
    epochs: float
    """Passes over the data."""
    batch_size: int
    """Images of an optimizer step, over all processes and accumulated parts."""
    data: str = REQUIRED
    """Dataset folder that data_pipeline/shard.py wrote; labels, where it has some, are for k-NN alone."""
    teacher: str = REQUIRED
    """Whose features are learnt, best a self-supervised vision transformer: a timm name with its weights such as
    vit_base_patch16_dinov3.lvd1689m, hf://user/name, a model folder, or a run folder of pretrain/mae.py."""
    out: str = REQUIRED
    """Run folder; the same command continues what it holds."""
    teacher_architecture: str | None = None
    """timm's name of the model, where --teacher is a file of weights alone."""
    also: tuple[str, ...] = ()
    """Further dataset folders to mix with --data, which alone gives statistics and k-NN."""
    weights: tuple[int, ...] = ()
    """How many images of each are seen in turn, that of --data first; by default as many of each."""
    teacher_image_size: tuple[int, int] | None = None
    """Height and width at which the teacher sees the same views; None: its own, which for DINOv2 is 518 518, with five
    times as many patches as 224 224."""
    cache_teacher: TeacherCacheConfig = field(default_factory=TeacherCacheConfig)
    class_weight: float = 1.0
    """Of 1 - cosine between the class token, projected, and the teacher's."""
    patch_weight: float = 1.0
    """Of 1 - cosine between patch tokens, projected, and the teacher's in the same place; the mean over patches."""
    views: int = 1
    """An epoch shows each image so often, each time differently (Hoffer et al. 2020, arXiv:1901.09335)."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    augmentation: AugmentationConfig = _GENTLE
    drop_path: float = 0.0
    """Probability of leaving out the last block for an image; less before it, none at the first."""
    average: float | None = None
    """Evaluate and export the exponential moving average of the weights, with this decay a step; None: the weights."""
    measured: Literal["class", "mean"] = "class"
    """What k-NN and the other measures are of: the class token, or the mean of the patch tokens."""
    knn: KnnConfig = field(default_factory=KnnConfig)
    anomalies: AnomalyConfig = field(default_factory=AnomalyConfig)
    seed: int = 0
    """Of initialisation, order, crops and all else that varies in training."""
    normalization: Literal["imagenet", "dataset"] = "imagenet"
    """Whose channel means and deviations the encoder's images have: ImageNet's, or those in the dataset's manifest. The
    teacher has its own."""
    split: str = "train"
    """The split to train on."""
    held_out: str = "test"
    """The split for k-NN, where the dataset has it."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """bf16, fp16: mixed precision, weights and optimizer stay in fp32; fp16 scales its losses."""
    compile: bool = False
    """torch.compile of the encoder: a minute or two at the start, then faster steps."""
    gradient_checkpointing: bool = False
    """Compute a block's activations again instead of keeping them: a third more time, a fraction of the memory."""
    shard_parameters: bool = False
    """FSDP2: each process keeps its share of the encoder's weights and optimizer; the teacher stays whole on each."""
    accumulate: int = 1
    """Each process runs its part of a batch in so many pieces, one after another, to save memory; the teacher does not.
    """
    workers: int | None = None
    """Loader processes beside each training process; None: one for every core but one, 16 at most."""
    cache: Literal["none", "memory", "device"] = "none"
    """memory: decode all images once, into this machine's memory; device: keep them on the GPU as well and make views
    there. For small datasets; the views are the same to the bit."""
    max_world: int = 16
    """Up to how many processes the run may ever have and read every byte once: decides the order."""
    log_every: int = 20
    """Steps between lines of metrics.jsonl."""
    checkpoint_steps: int = 500
    """Steps between checkpoints; one is also written at the end and when the run is asked to stop."""
    keep_checkpoints: int = 3
    """So many of the newest stay."""
    keep_every_steps: int = 0
    """Checkpoints of steps divisible by this stay as well; 0: of none."""
    evaluate_epochs: float = 50.0
    """Epochs between measurements of the features; they are also made at the end. 0: only there."""
    resume: str | None = None
    """Run folder or checkpoint to go on from when --out holds none: weights, optimizer, place in the stream."""
    init_from: str | None = None
    """What a new run's encoder starts with: a finished run folder, a timm model folder, weights of facebook's MAE or of
    Transformers, hf://user/name; sizes that differ are resampled."""
    tracker: Literal["tensorboard", "wandb", "trackio", "none"] = "tensorboard"
    """Where metrics go beside metrics.jsonl: tensorboard/ in the run folder, or a service."""
    patience_seconds: float = 600.0
    """So long a process waits for the others before it ends, naming who is missing; after half of it without a step all
    write down where they are, in stalls/ of the run folder."""
    deterministic: bool = False
    """On a GPU: only operations that give the same bits each time, as CPUs do; slower."""

    def __post_init__(self) -> None:
        steps = ("log_every", "checkpoint_steps", "keep_checkpoints")
        for option in ("epochs", "batch_size", "views", "accumulate", *steps, "patience_seconds"):
            self._check(option, getattr(self, option) > 0, "a positive number")
        for option in ("class_weight", "patch_weight", "evaluate_epochs", "seed", "keep_every_steps"):
            self._check(option, getattr(self, option) >= 0, "zero or more")
        self._check("patch_weight", self.class_weight + self.patch_weight > 0, "more than 0 where --class-weight is 0")
        self._check("measured", self.measured == "mean" or self.class_weight > 0, "mean where --class-weight is 0")
        self._check("workers", self.workers is None or self.workers >= 0, "zero or more")
        self._check("drop_path", 0 <= self.drop_path < 1, "a probability below 1")
        self._check("average", self.average is None or 0 <= self.average < 1, "a decay in [0, 1), such as 0.9999")
        self._check("max_world", 1 <= self.max_world <= 512, "1 to 512")
        self._check(
            "weights",
            not self.weights or (len(self.weights) == 1 + len(self.also) and min(self.weights) > 0),
            f"positive integers, one for --data and each of --also ({1 + len(self.also)})",
        )
        size = self.teacher_image_size
        self._check("teacher_image_size", size is None or min(size) > 0, "two positive numbers of pixels")
        self.optimizer.check_epochs(self.epochs)
        if self.cache_teacher.is_on:
            self._check_cache()

    def _check_cache(self) -> None:
        kept = self.cache_teacher
        if kept.classes is not None:
            raise ValueError(
                f"--cache-teacher.classes {kept.classes} is of logits, and this recipe learns features, which have no "
                "classes and are kept whole; leave it out"
            )
        if self.also:
            raise ValueError(
                f"--cache-teacher.views keeps what a teacher says of the images of one dataset, got --also "
                f"{' '.join(self.also)}; drop --also, or let the teacher look on: --cache-teacher.views 0"
            )
        if kept.views < self.views:
            raise ValueError(
                f"--cache-teacher.views {kept.views} is less than the {self.views} different views that an epoch shows "
                f"of an image (--views); give at least {self.views}"
            )

    def _check(self, option: str, fits: bool, expected: str) -> None:
        if not fits:
            value: Any = getattr(self, option)
            raise ValueError(f"--{option.replace('_', '-')} expects {expected}, got {value}")
