"""Students of a teacher's logits: with a head of its own for what the teacher says, or with one for both.

DeiT reads that head off a distillation token (Touvron et al. 2021, arXiv:2012.12877, section 4); timm's LeViT, PiT,
EfficientFormer, SwiftFormer, RepViT and iFormer have, or can have, a second head too. In training such a model gives
the logits of both, in evaluation their mean. What it is asked for is an attribute of the module and no weight: a model
that is saved and built again gives the mean.
"""

from typing import Any

import timm
from jaxtyping import Float
from torch import Tensor, nn

from pretrain.distillation_config import DistillationConfig


def has_distillation_head(model: nn.Module) -> bool:
    """Whether a timm model has a second head, for what a teacher says. Some can be asked for its logits without."""
    names = (name for name, _ in model.named_parameters())
    return hasattr(model, "set_distilled_training") and any("head_dist" in name.split(".") for name in names)


def prepare_student(model: nn.Module, config: DistillationConfig) -> None:
    """Make a timm model give the logits of both heads in training, where it has two; to be called before it is wrapped.

    Raises:
        ValueError: two heads and no teacher. The released code then leaves the second as it started, and yet averages
            with it at inference.
    """
    if not has_distillation_head(model):
        return
    if not config.is_on:
        name: str = vars(model)["pretrained_cfg"]["architecture"]
        plain = name.replace("_distilled", "")
        such = f" such as {plain}" if plain != name and timm.is_model(plain) else ""
        raise ValueError(
            f"--encoder.name {name}: half of what it says at inference comes from a head that only a teacher trains, "
            f"got --distillation.kind none; pass --distillation.kind hard and a --teacher, or choose a model{such} "
            "without that head; finetune/classify.py trains the mean of both heads on labels"
        )
    asked: Any = model
    asked.set_distilled_training(True)


def two_logits(
    shared: nn.Module, images: Float[Tensor, "b c h w"]
) -> tuple[Float[Tensor, "b classes"], Float[Tensor, "b classes"]]:
    """What is compared with the labels and what with the teacher, in float32: the same of a model with one head.

    `shared` is the model, or what shares its gradients between processes. In evaluation both are the mean of two heads.
    """
    found: Tensor | tuple[Tensor, Tensor] = shared(images)
    first, second = found if isinstance(found, tuple) else (found, found)
    return first.float(), second.float()
