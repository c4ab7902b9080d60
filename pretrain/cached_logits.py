"""What is kept of a teacher's logits, and what a student gets of it: every probability to about three digits.

Losses of distillation see logits through softmax and argmax alone, which do not change when the same number is taken
from all of a row. So what is kept are logits less the logarithm of the sum of their exponentials, the logarithms of
probabilities: those of probable classes are small numbers, of which half precision keeps the most digits.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from pretrain.row_format import Columns

_LEAST = float(np.finfo(np.float16).min)  # whose exponential is 0 at any temperature that is of use


@dataclass(frozen=True)
class LogitFormat:
    """The columns of a row: logits of the `kept` most probable of `classes` classes, None for all of them.

    logits: float16, of all classes in order, or of the most probable first. classes: their numbers. rest: float32, the
    logarithm of the probability that all others share.

    Raises:
        ValueError: as many or more are to be kept than there are.
    """

    classes: int
    kept: int | None
    noun: ClassVar[str] = "logits"
    names: ClassVar[tuple[str, ...]] = ("logits", "classes", "rest")
    refusal: ClassVar[str] = "NaN or infinite, expected numbers; look at its weights, or compute in --precision fp32"

    def __post_init__(self) -> None:
        if self.kept is not None and self.kept >= self.classes:
            raise ValueError(
                f"--cache-teacher.classes {self.kept}: the teacher has {self.classes} classes; give fewer, or leave it "
                "out, which keeps all"
            )

    @property
    def saving(self) -> str:
        """How to keep less; empty where not all classes are kept already."""
        return "" if self.kept is not None else ", keep fewer classes of each (--cache-teacher.classes 16)"

    @property
    def columns(self) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        """Type and shape of what each column holds of one row."""
        if self.kept is None:
            return {"logits": (np.dtype("<f2"), (self.classes,))}
        number = np.min_scalar_type(self.classes - 1).newbyteorder("<")
        return {
            "logits": (np.dtype("<f2"), (self.kept,)),
            "classes": (number, (self.kept,)),
            "rest": (np.dtype("<f4"), ()),
        }

    def fits(self, judged: Float[Tensor, "b classes"]) -> Bool[Tensor, " b"]:
        """Which rows are numbers; some of a row may be minus infinity, of classes that are impossible."""
        return judged.float().logsumexp(dim=1).isfinite()

    def pack(self, judged: Float[Tensor, "b classes"]) -> dict[str, NDArray[Any]]:
        """The columns of logits, of which some may be minus infinity.

        Rounding never changes which class is the first of the most probable ones: others that come to the same number
        get the next smaller one.
        """
        logits = judged.float()
        assert logits.shape[1] == self.classes
        logs = logits.log_softmax(dim=1)
        if self.kept is None:
            kept, first = logs, logits.argmax(dim=1).cpu().numpy()
        else:
            # A stable sort, since in half precision many logits are equal, and `topk` may take any of those.
            order = logits.sort(dim=1, descending=True, stable=True).indices
            kept, first = logs.gather(1, order[:, : self.kept]), np.zeros(len(logits), np.int64)
        rounded = kept.clamp(min=_LEAST).cpu().numpy().astype("<f2")
        rows = np.arange(len(rounded))
        largest = rounded[rows, first]
        found = np.minimum(rounded, np.nextafter(largest, np.float16(-np.inf))[:, None])
        found[rows, first] = largest
        if self.kept is None:
            return {"logits": found}
        numbers = order[:, : self.kept].cpu().numpy().astype(self.columns["classes"][0])
        rest = logs.gather(1, order[:, self.kept :]).logsumexp(dim=1).clamp(min=_LEAST)
        return {"logits": found, "classes": numbers, "rest": rest.cpu().numpy().astype("<f4")}

    def unpack(self, columns: Columns) -> Float[Tensor, "b classes"]:
        """Logits of all classes, whose softmax gives those that were kept their probabilities, and spreads the rest
        evenly over the others. At a temperature other than 1 the latter is an approximation.
        """
        logits = torch.from_numpy(columns["logits"].astype(np.float32))
        if self.kept is None:
            return logits
        others = torch.from_numpy(columns["rest"].astype(np.float32)) - math.log(self.classes - self.kept)
        below = torch.nextafter(logits[:, 0], torch.tensor(-math.inf))  # so that no other becomes the most probable
        dense = torch.minimum(others, below)[:, None].repeat(1, self.classes)  # (b,) -> (b, classes)
        return dense.scatter_(1, torch.from_numpy(columns["classes"].astype(np.int64)), logits)
