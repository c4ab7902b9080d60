"""The whole of a masked-autoencoder run, as one frozen dataclass that imports nothing heavy."""

from dataclasses import dataclass, field
from typing import Any, Literal

from launch.settings import REQUIRED
from pretrain.anomaly_config import AnomalyConfig
from pretrain.config import DecoderConfig, EncoderConfig, ObjectiveConfig, OptimizerConfig

MAY_CHANGE_ON_RESUME = frozenset(
    {
        "data",  # the path; the fingerprint of what lies there may not
        "also",
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
        "resume",
        "init_from",
        "new_decoder",
        "deterministic",
    }
)


@dataclass(frozen=True)
class KnnConfig:
    """k-nearest-neighbour classification of held-out images by frozen features, where the dataset has labels.

    Cosine similarity, votes weighted by exp(similarity / temperature) (Wu et al. 2018, arXiv:1805.01978).
    """

    neighbours: int = 20
    """k."""
    temperature: float = 0.07
    """Of the votes' weights."""
    most_train: int = 50_000
    """At most so many training images are neighbours; the first in dataset order, which is shuffled."""
    most_held_out: int = 10_000
    """At most so many held-out images are classified."""

    def __post_init__(self) -> None:
        for option in ("neighbours", "temperature", "most_train", "most_held_out"):
            if getattr(self, option) <= 0:
                raise ValueError(
                    f"--knn.{option.replace('_', '-')} expects a positive number, got {getattr(self, option)}"
                )


@dataclass(frozen=True)
class MaeConfig:
    """Pre-training by masked autoencoding (He et al. 2022, arXiv:2111.06377).

    Raises:
        ValueError: a number outside its range, sizes that do not fit each other, a warm-up longer than the run.
    """

    encoder: EncoderConfig
    epochs: float
    """Passes over the data."""
    batch_size: int
    """Images of an optimizer step, over all processes and accumulated parts."""
    data: str = REQUIRED
    """Dataset folder that data_pipeline/shard.py wrote."""
    out: str = REQUIRED
    """Run folder; the same command continues what it holds."""
    also: tuple[str, ...] = ()
    """Further dataset folders to mix with --data, which alone gives statistics, figures and k-NN."""
    weights: tuple[int, ...] = ()
    """How many images of each are seen in turn, that of --data first; by default as many of each."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    knn: KnnConfig = field(default_factory=KnnConfig)
    anomalies: AnomalyConfig = field(default_factory=AnomalyConfig)
    seed: int = 0
    """Of initialisation, order, crops and masks."""
    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Share of an image's area that a random crop shows."""
    mirror: float = 0.5
    """Probability of a horizontal flip; 0 where left and right differ in meaning, as in writing."""
    normalization: Literal["imagenet", "dataset"] = "imagenet"
    """Whose channel means and deviations: ImageNet's, or those in the dataset's manifest."""
    split: str = "train"
    """The split to train on."""
    held_out: str = "test"
    """The split for figures and k-NN, where the dataset has it."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """bf16, fp16: mixed precision, weights and optimizer stay in fp32; fp16 scales its losses."""
    compile: bool = False
    """torch.compile: a minute or two at the start, then faster steps."""
    gradient_checkpointing: bool = False
    """Compute a block's activations again instead of keeping them: a third more time, a fraction of the memory."""
    shard_parameters: bool = False
    """FSDP2: each process keeps its share of weights and optimizer. For models that do not fit one GPU."""
    accumulate: int = 1
    """Each process runs its part of a batch in so many pieces, one after another, to save memory."""
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
    """Epochs between k-NN with figures; both are also made at the end. 0: only there."""
    resume: str | None = None
    """Run folder or checkpoint to go on from when --out holds none: weights, optimizer, place in the stream."""
    init_from: str | None = None
    """Run folder, checkpoint, or weights of others that a new run starts with: a facebook .pth, a timm or Transformers
    folder or safetensors file, hf://user/name."""
    new_decoder: bool = False
    """With --init-from: take the encoder alone, and start a new decoder."""
    tracker: Literal["tensorboard", "wandb", "trackio", "none"] = "tensorboard"
    """Where metrics go beside metrics.jsonl: tensorboard/ in the run folder, or a service."""
    patience_seconds: float = 600.0
    """So long a process waits for the others before it ends, naming who is missing; after half of it without a step all
    write down where they are, in stalls/ of the run folder."""
    deterministic: bool = False
    """On a GPU: only operations that give the same bits each time, as CPUs do; slower."""

    def __post_init__(self) -> None:
        steps = ("log_every", "checkpoint_steps", "keep_checkpoints")
        for option in ("epochs", "batch_size", "accumulate", *steps, "patience_seconds"):
            self._check(option, getattr(self, option) > 0, "a positive number")
        for option in ("evaluate_epochs", "seed", "keep_every_steps"):
            self._check(option, getattr(self, option) >= 0, "zero or more")
        self._check("workers", self.workers is None or self.workers >= 0, "zero or more")
        self._check("mirror", 0 <= self.mirror <= 1, "a probability from 0 to 1")
        self._check("max_world", 1 <= self.max_world <= 512, "1 to 512")
        self._check(
            "weights",
            not self.weights or (len(self.weights) == 1 + len(self.also) and min(self.weights) > 0),
            f"positive integers, one for --data and each of --also ({1 + len(self.also)})",
        )
        low, high = self.crop_scale
        self._check("crop_scale", 0 < low <= high <= 1, "two shares of the area, the smaller first, such as 0.2 1")
        self._check("new_decoder", not self.new_decoder or self.init_from is not None, "an --init-from to go with it")
        self.objective.visible_patches(self.encoder.patches)
        self.optimizer.check_epochs(self.epochs)

    def _check(self, option: str, fits: bool, expected: str) -> None:
        if not fits:
            value: Any = getattr(self, option)
            raise ValueError(f"--{option.replace('_', '-')} expects {expected}, got {value}")
