"""What sherd's own parts say of a recipe and of a billion images: the model, the order, what was measured before."""

import json
from math import gcd
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipeline.manifest import INDEX_DTYPE
from data_pipeline.order import Order, Plan, block_bounds, lanes_for

if TYPE_CHECKING:
    from pretrain.mae_config import MaeConfig
    from pretrain.masked_autoencoder import MaskedAutoencoder

_ROOT = Path(__file__).parents[1]
LOADERS = "benchmarks/loaders.json"
MAE_STEP = "benchmarks/mae_step.json"
LOADS = {"full": "sherd", "256": "sherd-256"}
"""Of each way that images are stored, the contender of loaders.json."""
_TAR_BLOCK = 512


def model_facts(config: "MaeConfig") -> dict[str, int]:
    """FLOPs of training on one image, parameters, what --shard-parameters gathers together, and a checkpoint's bytes.

    The model is built, in the memory of the CPU, and let go.
    """
    from timm.models.vision_transformer import Block

    from pretrain.flops import autoencoder_flops, training_flops

    model = build(config)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    return {
        "flops": training_flops(autoencoder_flops(model)),
        "trained": sum(parameter.numel() for parameter in trained),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "units": 1 + sum(isinstance(module, Block) for module in model.modules()),
        # AdamW keeps two moments and a count of steps for each.
        "checkpoint_bytes": weights + sum(2 * parameter.nbytes + 4 for parameter in trained),
    }


def build(config: "MaeConfig") -> "MaskedAutoencoder":
    """The recipe's model, its weights NaN."""
    from pretrain.encoder import create_encoder
    from pretrain.masked_autoencoder import MaskedAutoencoder

    return MaskedAutoencoder(create_encoder(config.encoder), config.decoder, config.objective)


def flops_check() -> dict[str, float]:
    """FLOPs of a ViT-B/16's step by the same formula as above, and as mae_step.json has them; the share of the CPU's
    matrix rate that its bf16 step reached there."""
    from pretrain.flops import autoencoder_flops, training_flops
    from pretrain.recipes import RECIPES

    measured = json.loads((_ROOT / MAE_STEP).read_text())["results"]
    (found,) = (one for one in measured if (one["model"], one["precision"]) == ("vit_base_patch16_224", "bf16"))
    seconds = median(one["sherd"] for one in found["rounds"])
    return {
        "formula": training_flops(autoencoder_flops(build(RECIPES["vit-b16-in1k"].config))),
        "recorded": found["flops_an_image"],
        "utilisation": found["batch"] * found["flops_an_image"] / seconds / found["matrix_rate"],
    }


def worker_seconds() -> dict[str, float]:
    """Of each way to store images: seconds of a loader process for one, all stages, the median of loaders.json."""
    rounds = json.loads((_ROOT / LOADERS).read_text())["rounds"]
    return {
        stored: median(sum(one[name]["stages"]["workers"].values()) for one in rounds) / 1e6
        for stored, name in LOADS.items()
    }


def shard_bytes(image_bytes: float) -> int:
    """Bytes an image takes in a tar, without annotations: its header, and itself in whole blocks."""
    return _TAR_BLOCK * (1 + -(-round(image_bytes) // _TAR_BLOCK))


def order_facts(images: int, shards: int, a_sample: int, most_ranks: int, worlds: tuple[int, ...]) -> dict[str, Any]:
    """How a dataset of so many images is cut and read: lanes, blocks, and how often each world reads a block.

    a_sample: bytes of an image in its shard. The last is counted: in the middle of an epoch, of blocks wholly in sight.
    """
    samples = np.full(shards, images // shards, np.int64)
    plan = Plan(lanes=lanes_for(most_ranks))
    sizes = samples * a_sample + 1024
    order = Order(samples, sizes, fingerprint="0" * 64, plan=plan, seed=0)
    bounds = block_bounds(samples, sizes, plan)
    each = images / order.blocks
    rows = min(int(3 * each) + 1, order.samples // plan.lanes)
    start = order.samples // plan.lanes // 2 * plan.lanes
    counted = read_counts(order, bounds, np.arange(start, start + rows * plan.lanes, dtype=np.int64), worlds)
    block_bytes = float(sizes.sum()) / order.blocks
    return {
        "lanes": plan.lanes,
        "blocks": order.blocks,
        "images_a_block": each,
        "block_bytes": block_bytes,
        "index_bytes": images * INDEX_DTYPE.itemsize,
        "factor": {str(world): world / gcd(world, plan.lanes) for world in worlds},
        "counted": {str(world): count for world, count in counted.items()},
        "cache_bytes": {str(world): cache_bytes(plan.lanes, world, block_bytes) for world in worlds},
    }


def read_counts(order: Order, bounds: np.ndarray, positions: np.ndarray, worlds: tuple[int, ...]) -> dict[int, float]:
    """By how many ranks a block is read, for each world: the mean over the blocks all of whose samples are in sight."""
    blocks = np.searchsorted(bounds, order.locate(positions).sample, side="right") - 1
    seen, counts = np.unique(blocks, return_counts=True)
    whole = seen[counts == np.diff(bounds)[seen]]
    assert len(whole) > 0
    inside = np.isin(blocks, whole)
    return {world: len(np.unique(blocks[inside] * world + positions[inside] % world)) / len(whole) for world in worlds}


def cache_bytes(lanes: int, world: int, block_bytes: float) -> float:
    """Bytes of a cache with which a rank reads remote blocks whole, as `fits_cache` (data_pipeline/blocks.py) asks."""
    return lanes // gcd(lanes, world) * block_bytes * 1.25 / 0.75
