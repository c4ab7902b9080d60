"""The options of finetune/validate.py; imports nothing heavy."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class ValidateConfig:
    """Which model is evaluated on which images, or which evaluations are compared.

    Raises:
        ValueError: an option is missing, belongs to the other use, or lies outside its range.
    """

    model: str | None = None
    """Run folder of finetune/classify.py, or folder of anyone's classifier of timm's or Transformers' ViT or DeiT, also
    hf://user/name."""
    data: str | None = None
    """Dataset folder that data_pipeline/shard.py wrote, with labels."""
    out: str | None = None
    """Folder to write; one that this script has written is replaced. Needed but with --compare."""
    compare: tuple[str, ...] = ()
    """Instead of --model and --data: two or more folders of this script or of finetune/classify.py, or their
    predictions.parquet, which are compared on the images that they share."""
    split: str = "test"
    """The split to evaluate on, each of its images that has a label once."""
    label_field: str | None = None
    """Several labels an image, from this field of its JSON annotations, as `finetune/classify.py --label-field` reads
    them; None: the one class that it has."""
    preparation: Literal["auto", "timm", "sherd"] = "auto"
    """How images are prepared. timm: by timm's own transform as the model's config.json describes it. sherd: the centre
    crop of the run itself. auto: sherd for a model that sherd wrote, timm for any other."""
    classes: Literal["name", "number"] = "name"
    """How the dataset's classes are found among the model's: by their names, or class k is the model's class k."""
    batch_size: int = 256
    """Images computed together. Runs evaluate with 256; another number may round otherwise."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """What the model computes in; a run's own figures come in the run's precision."""
    draws: int = 1000
    """Sets of images that are drawn for the bootstrap intervals."""
    seed: int = 0
    """Of these draws."""
    workers: int | None = None
    """Loader processes beside each process; None: one for every core but one, 16 at most."""
    deterministic: bool = False
    """On a GPU: only operations that give the same bits each time, as CPUs do; slower."""

    def __post_init__(self) -> None:
        if self.compare:
            given = [f"--{name}" for name in ("model", "data") if getattr(self, name) is not None]
            if given:
                raise ValueError(f"--compare looks at predictions that were written before; leave {given[0]} out")
            self._check("compare", len(self.compare) > 1, "two or more folders or files")
        else:
            missing = [f"--{name}" for name in ("model", "data", "out") if getattr(self, name) is None]
            if missing:
                raise ValueError(
                    f"{missing[0]} is missing; expected --model MODEL --data DATASET --out FOLDER, or --compare A B"
                )
        self._check("batch_size", self.batch_size > 0, "a positive number")
        self._check("draws", self.draws >= 100, "at least 100")
        self._check("seed", self.seed >= 0, "zero or more")
        self._check("workers", self.workers is None or self.workers >= 0, "zero or more")

    def _check(self, option: str, fits: bool, expected: str) -> None:
        if not fits:
            value: Any = getattr(self, option)
            got = " ".join(value) if isinstance(value, tuple) else value
            raise ValueError(f"--{option.replace('_', '-')} expects {expected}, got {got}")
