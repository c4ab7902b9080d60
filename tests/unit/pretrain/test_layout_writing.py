"""What is written in another layout: the same values, or a refusal that lists every name or says the reason."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from pretrain.config import DecoderConfig, EncoderConfig, ObjectiveConfig
from pretrain.encoder import create_classifier, create_encoder
from pretrain.facebook_folder import facebook_config
from pretrain.layout_writing import kind_of, shared_tensors, to_facebook, to_transformers
from pretrain.masked_autoencoder import MaskedAutoencoder
from pretrain.transformers_folder import transformers_config

SIZES = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}


def build(name: str = "vit_tiny_patch16_224", **changes: Any) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, **(SIZES | {"num_classes": 5} | changes))


def autoencoder(image_size: tuple[int, int] = (16, 16), channels: int = 3) -> MaskedAutoencoder:
    config = EncoderConfig("vit_tiny_patch16_224", image_size, (4, 4), channels, width=24, depth=2, heads=3)
    return MaskedAutoencoder(create_encoder(config), DecoderConfig(16, 1, 4), ObjectiveConfig(mask_ratio=0.6))


def classifier() -> nn.Module:
    config = EncoderConfig("vit_tiny_patch16_224", (16, 16), (4, 4), width=24, depth=2, heads=3)
    return create_classifier(config, classes=5, pool="token", drop_path=0.0)


def changed(tensors: dict[str, Tensor], *, without: str = "", **more: Tensor) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name != without} | more


def test_a_model_says_of_what_kind_it_is():
    models = [build(num_classes=0), build(), build("deit_tiny_distilled_patch16_224"), autoencoder()]
    assert [kind_of(model) for model in models] == ["encoder", "classifier", "distilled", "autoencoder"]


def test_names_without_a_place_and_missing_ones_are_all_listed():
    tensors = changed(shared_tensors(classifier()), without="blocks.1.norm2.bias", extra=torch.ones(1))
    tensors = {name.replace("head.weight", "fc.weight"): tensor for name, tensor in tensors.items()}
    with pytest.raises(ValueError, match="ViTForImageClassification") as caught:
        to_transformers(tensors, "classifier")
    assert str(caught.value) == (
        "the model's tensors are not those of Transformers' ViTForImageClassification: no place for fc.weight, extra; "
        "missing head.weight, blocks.1.norm2.bias; publish it with --format timm"
    )
    with pytest.raises(
        ValueError, match=r"facebook's files: no place for fc\.weight, extra; missing head\.weight, blocks"
    ):
        to_facebook(tensors)
    half = shared_tensors(autoencoder())
    without = {name: tensor for name, tensor in half.items() if not name.startswith("decoder_norm")}
    with pytest.raises(
        ValueError, match=r"no place for none; missing decoder_norm\.weight, decoder_norm\.bias; publish"
    ):
        to_facebook(without)


def test_a_bias_of_queries_that_one_block_lacks_is_missing_and_that_no_block_has_is_not():
    tensors = shared_tensors(classifier())
    biases = [name for name in tensors if name.endswith("qkv.bias")]
    with pytest.raises(ValueError, match=r"no place for none; missing blocks\.0\.attn\.qkv\.bias; publish"):
        to_transformers(changed(tensors, without=biases[0]), "classifier")
    none = {name: tensor for name, tensor in tensors.items() if name not in biases}
    assert not [name for name in to_transformers(none, "classifier") if "query.bias" in name]
    uneven = changed(tensors) | {"blocks.1.attn.qkv.weight": torch.ones(70, 24)}
    with pytest.raises(ValueError, match=r"blocks.1.attn.qkv.weight \[70, 24\]: expected as many rows for each of"):
        to_transformers(uneven, "classifier")


def test_what_is_written_shares_no_memory():
    tensors = shared_tensors(classifier())
    for written in (to_transformers(tensors, "classifier"), to_facebook(tensors)):
        places = [tensor.untyped_storage().data_ptr() for tensor in (*tensors.values(), *written.values())]
        assert len(set(places)) == len(places)
        assert all(tensor.is_contiguous() for tensor in written.values())


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("vit_tiny_patch16_224", {"global_pool": "avg"}, "pooling of the patch tokens"),
        ("vit_tiny_patch16_224", {"init_values": 1e-5}, "layer scale"),
        ("vit_tiny_patch16_224", {"qk_norm": True}, "query-key norms"),
        ("vit_tiny_patch16_224", {"reg_tokens": 2}, "register tokens"),
        ("vit_tiny_patch16_224", {"no_embed_class": True}, "a class token without a position"),
        ("vit_tiny_patch16_224", {"pre_norm": True}, "a norm before the blocks"),
        ("vit_tiny_patch16_224", {"act_layer": "relu"}, "an activation other than GELU"),
        ("vit_tiny_patch16_224", {"act_layer": "gelu_tanh"}, "an activation other than GELU"),
        (
            "vit_tiny_patch16_224",
            {"class_token": False, "global_pool": "avg"},
            "pooling of the patch tokens, a model wit",
        ),
        ("vit_tiny_patch16_224", {"in_chans": 4}, "images of 4 channels, which its image processors do not prepare"),
        ("deit_tiny_distilled_patch16_224", {"num_classes": 0}, "a distillation token without heads"),
        ("vit_base_patch16_rope_224", {}, "a model of class Eva, which is no plain vision transformer"),
    ],
)
def test_what_transformers_cannot_express_is_refused_with_the_format_that_can(
    name: str, changes: dict[str, Any], reason: str
):
    model = build(name, **changes)
    with pytest.raises(ValueError, match="Transformers' ") as caught:
        transformers_config(model)
    assert f" has no place for {reason}" in str(caught.value)
    assert str(caught.value).endswith("; publish it with --format timm")


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("vit_tiny_patch16_224", {"init_values": 1e-5}, "VisionTransformer has no place for layer scale;"),
        ("vit_tiny_patch16_224", {"global_pool": "avg", "fc_norm": False}, "no place for pooling of the patch tokens;"),
        ("deit3_small_patch16_224", {"qk_norm": True}, "vit_models has no place for query-key norms;"),
        ("deit_tiny_distilled_patch16_224", {"qk_norm": True}, "DistilledVisionTransformer has no place for query-key"),
    ],
)
def test_what_facebooks_code_cannot_express_is_refused(name: str, changes: dict[str, Any], reason: str):
    with pytest.raises(ValueError, match="facebook's ") as caught:
        facebook_config(build(name, **changes))
    assert reason in str(caught.value)
    assert str(caught.value).endswith("; publish it with --format timm")


def test_an_autoencoder_of_images_that_are_not_square_keeps_no_decoder_in_either_layout():
    oblong = autoencoder((24, 16))
    for write in (lambda: transformers_config(oblong, mask_ratio=0.6), lambda: facebook_config(oblong)):
        with pytest.raises(ValueError, match="has no place for images or patches that are not square") as caught:
            write()
        assert str(caught.value).endswith("; publish its encoder alone, without its decoder, with --format timm")
    with pytest.raises(ValueError, match="MaskedAutoencoderViT has no place for images of 1 channels"):
        facebook_config(autoencoder(channels=1))


def test_config_json_says_what_the_model_is():
    config = transformers_config(build(), class_names=tuple("abcde"), several_labels=True)
    wanted = {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "hidden_size": 24,
        "intermediate_size": 96,
        "layer_norm_eps": 1e-6,
        "hidden_act": "gelu",
        "qkv_bias": True,
        "image_size": 16,
        "id2label": dict(zip("01234", "abcde", strict=True)),
        "label2id": {name: number for number, name in enumerate("abcde")},
        "problem_type": "multi_label_classification",
    }
    assert wanted.items() <= config.items()
    assert transformers_config(build(img_size=(24, 16)))["image_size"] == [24, 16]
    assert transformers_config(build())["id2label"]["4"] == "LABEL_4"
    assert "id2label" not in transformers_config(build(num_classes=0))
    decoder = {"decoder_hidden_size": 16, "decoder_intermediate_size": 64, "decoder_num_hidden_layers": 1}
    decoder |= {"mask_ratio": 0.6, "norm_pix_loss": True, "model_type": "vit_mae"}
    assert decoder.items() <= transformers_config(autoencoder(), mask_ratio=0.6).items()
    arguments = facebook_config(build(global_pool="avg"), class_names=tuple("abcde"))["arguments"]
    assert (arguments["global_pool"], arguments["num_classes"], arguments["mlp_ratio"]) == (True, 5, 4.0)
    assert facebook_config(autoencoder())["arguments"]["decoder_embed_dim"] == 16
