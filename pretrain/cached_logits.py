"""What is kept of a teacher's logits, and what a student gets of it: every probability to about three digits.

Losses of distillation see logits through softmax and argmax alone, which do not change when the same number is taken
from all of a row. So what is kept are logits less the logarithm of the sum of their exponentials, the logarithms of
probabilities: those of probable classes are small numbers, of which half precision keeps the most digits.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

_LEAST = float(np.finfo(np.float16).min)  # whose exponential is 0 at any temperature that is of use
Columns = Mapping[str, NDArray[Any]]
"""Of b rows: `logits` (b, kept) and, where not all are kept, `classes` (b, kept) and `rest` (b,)."""


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

    def __post_init__(self) -> None:
        if self.kept is not None and self.kept >= self.classes:
            raise ValueError(
                f"--cache-teacher.classes {self.kept}: the teacher has {self.classes} classes; give fewer, or leave it "
                "out, which keeps all"
            )

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

    def pack(self, logits: Float[Tensor, "b classes"]) -> dict[str, NDArray[Any]]:
        """The columns of logits, of which some may be minus infinity.

        Rounding never changes which class is the first of the most probable ones: others that come to the same number
        get the next smaller one.
        """
        assert logits.shape[1] == self.classes
        logs = logits.float().log_softmax(dim=1)
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
