"""Every family of backbones the whole way: fine-tuned, evaluated, published with its proof, and loaded by timm."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import timm
import torch

from finetune.classification import classify
from finetune.publish_config import PublishConfig
from finetune.publishing import publish
from finetune.recipes import RECIPES
from launch.console import Console
from pretrain.backbone_config import BackboneConfig
from pretrain.world import World

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

FAMILIES = {
    "swin": BackboneConfig(
        "swin_tiny_patch4_window7_224",
        (32, 32),
        arguments=("embed_dim=24", "depths=(1,1,1,1)", "num_heads=(1,1,2,2)", "window_size=4"),
    ),
    "pvt-v2": BackboneConfig(
        "pvt_v2_b0", (32, 32), arguments=("depths=(1,1,1,1)", "embed_dims=(8,8,16,16)", "num_heads=(1,1,2,2)")
    ),
    "coatnet": BackboneConfig("test_coatnet", (32, 32)),
    "resnet-vit": BackboneConfig("vit_tiny_r_s16_p8_224", (32, 32), (1, 1), width=24, depth=2, heads=2),
    "convnext": BackboneConfig("test_convnext", (32, 32)),
    "resnet": BackboneConfig("test_resnet", (32, 32)),
    "efficientnet": BackboneConfig("test_efficientnet", (32, 32)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_backbone_is_fine_tuned_evaluated_published_and_reloaded(
    runs: "Runs", digits: Path, tmp_path: Path, request: pytest.FixtureRequest, family: str
):
    if family != "swin":  # which is proven by a Python of its own, as users have it
        request.getfixturevalue("stock_in_this_process")
    scratch = replace(
        RECIPES["digits-backbone"].config,
        encoder=FAMILIES[family],
        data=str(digits),
        out=str(tmp_path / "first"),
        epochs=0.25,
        optimizer=replace(RECIPES["digits-backbone"].config.optimizer, warmup_epochs=0.05),
        labels=20,
        batch_size=20,
        workers=0,
        drop_path=0.1,
        evaluation_crop=1.0,
    )
    tuned = replace(
        scratch,
        init=str(tmp_path / "first"),
        out=str(tmp_path / "second"),
        layer_decay=0.7,
        trainable="last:1",
        average=0.9,
        head="keep",
    )
    with (tmp_path / "log").open("w") as log, World("fp32") as world:
        classify("digits-backbone", scratch, world, Console(stream=log))
        evaluation = classify("digits-backbone", tuned, world, Console(stream=log))
        told = PublishConfig(run=str(tmp_path / "second"), out=str(tmp_path / "published"))
        proof = publish(told, Console(stream=log))
    assert evaluation["images"] == 360
    assert evaluation["intervals"]["top1"][0] <= evaluation["top1"] <= evaluation["intervals"]["top1"][1]
    before, after = (torch_weights(tmp_path / run / "model") for run in ("first", "second"))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved, "the last layer and the head learn"
    first = next(iter(before))
    assert first not in moved, "what comes first is frozen"

    assert proof.compared == "logits"
    assert proof.largest_difference <= 1e-5
    card = (tmp_path / "published/README.md").read_text()
    assert f"It is timm's `{FAMILIES[family].name}`" in card
    model = timm.create_model(f"local-dir:{tmp_path / 'published'}", pretrained=True)
    assert all(torch.equal(tensor, after[name]) for name, tensor in model.state_dict().items())
    described = json.loads((tmp_path / "published/config.json").read_text())
    assert described["label_names"] == [str(digit) for digit in range(10)]


def torch_weights(folder: Path) -> dict[str, torch.Tensor]:
    return timm.create_model(f"local-dir:{folder}", pretrained=True).state_dict()
