"""Self-attention as timm computes it, in less time, and the block after which only some tokens are needed."""

from contextlib import nullcontext

import torch
from jaxtyping import Float
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn


class PackedAttention(Attention):
    """timm's attention: its parameters, its results up to rounding. Not with its `gate`.

    Queries, keys and values are cut from one tensor such that backward joins their gradients by one copy, where timm's
    needs two. On a CPU half precision is widened for the scores: the backward of torch's kernel takes twice as long on
    it as on fp32.
    """

    def forward(
        self, x: Float[Tensor, "b n d"], attn_mask: Tensor | None = None, is_causal: bool = False, first: int = 0
    ) -> Float[Tensor, "b asking d"]:
        """Of the tokens from number `first` on, what each takes from all."""
        assert getattr(self, "gate", None) is None
        assert first == 0 or (attn_mask is None and not is_causal)
        parts = self.qkv(x).chunk(3, dim=-1) if first == 0 else self._project(x, first)
        dtype = parts[0].dtype
        widened = x.device.type == "cpu" and dtype.itemsize < 4
        if widened:
            parts = [part.float() for part in parts]
        query, key, value = (part.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for part in parts)
        with torch.autocast("cpu", enabled=False) if widened else nullcontext():
            taken = nn.functional.scaled_dot_product_attention(
                self.q_norm(query),
                self.k_norm(key),
                value,
                attn_mask=attn_mask,
                dropout_p=self.attn_drop.p if self.training else 0.0,
                is_causal=is_causal,
            )
        taken = taken.transpose(1, 2).flatten(2).to(dtype)  # (b, heads, asking, e) -> (b, asking, d)
        return self.proj_drop(self.proj(self.norm(taken)))

    def _project(self, x: Tensor, first: int) -> list[Tensor]:
        """Queries of the tokens from `first` on; keys and values of all."""
        width = self.num_heads * self.head_dim
        weights = self.qkv.weight.split([width, 2 * width])
        biases = (None, None) if self.qkv.bias is None else self.qkv.bias.split([width, 2 * width])
        queries, both = map(nn.functional.linear, (x[:, first:], x), weights, biases)
        return [queries, *both.chunk(2, dim=-1)]


class LastBlock(Block):
    """A block of which the tokens from some number on are computed, the others serving as their context."""

    def forward(
        self, x: Float[Tensor, "b n d"], attn_mask: Tensor | None = None, is_causal: bool = False, first: int = 0
    ) -> Float[Tensor, "b asking d"]:
        """As timm's block, without the tokens before `first`."""
        attention = self.attn
        assert isinstance(attention, PackedAttention)
        found = attention(self.norm1(x), attn_mask=attn_mask, is_causal=is_causal, first=first)
        x = x[:, first:] + self.drop_path1(self.ls1(found))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
