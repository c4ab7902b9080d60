"""What every supervised run is told, fine-tuned or distilled, as a frozen dataclass that imports nothing heavy."""

from dataclasses import dataclass, field
from typing import Any, Literal

from launch.settings import REQUIRED
from pretrain.augment_config import AugmentationConfig, MixingConfig
from pretrain.backbone_config import BackboneConfig, Pool
from pretrain.config import OptimizerConfig

SCRATCH = "none"

MAY_CHANGE_ON_RESUME = frozenset(
    {
        "data",  # the path; the fingerprint of what lies there may not
        "out",
        "workers",
        "cache",
        "accumulate",
        "log_every",
        "checkpoint_steps",
        "keep_checkpoints",
        "resume",
        "deterministic",
        "patience",
        "patience_seconds",
        "show_groups",
        "tracker",
    }
)


@dataclass(frozen=True)
class SupervisedConfig:
    """Training a classifier on a dataset's labels, from a model that exists or from scratch.

    Raises:
        ValueError: a number outside its range, sizes that do not fit each other, a warm-up longer than the run.
    """

    encoder: BackboneConfig
    """What `--init none` builds: any model of timm. With a model to start from its own architecture and sizes are taken
    instead, but for `image_size` and `patch_size` below."""
    epochs: float
    """Passes over the data."""
    batch_size: int
    """Images of an optimizer step, over all processes and accumulated parts."""
    optimizer: OptimizerConfig
    data: str = REQUIRED
    """Dataset folder that data_pipeline/shard.py wrote, with labels."""
    init: str = REQUIRED
    """Run folder of pretrain/mae.py or of this script, folder of a timm model or of Transformers' ViT, DeiT or ViT-MAE,
    hf://user/name, or a file of facebook's MAE for this recipe's encoder; `none` trains from scratch."""
    out: str = REQUIRED
    """Run folder; the same command continues what it holds."""
    labels: int | None = None
    """Train on so many images of each class, chosen by --seed; None: on all that have a label."""
    label_field: str | None = None
    """Several labels an image: this field of the images' annotations lists them. The loss is then binary
    cross-entropy, and the mean average precision over classes is what counts."""
    balance: float = 0.0
    """Rare classes are shown more often: a class of n images takes part as n^(1 - balance) would, times what makes the
    largest class stay. 0: each image once an epoch; .5: square-root sampling; 1: all classes equally often."""
    validation: float = 0.0
    """This share of the training images, of each class, is not trained on: evaluations during the run, the best
    checkpoint and early stopping go by it, and the held-out split is looked at once, at the end. 0: by the latter."""
    patience: int | None = None
    """End after so many evaluations in a row without a better one; None: train all epochs."""
    image_size: tuple[int, int] | None = None
    """Height and width to fine-tune at, positions interpolated; None: those that the encoder was trained at."""
    patch_size: tuple[int, int] | None = None
    """Height and width of patches to fine-tune with, the patch embedding resampled; None: those of the encoder."""
    interpolation: Literal["facebook", "timm"] = "facebook"
    """How positions are interpolated: bicubic as MAE's released code, or as timm, which filters when shrinking."""
    pool: Pool = "mean"
    """What the head sees: the mean of the patches (of a plain vision transformer after a norm of its own), the class
    token after the encoder's norm, or whatever the model's own head sees."""
    head: Literal["fresh", "keep"] = "fresh"
    """A new head, or the one that --init has, which must be for as many classes."""
    head_std: float = 2e-5
    """Standard deviation of a new head's weights."""
    layer_decay: float | None = 0.75
    """Each layer's learning rate over that of the layer after it; None: one rate for all. --show-groups prints them."""
    show_groups: bool = False
    """Print which parameters learn how fast, layer by layer, and end."""
    loss: Literal["cross-entropy", "bce", "bce-any"] = "cross-entropy"
    """bce: binary cross-entropy of each class by itself, the mean over classes. bce-any: the same, and each class that
    has any share in a mixed image counts as present in full, as in DeiT III's released code."""
    average: float | None = None
    """Evaluate and export the exponential moving average of the weights, with this decay a step; None: the weights."""
    initialization: Literal["mae", "timm"] = "mae"
    """How new weights of a plain vision transformer are drawn: as masked autoencoders start, or as timm starts them,
    which is DeiT's way. Other models always start as timm's."""
    drop_path: float = 0.1
    """Probability of leaving out the last block for an image; less before it, none at the first."""
    drop_path_rule: Literal["growing", "even"] = "growing"
    """even: that probability for every block, the first one too, as in DeiT III's released code."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    mixing: MixingConfig = field(default_factory=MixingConfig)
    evaluation_crop: float = 0.875
    """Share of the shorter side that the evaluated centre crop shows: .875 is 224 of 256 pixels."""
    seed: int = 0
    """Of the head, the order, the images for --labels, and all that varies in training."""
    normalization: Literal["imagenet", "dataset"] = "imagenet"
    """From scratch: whose channel means and deviations. An encoder to start from brings its own."""
    split: str = "train"
    """The split to train on."""
    held_out: str = "test"
    """The split to evaluate on."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """bf16, fp16: mixed precision, weights and optimizer stay in fp32."""
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
    evaluate_epochs: float = 5.0
    """Epochs between evaluations, each with a checkpoint; there is also one at the end. 0: only there."""
    resume: str | None = None
    """Run folder or checkpoint to go on from when --out holds none: weights, optimizer, place in the stream."""
    patience_seconds: float = 600.0
    """So long a process waits for the others before it ends, naming who is missing; after half of it without a step all
    write down where they are, in stalls/ of the run folder."""
    deterministic: bool = False
    """On a GPU: only operations that give the same bits each time, as CPUs do; slower."""
    tracker: Literal["tensorboard", "wandb", "trackio", "none"] = "none"
    """Where the metrics are shown, beside metrics.jsonl: in files for TensorBoard, or by a service."""

    def __post_init__(self) -> None:
        positive = (
            "epochs",
            "batch_size",
            "accumulate",
            "log_every",
            "checkpoint_steps",
            "keep_checkpoints",
            "head_std",
            "patience_seconds",
        )
        for option in positive:
            self._check(option, getattr(self, option) > 0, "a positive number")
        for option in ("evaluate_epochs", "seed"):
            self._check(option, getattr(self, option) >= 0, "zero or more")
        self._check("labels", self.labels is None or self.labels > 0, "a positive number of images a class, or None")
        self._check("workers", self.workers is None or self.workers >= 0, "zero or more")
        self._check("max_world", 1 <= self.max_world <= 512, "1 to 512")
        self._check("layer_decay", self.layer_decay is None or 0 < self.layer_decay <= 1, "a share above 0, at most 1")
        self._check("average", self.average is None or 0 < self.average < 1, "a decay between 0 and 1, such as 0.9999")
        self._check("balance", 0 <= self.balance <= 1, "0 to 1")
        self._check("validation", 0 <= self.validation < 1, "a share of the training images, at least 0, below 1")
        self._check("patience", self.patience is None or self.patience > 0, "a positive number of evaluations, or None")
        self._check("drop_path", 0 <= self.drop_path < 1, "a probability from 0 to below 1")
        self._check("evaluation_crop", 0 < self.evaluation_crop <= 1, "a share above 0, at most 1")
        if self.head == "keep" and self.init == SCRATCH:
            raise ValueError("--head keep: training from scratch (--init none) has no head to keep; drop --head keep")
        if self.patience is not None and self.evaluate_epochs == 0:
            raise ValueError(
                "--patience needs evaluations to count: give --evaluate-epochs above 0, or drop --patience"
            )
        if self.label_field is not None and (self.labels is not None or self.balance > 0 or self.head == "keep"):
            raise ValueError(
                f"--label-field {self.label_field}: images with several labels have no one class to choose or to "
                "balance them by, nor a head that is known to fit; drop --labels, --balance and --head keep"
            )
        if self.loss == "bce-any" and self.mixing.label_smoothing > 0:
            raise ValueError(
                f"--loss bce-any: smoothed labels (--mixing.label-smoothing {self.mixing.label_smoothing:g}) give "
                "every class a share, so that all would count; pass --mixing.label-smoothing 0, or --loss bce"
            )
        self.optimizer.check_epochs(self.epochs)

    def _check(self, option: str, fits: bool, expected: str) -> None:
        if not fits:
            value: Any = getattr(self, option)
            raise ValueError(f"--{option.replace('_', '-')} expects {expected}, got {value}")
