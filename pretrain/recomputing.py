"""Gradient checkpointing (Chen et al. 2016, arXiv:1604.06174): a block's activations are computed again when needed."""

from functools import partial

from timm.models.vision_transformer import Block
from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute_blocks(model: nn.Module) -> None:
    """Keep of each transformer block its input alone, in place: about a third more time, a fraction of the memory.

    A block's randomness must be an argument or kept beside it, as here: no generator is put back for the second pass.
    """
    for module in model.modules():
        if isinstance(module, Block):
            module.forward = partial(checkpoint, module.forward, use_reentrant=False, preserve_rng_state=False)
