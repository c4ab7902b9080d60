"""Which timm model a folder of Transformers or of facebook's layout describes, or why none."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.backbone_config import BackboneConfig
from pretrain.stated_model import StatedModel, read_stated, states_model, with_two_heads

SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "image_size": 16,
    "patch_size": 4,
    "layer_norm_eps": 1e-6,
}
ARGUMENTS = {
    "img_size": 16,
    "patch_size": 4,
    "in_chans": 3,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
    "mlp_ratio": 4.0,
}


def read(**config: Any) -> StatedModel:
    assert states_model(config)
    return read_stated(config, Path("m"), "--model m")


def refusal(**config: Any) -> str:
    with pytest.raises(ValueError, match=r"^--model m: ") as caught:
        read(**config)
    return str(caught.value)


def test_what_transformers_leaves_out_is_its_base_model():
    found = read(model_type="vit")
    assert found.backbone == BackboneConfig("vit_base_patch16_224", (224, 224), (16, 16), 3, 768, 12, 12)
    assert (found.classes, found.class_names, found.pool, found.norm_epsilon) == (0, None, "own", 1e-12)


def test_classes_are_those_of_a_class_with_a_head():
    labels = {"1": "dog", "0": "cat"}
    classifier = read(model_type="vit", architectures=["ViTForImageClassification"], id2label=labels, **SMALL)
    assert (classifier.classes, classifier.class_names, classifier.pool) == (2, ("cat", "dog"), "token")
    made_up = {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
    unnamed = read(model_type="vit", architectures=["ViTForImageClassification"], id2label=made_up, **SMALL)
    assert (unnamed.classes, unnamed.class_names) == (3, None)
    assert read(model_type="vit", architectures=["ViTModel"], id2label=labels, **SMALL).classes == 0
    assert read(model_type="vit", architectures=["ViTForImageClassification"], **SMALL).classes == 2


def test_what_timms_model_has_otherwise_is_an_argument_of_its():
    found = read(model_type="vit", **{**SMALL, "intermediate_size": 60, "qkv_bias": False, "image_size": [24, 16]})
    assert found.backbone.keywords == {"mlp_ratio": 2.5, "qkv_bias": False}
    assert found.backbone.image_size == (24, 16)
    assert int(24 * found.backbone.keywords["mlp_ratio"]) == 60


@pytest.mark.parametrize("width", [24, 192, 384, 768, 1000])
def test_the_width_in_an_mlp_survives_the_division(width: int):
    for hidden in range(width, 4 * width, 7):
        found = read(model_type="vit", **{**SMALL, "hidden_size": width, "intermediate_size": hidden})
        assert int(width * found.backbone.keywords["mlp_ratio"]) == hidden  # as timm computes it


@pytest.mark.parametrize(
    ("kind", "more", "name", "pool"),
    [
        ("MaskedAutoencoderViT", {"norm_pix_loss": True}, "vit_base_patch16_224", "own"),
        ("VisionTransformer", {"num_classes": 0, "global_pool": False}, "vit_base_patch16_224", "own"),
        ("VisionTransformer", {"num_classes": 2, "global_pool": False}, "vit_base_patch16_224", "token"),
        ("VisionTransformer", {"num_classes": 2, "global_pool": True}, "vit_base_patch16_224", "mean"),
        ("DistilledVisionTransformer", {"num_classes": 2}, "deit_base_distilled_patch16_224", "token"),
        ("vit_models", {"num_classes": 2}, "deit3_base_patch16_224", "token"),
    ],
)
def test_facebooks_classes_are_timms(kind: str, more: dict[str, Any], name: str, pool: str):
    found = read(model=kind, arguments=ARGUMENTS | more, layer_norm_eps=1e-6)
    assert found.backbone == BackboneConfig(name, (16, 16), (4, 4), 3, 24, 2, 3)
    assert (found.pool, found.classes, found.norm_epsilon) == (pool, more.get("num_classes", 0), 1e-6)


def test_what_no_model_of_timms_is_is_refused():
    assert refusal(model_type="swin") == (
        "--model m: a swin of Transformers, expected one of vit, deit, vit_mae; give one of these, or a model of timm"
    )
    assert refusal(model_type="vit", architectures=["ViTForMaskedImageModeling"]) == (
        "--model m: holds a ViTForMaskedImageModeling, expected one of ViTModel, ViTForImageClassification; give one "
        "of these"
    )
    assert refusal(model_type="deit", hidden_act="relu") == (
        "--model m: its blocks have the activation relu, expected gelu; give another model"
    )
    assert refusal(model="Swin", arguments={}).startswith("--model m: a Swin, expected one of facebook's MaskedAuto")
    assert refusal(model="vit_models", arguments={"img_size": 4}) == (
        "--model m: m/config.json has no 'embed_dim'; write it anew with the library it is of"
    )
    assert refusal(model_type="vit", hidden_size="wide").startswith("--model m: m/config.json has a value of the wrong")
    named = refusal(model="VisionTransformer", arguments=ARGUMENTS | {"num_classes": 2}, class_names=["cat"])
    assert named == "--model m: config.json names 1 classes, expected its 2; correct class_names"
    assert not states_model({"architecture": "vit_tiny_patch16_224"})


def test_one_head_beside_a_distillation_token_is_half_the_sum_of_two():
    weight, bias = torch.tensor([[0.1, 0.7]]), torch.tensor([0.3])
    given = {"dist_token": torch.ones(1), "head.weight": weight, "head.bias": bias}
    found = with_two_heads(given)
    x, distilled = torch.tensor([0.9, -0.2]), torch.tensor([5.0, 3.0])
    both = [
        tokens @ found[f"{name}.weight"].T + found[f"{name}.bias"]
        for name, tokens in (("head", x), ("head_dist", distilled))
    ]
    assert torch.equal((both[0] + both[1]) / 2, x @ weight.T + bias)
    assert with_two_heads(found) == found
    assert with_two_heads({"head.weight": weight}) == {"head.weight": weight}
