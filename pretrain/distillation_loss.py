"""What a student's logits cost beside a teacher's, row by row: the training loop takes the mean over rows."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from pretrain.distillation_config import DistillationConfig


def distillation_losses(
    student: Float[Tensor, "b classes"], teacher: Float[Tensor, "b classes"], config: DistillationConfig
) -> Float[Tensor, " b"]:
    """The teacher's part of each row's loss, in float32 whatever the logits are in (Touvron et al. 2021,
    arXiv:2012.12877, equations 2 and 3).

    Hard: cross-entropy of the student at the class that the teacher finds likeliest. Soft: the Kullback-Leibler
    divergence KL(teacher || student), both at the temperature tau, times tau^2, so that its gradient does not shrink as
    tau grows; a class whose teacher's logit is minus infinity has no part in it. The mean over rows is the paper's. The
    released code divides the sum by the number of elements instead, rows x classes, so that its soft part weighs
    `classes` times less than the same alpha gives it here.
    """
    assert config.is_on
    student, teacher = student.float(), teacher.detach().float()
    if config.kind == "hard":
        return functional.cross_entropy(student, teacher.argmax(dim=1), reduction="none")
    ours = functional.log_softmax(student / config.temperature, dim=1)
    theirs = functional.log_softmax(teacher / config.temperature, dim=1)
    shares = theirs.exp()
    terms = torch.where(shares > 0, shares * (theirs - ours), 0.0)  # the limit at 0, not 0 times infinity
    return config.temperature**2 * terms.sum(dim=1)


def combine(
    base: Float[Tensor, " b"], known: Bool[Tensor, " b"], distilled: Float[Tensor, " b"], alpha: float
) -> Float[Tensor, " b"]:
    """(1 - alpha) of a row's loss on its label and alpha of the teacher's part; alpha of the latter alone where the
    label is not known.

    So what a teacher says of an image counts the same whether or not somebody labelled it, and a label only ever adds:
    where a share s of the rows is labelled the mean is (1 - alpha) s times their mean loss on labels, plus alpha times
    the mean of the teacher's part over all. With few labels the latter rules; a smaller alpha gives labels more weight.

    Args:
        base: losses on labels; of any value where these are not known.
        known: which rows have a label.
        distilled: the teacher's part, of `distillation_losses`.
        alpha: share of the teacher's part.
    """
    return (1 - alpha) * torch.where(known, base, 0.0) + alpha * distilled
