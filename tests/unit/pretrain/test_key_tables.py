"""Each table names every tensor once, in both directions, and names what no model here has."""

import pytest
import torch
from torch import Tensor

from pretrain.key_tables import FACEBOOK, TRANSFORMERS, Tables, features_of, their_names
from pretrain.renaming import rename

WRITTEN = {"facebook": FACEBOOK, **TRANSFORMERS}


def all_names(tables: Tables) -> list[str]:
    """Shared names of all that a layout has a place for, in two blocks."""
    lone = ("cls_token", "dist_token", "pos_embed", "mask_token", "decoder_pos_embed", "ls1.gamma", "ls2.gamma")
    of = {
        name: [name] if name in lone else [f"{name}.{kind}" for kind in ("weight", "bias")]
        for name in (*tables.top, *tables.block)
    }
    inner = [f"{blocks}.{i}.{name}" for blocks in tables.lists for i in (0, 11) for m in tables.block for name in of[m]]
    return [name for module in tables.top for name in of[module]] + inner


@pytest.mark.parametrize("layout", WRITTEN)
def test_a_table_is_a_bijection(layout: str):
    tables = WRITTEN[layout]
    names = all_names(tables)
    theirs = [piece for name in names for piece in their_names(name, tables) or ()]
    assert len(set(theirs)) == len(theirs) >= len(set(names)) == len(names)
    # Read again each foreign name gives the value that the shared one had.
    values: dict[str, Tensor] = {name: torch.full((3, 2), float(number)) for number, name in enumerate(names)}
    written = {
        piece: part
        for name, value in values.items()
        for pieces in [their_names(name, tables) or ()]
        for piece, part in zip(pieces, value.chunk(len(pieces)), strict=True)
    }
    found = rename(written)
    assert found is not None
    assert (found.unknown, found.incomplete, found.left_out) == ((), (), ())
    assert found.tensors.keys() == values.keys()
    assert all(torch.equal(found.tensors[name], value) for name, value in values.items())
    assert all(found.sources[name] == their_names(name, tables) for name in names)


def test_rows_of_queries_keys_and_values_keep_their_order():
    qkv = torch.arange(12.0).reshape(6, 2)
    names = their_names("blocks.3.attn.qkv.weight", TRANSFORMERS["classifier"])
    assert names is not None
    assert [name.removeprefix("vit.encoder.layer.3.attention.attention.") for name in names] == [
        "query.weight",
        "key.weight",
        "value.weight",
    ]
    projection = {"vit.embeddings.patch_embeddings.projection.weight": torch.ones(1)}
    # In whatever order the file has them.
    shuffled = dict(reversed(list(zip(names, qkv.chunk(3), strict=True))))
    found = rename({**projection, **shuffled})
    assert found is not None
    assert torch.equal(found.tensors["blocks.3.attn.qkv.weight"], qkv)


@pytest.mark.parametrize(
    "name",
    ["head.weight", "blocks.0.ls1.gamma", "blocks.0", "decoder_blocks.0.norm1.weight", "other", "blocks.0.x.y"],
)
def test_what_a_layout_has_no_place_for_has_no_name(name: str):
    assert their_names(name, TRANSFORMERS["encoder"]) is None


def test_a_tensor_that_two_names_give_is_unknown_the_second_time():
    names = {
        "vit.embeddings.patch_embeddings.projection.weight": torch.ones(1),
        "classifier.bias": torch.ones(2),
        "cls_classifier.bias": torch.zeros(2),
        "vit.pooler.dense.bias": torch.ones(2),
        "blocks.0.norm1.weight": torch.ones(2),
    }
    found = rename(names)
    assert found is not None
    assert (found.unknown, found.left_out) == (
        ("cls_classifier.bias", "blocks.0.norm1.weight"),
        ("vit.pooler.dense.bias",),
    )
    assert rename({"conv1.weight": torch.ones(1)}) is None


def test_features_are_told_from_names():
    assert features_of(("blocks.0.ls1.gamma", "blocks.0.ls2.gamma", "reg_token")) == ("layer scale", "register tokens")
