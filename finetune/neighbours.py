"""Classification of held-out images by their nearest training images, for several k at once."""

from typing import Any

import torch

from finetune.extraction import Features
from finetune.feature_probe_config import NeighboursConfig
from launch.console import Console
from pretrain.nearest import nearest, vote


def probe_neighbours(
    train: Features, held_out: Features, config: NeighboursConfig, console: Console, *, device: torch.device
) -> dict[str, Any]:
    """Share of the held-out images that their nearest training images name rightly: what probe.json says of it.

    `neighbours` and `top1` are those of the k that counts, `sweep` of all; a k above the number of training images is
    left out of the sweep, and where it is the one that counts all vote.
    """
    values, labels = (tensor[: config.most_train] for tensor in train)
    queries, expected = (tensor[: config.most_held_out] for tensor in held_out)
    own = min(config.neighbours, len(labels))
    counts = sorted({own, *(count for count in config.sweep if count <= len(labels))})
    found = nearest(values, queries, max(counts), device=device)
    predictions = vote(found.similarity, labels[found.number], counts, temperature=config.temperature)
    shares = {count: (classes == expected).double().mean().item() for count, classes in predictions.items()}
    some = f", {len(labels):,} of {len(train.labels):,} training images" if len(labels) < len(train.labels) else ""
    console.say(f"k-NN {100 * shares[own]:.1f} % (k = {own}{some})")
    console.say(f"k-NN by k: {', '.join(f'{count} {100 * share:.1f}' for count, share in shares.items())} %")
    return {
        "neighbours": own,
        "temperature": config.temperature,
        "train_images": len(labels),
        "held_out_images": len(expected),
        "top1": shares[own],
        "sweep": [{"neighbours": count, "top1": share} for count, share in shares.items()],
    }
