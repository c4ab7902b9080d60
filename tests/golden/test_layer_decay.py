"""The learning rate and weight decay of every parameter of B, L and H when fine-tuned: the formula, name by name.

With depth L and rate d: patch embedding, tokens and positions d^(L+1), block i d^(L-i), final norm and head 1; biases,
norms, tokens and positions do not decay.
"""

import pytest

from finetune.recipes import RECIPES
from pretrain.encoder import create_classifier
from pretrain.optimizer import parameter_groups, peak_learning_rate


@pytest.fixture(autouse=True)
def _without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and shapes are enough: H alone would take 2.5 GB."""
    monkeypatch.setattr("pretrain.encoder.allocate", lambda module: None)


@pytest.mark.parametrize(("name", "depth"), [("vit-b16-in1k", 12), ("vit-l16-in1k", 24), ("vit-h14-in1k", 32)])
@pytest.mark.parametrize("pool", ["mean", "token"])
def test_the_table_of_every_parameter(name: str, depth: int, pool: str):
    config = RECIPES[name].config
    assert config.optimizer.weight_decay == 0.05
    decay = config.layer_decay
    assert decay is not None
    model = create_classifier(config.encoder, classes=1000, pool=pool, drop_path=config.drop_path)
    weight_decay = config.optimizer.weight_decay
    groups = parameter_groups(model, weight_decay, exempt=model.no_weight_decay(), layer_decay=decay)
    peak = peak_learning_rate(config.optimizer, config.batch_size)
    found = {name: (peak * group["lr_scale"], group["weight_decay"]) for group in groups for name, _ in group["params"]}
    norm = "fc_norm" if pool == "mean" else "norm"
    lowest = peak * decay ** (depth + 1)
    expected = {
        "cls_token": (lowest, 0.0),
        "pos_embed": (lowest, 0.0),
        "patch_embed.proj.weight": (lowest, weight_decay),
        "patch_embed.proj.bias": (lowest, 0.0),
        f"{norm}.weight": (peak, 0.0),
        f"{norm}.bias": (peak, 0.0),
        "head.weight": (peak, weight_decay),
        "head.bias": (peak, 0.0),
    }
    for block in range(depth):
        rate = peak * decay ** (depth - block)
        for linear in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
            expected[f"blocks.{block}.{linear}.weight"] = (rate, weight_decay)
            expected[f"blocks.{block}.{linear}.bias"] = (rate, 0.0)
        for layer in ("norm1", "norm2"):
            expected[f"blocks.{block}.{layer}.weight"] = (rate, 0.0)
            expected[f"blocks.{block}.{layer}.bias"] = (rate, 0.0)
    assert found.keys() == expected.keys() == dict(model.named_parameters()).keys()
    for parameter, (rate, decays) in expected.items():
        assert found[parameter] == (pytest.approx(rate, rel=1e-12), decays), parameter


def test_the_last_block_learns_at_the_rate_itself_times_d():
    """Worked by hand: L = 12, d = .65."""
    config = RECIPES["vit-b16-in1k"].config
    model = create_classifier(config.encoder, classes=10, pool="mean", drop_path=0.0)
    groups = parameter_groups(model, 0.05, layer_decay=0.65)
    scale = {name: group["lr_scale"] for group in groups for name, _ in group["params"]}
    assert scale["head.weight"] == 1
    assert scale["blocks.11.norm1.weight"] == pytest.approx(0.65)
    assert scale["blocks.10.norm1.weight"] == pytest.approx(0.4225)
    assert scale["blocks.0.norm1.weight"] == pytest.approx(0.0056880, rel=1e-4)
    assert scale["cls_token"] == pytest.approx(0.0036972, rel=1e-4)
