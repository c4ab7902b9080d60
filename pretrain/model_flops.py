"""FLOPs of training any model: by formula for a plain vision transformer, otherwise as torch counts them."""

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pretrain.encoder import unsupported_features
from pretrain.flops import encoder_flops, training_flops


def model_flops(model: nn.Module, image: tuple[int, int, int]) -> float:
    """Model FLOPs of one step of training for one image (channels, height, width); the model is on the CPU.

    Of frozen parameters the backward pass is counted too, though less is computed.
    """
    if isinstance(model, VisionTransformer) and not unsupported_features(model):
        return float(training_flops(encoder_flops(model)))
    was_training = model.training
    model.eval()  # the running averages of batch norms stay as they are
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *image))
    model.train(was_training)
    return float(training_flops(counter.get_total_flops()))
