"""An encoder that learns another model's features, through projections to their widths that are thrown away.

Shapes: b images, d the encoder's width, n its patches, c and e the widths of the teacher's features.
"""

import math

import torch
from jaxtyping import Float
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from pretrain.encoder import Size, allocate, check_supported, initialize_encoder, initialize_layers
from pretrain.flops import encoder_flops
from pretrain.masked_autoencoder import Features


class FeatureStudent(nn.Module):
    """The encoder under `encoder.`, and a linear projection each of its class token and of its patch tokens.

    All parameters are NaN until `initialize` or a checkpoint fills them. ValueError for an encoder that is not a plain
    vision transformer.
    """

    def __init__(self, encoder: VisionTransformer, widths: tuple[int, int]) -> None:
        super().__init__()
        self.encoder = check_supported(encoder, type(encoder).__name__)
        self.grid: Size = encoder.patch_embed.grid_size
        with torch.device("meta"):
            self.class_projection = nn.Linear(encoder.embed_dim, widths[0])
            self.patch_projection = nn.Linear(encoder.embed_dim, widths[1])
        for part in (self.class_projection, self.patch_projection):
            allocate(part)

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Fill every parameter: the encoder's as masked autoencoders start, the projections Xavier-uniform."""
        initialize_encoder(self.encoder, generator)
        for part in (self.class_projection, self.patch_projection):
            initialize_layers(nn.Sequential(part), generator)

    def forward(
        self, images: Float[Tensor, "b ch h w"], image_target: Float[Tensor, "b c"], targets: Float[Tensor, "b n e"]
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """How far the projected class token is from the teacher's feature of the image, and the projected patch tokens
        from those of the places, the mean over patches: each 1 - cosine, from 0 to 2, in fp32.
        """
        tokens = self.encoder.forward_features(images)  # (b, 1 + n, d)
        image = self.class_projection(tokens[:, 0])
        places = self.patch_projection(tokens[:, 1:])
        return cosine_distance(image, image_target), cosine_distance(places, targets).mean(dim=1)

    @torch.no_grad()
    def features(self, images: Float[Tensor, "b ch h w"]) -> Features:
        """The encoder's own features, before any projection."""
        tokens = self.encoder.forward_features(images)
        return Features(tokens[:, 1:].mean(dim=1), tokens[:, 0])


def cosine_distance(ours: Float[Tensor, "*b d"], theirs: Float[Tensor, "*b d"]) -> Float[Tensor, "*b"]:
    """1 - cosine, in fp32."""
    return 1 - functional.cosine_similarity(ours.float(), theirs.float(), dim=-1)


def student_flops(student: FeatureStudent) -> int:
    """Forward FLOPs of one image, the projections included and the teacher left out."""
    projections = student.class_projection.weight.numel() + math.prod(student.grid) * (
        student.patch_projection.weight.numel()
    )
    return encoder_flops(student.encoder) + 2 * projections
