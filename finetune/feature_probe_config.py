"""What is learnt from features that are computed once, as frozen dataclasses that import nothing heavy."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class NeighboursConfig:
    """k-nearest-neighbour classification of held-out images, by cosine similarity.

    Votes are weighted by exp(similarity / temperature) (Wu et al. 2018, arXiv:1805.01978).

    Raises:
        ValueError: a number that is not positive, or no k to sweep.
    """

    neighbours: int = 20
    """k of the accuracy that counts: fixed, not the best of the sweep, which the held-out images would choose."""
    sweep: tuple[int, ...] = (1, 5, 10, 20, 50, 100, 200)
    """Accuracies are listed for each such k that there are training images for."""
    temperature: float = 0.07
    """Of the votes' weights."""
    most_train: int | None = None
    """At most so many training images are neighbours, the first in dataset order, which is shuffled; None: all."""
    most_held_out: int | None = None
    """At most so many held-out images are classified; None: all."""

    def __post_init__(self) -> None:
        for option in ("neighbours", "temperature", "most_train", "most_held_out"):
            value = getattr(self, option)
            if value is not None and value <= 0:
                raise ValueError(f"--knn.{option.replace('_', '-')} expects a positive number, got {value}")
        _check_positive("knn.sweep", self.sweep)


@dataclass(frozen=True)
class LogisticConfig:
    """Logistic regression on standardised features, for datasets whose features fit in memory.

    Raises:
        ValueError: no strengths, or a number that is not positive.
    """

    strengths: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0, 10.0)
    """C, the inverse of the penalty on weights: tried on a held-out fifth of the training images, the best is kept."""
    iterations: int = 1000
    """L-BFGS stops after so many; where it had not converged the result says so."""

    def __post_init__(self) -> None:
        _check_positive("logistic.strengths", self.strengths)
        if self.iterations <= 0:
            raise ValueError(f"--logistic.iterations expects a positive number, got {self.iterations}")


@dataclass(frozen=True)
class FewShotConfig:
    """Logistic regression on a few images a class, on features less their mean and of length 1, without a bias.

    As Assran et al. 2022 (arXiv:2204.07141) measure and their released code has it, whose penalty is .00025 over the
    number of images: this strength.

    Raises:
        ValueError: no numbers of images, or a number that is not positive.
    """

    shots: tuple[int, ...] = (1, 2, 5, 10)
    """Images of each class; none: nothing is measured. Those of a smaller number are among those of a larger one."""
    draws: int = 5
    """Times that images are drawn anew; the mean and the deviation are over these."""
    strength: float = 4000.0
    """C, the inverse of the penalty on weights: one for all, since a few images leave none to choose it with."""
    iterations: int = 1000
    """L-BFGS stops after so many; where it had not converged the result says so."""

    def __post_init__(self) -> None:
        if self.shots:
            _check_positive("few-shot.shots", self.shots)
        for option in ("draws", "strength", "iterations"):
            if getattr(self, option) <= 0:
                raise ValueError(f"--few-shot.{option} expects a positive number, got {getattr(self, option)}")


@dataclass(frozen=True)
class SweepConfig:
    """Linear layers of many learning rates and on several features, side by side, by SGD without weight decay.

    Learning rates, blocks, momentum, start and schedule are those of the released evaluation of Oquab et al. 2023
    (arXiv:2304.07193), and so are iterations and batch, which was 128 on each of 8 GPUs. Two things differ. There the
    layers learn from random crops; here from one view of an image, so that it is encoded once. There the best layer is
    the one that does best on the images that are reported; here a fifth of the training images chooses.

    Raises:
        ValueError: a number outside its range.
    """

    base_lrs: tuple[float, ...] = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
    """Learning rates of a batch of 256; each starts at base_lr x batch / 256 and falls to 0 by half a cosine."""
    blocks: tuple[int, ...] = (1, 4)
    """Class tokens of so many last blocks, side by side; each with and without the mean of the last patch tokens."""
    iterations: int = 12_500
    """Optimizer steps."""
    batch_size: int = 1024
    """Images of a step."""
    momentum: float = 0.9
    """Decay rate of the running sum of gradients."""
    head_std: float = 0.01
    """Standard deviation of the layers' weights at the start; their biases are 0."""

    def __post_init__(self) -> None:
        _check_positive("sweep.base-lrs", self.base_lrs)
        _check_positive("sweep.blocks", self.blocks)
        for option in ("iterations", "batch_size"):
            if getattr(self, option) <= 0:
                raise ValueError(
                    f"--sweep.{option.replace('_', '-')} expects a positive number, got {getattr(self, option)}"
                )
        if not 0 <= self.momentum < 1:
            raise ValueError(f"--sweep.momentum expects a number from 0 to below 1, got {self.momentum}")
        if self.head_std < 0:
            raise ValueError(f"--sweep.head-std expects zero or more, got {self.head_std}")


def _check_positive(option: str, numbers: Sequence[int] | Sequence[float]) -> None:
    if not numbers or min(numbers) <= 0:
        raise ValueError(f"--{option} expects positive numbers, got {' '.join(map(str, numbers)) or 'none'}")
