"""The whole of a fine-tuning run, as one frozen dataclass that imports nothing heavy."""

from dataclasses import dataclass

from finetune.trainable_config import parse_trainable
from pretrain.supervised_config import SupervisedConfig


@dataclass(frozen=True)
class ClassifyConfig(SupervisedConfig):
    """Fine-tuning an encoder as a classifier, or training one from scratch.

    Raises:
        ValueError: a number outside its range, sizes that do not fit each other, a warm-up longer than the run.
    """

    trainable: str = "all"
    """What is trained: all, head, or last:N, the head and the last N layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        assert parse_trainable(self.trainable) is not None  # reading it checks it
