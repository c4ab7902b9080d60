"""The whole of a probe of frozen features, as frozen dataclasses that import nothing heavy."""

from dataclasses import dataclass, field
from typing import Any, Literal

from finetune.feature_probe_config import FewShotConfig, LogisticConfig, NeighboursConfig, SweepConfig
from launch.settings import REQUIRED
from pretrain.config import OptimizerConfig

MAY_CHANGE_ON_RESUME = frozenset(
    {
        "data",  # the path; the fingerprint of what lies there may not
        "out",
        "knn",
        "feature_cache",
        "workers",
        "cache",
        "log_every",
        "checkpoint_steps",
        "keep_checkpoints",
        "evaluate_epochs",
        "deterministic",
    }
)


@dataclass(frozen=True)
class LarsConfig:
    """LARS (You et al. 2017, arXiv:1708.03888) and its schedule: linear warm-up, then half a cosine down to 0.

    Defaults: He et al. 2022 (arXiv:2111.06377), appendix A.1, Table 10, and what its released code leaves at MoCo v3's.
    There is no weight decay.

    Raises:
        ValueError: a number lies outside its range.
    """

    base_lr: float = 0.1
    """Learning rate of a batch of 256; the peak is base_lr x batch / 256."""
    momentum: float = 0.9
    """Decay rate of the running sum of updates."""
    trust: float = 0.001
    """Weights, but not biases, move by this share of their norm, times the learning rate, whatever the gradient's."""
    warmup_epochs: float = 10.0
    """Epochs of linear warm-up from 0."""
    clip_norm: float | None = None
    """Gradients longer than this are scaled down to it; None never clips. Bounds the steps of biases alone."""

    def __post_init__(self) -> None:
        assert self.schedule.min_lr == 0  # building it checks the numbers that the two have in common
        if not 0 <= self.momentum < 1:
            raise ValueError(f"--optimizer.momentum expects a number from 0 to below 1, got {self.momentum}")
        if self.trust <= 0:
            raise ValueError(f"--optimizer.trust expects a positive number, got {self.trust}")

    @property
    def schedule(self) -> OptimizerConfig:
        """What `pretrain.optimizer` computes the learning rate from."""
        return OptimizerConfig(base_lr=self.base_lr, warmup_epochs=self.warmup_epochs, clip_norm=self.clip_norm)


@dataclass(frozen=True)
class ProbeConfig:
    """What all probes share: k nearest neighbours, and which features of which images.

    Raises:
        ValueError: a number outside its range, or one split for both training and testing.
    """

    data: str = REQUIRED
    """Dataset folder that data_pipeline/shard.py wrote, with labels."""
    init: str = REQUIRED
    """Run folder of pretrain/mae.py, pretrain/distill.py or finetune/classify.py, or the folder of any timm model or of
    Transformers' ViT, DeiT or ViT-MAE, also hf://user/name. Its weights stay as they are."""
    out: str = REQUIRED
    """Folder for probe.json; the same command continues what it holds."""
    features: Literal["auto", "mean", "token", "pooled"] = "auto"
    """Of a vision transformer the mean of its patch tokens or its class token, after the final norm; of any model what
    its own head sees. auto: the mean for encoders of pretrain/mae.py, pooled for all others."""
    knn: NeighboursConfig = field(default_factory=NeighboursConfig)
    evaluation_crop: float | None = None
    """Share of the shorter side that the centre crop shows of images that are not trained on: .875 is 224 of 256. None:
    as the model's config.json says, and of models that sherd has not written by timm's own preparation."""
    feature_cache: str = "auto"
    """Local folder where features stay for other probes of the same model and images; none: nowhere. auto: the folder
    .feature-cache beside that of --out."""
    seed: int = 0
    """Of all that is drawn."""
    split: str = "train"
    """The split whose labels are learnt."""
    held_out: str = "test"
    """The split that is classified, each image once."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: the encoder computes in mixed precision."""
    workers: int | None = None
    """Loader processes beside each process; None: one for every core but one, 16 at most."""
    deterministic: bool = False
    """On a GPU: only operations that give the same bits each time, as CPUs do; slower."""

    def __post_init__(self) -> None:
        crop = self.evaluation_crop
        self._check("evaluation_crop", crop is None or 0 < crop <= 1, "a share above 0, at most 1, or None")
        self._check("feature_cache", "://" not in self.feature_cache, "a local folder, auto or none")
        self._check("seed", self.seed >= 0, "zero or more")
        self._check("workers", self.workers is None or self.workers >= 0, "zero or more")
        self._check("held_out", self.held_out != self.split, "another split than --split")

    def _check(self, option: str, fits: bool, expected: str) -> None:
        if not fits:
            value: Any = getattr(self, option)
            raise ValueError(f"--{option.replace('_', '-')} expects {expected}, got {value}")


@dataclass(frozen=True)
class LogisticProbeConfig(ProbeConfig):
    """k-NN, logistic regression and few images a class, in one pass over the images, without augmentation."""

    logistic: LogisticConfig = field(default_factory=LogisticConfig)
    few_shot: FewShotConfig = field(default_factory=FewShotConfig)


@dataclass(frozen=True)
class SweepProbeConfig(ProbeConfig):
    """k-NN, and linear layers of many learning rates on several features, as Oquab et al. 2023 (arXiv:2304.07193)
    measure, but in one pass over the images, without augmentation.
    """

    sweep: SweepConfig = field(default_factory=SweepConfig)


@dataclass(frozen=True)
class LarsProbeConfig(ProbeConfig):
    """k-NN, and a linear layer trained by LARS on random crops, as He et al. 2022 (arXiv:2111.06377) measure."""

    features: Literal["auto", "mean", "token", "pooled"] = "token"
    optimizer: LarsConfig = field(default_factory=LarsConfig)
    epochs: float = 90.0
    """Passes over the data."""
    batch_size: int = 16384
    """Images of an optimizer step, over all processes."""
    head_std: float = 0.01
    """Standard deviation of the layer's weights at the start; its biases are 0."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Share of an image's area that a random crop shows."""
    mirror: float = 0.5
    """Probability of a horizontal flip; 0 where left and right differ in meaning, as in writing."""
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
    evaluate_epochs: float = 10.0
    """Epochs between evaluations; there is also one at the end. 0: only there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("epochs", "batch_size", "log_every", "checkpoint_steps", "keep_checkpoints"):
            self._check(option, getattr(self, option) > 0, "a positive number")
        for option in ("evaluate_epochs", "head_std"):
            self._check(option, getattr(self, option) >= 0, "zero or more")
        self._check("mirror", 0 <= self.mirror <= 1, "a probability from 0 to 1")
        self._check("max_world", 1 <= self.max_world <= 512, "1 to 512")
        low, high = self.crop_scale
        self._check("crop_scale", 0 < low <= high <= 1, "two shares of the area, the smaller first, such as 0.08 1")
        self.optimizer.schedule.check_epochs(self.epochs)
