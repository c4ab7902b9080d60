"""Drop paths read noise by position: timm's rates, scaled to match, the same on any number of processes."""

import numpy as np
import pytest
import torch

from pretrain.config import EncoderConfig
from pretrain.drop_path import DropPaths, KeyedDropPath, PathNoise
from pretrain.encoder import create_classifier, initialize_encoder

SMALL = EncoderConfig("vit_tiny_patch16_224", (8, 8), (4, 4), width=24, depth=3, heads=2)


def test_rows_are_dropped_below_the_rate_and_scaled_above():
    path = KeyedDropPath(0.25, noise := PathNoise(torch.tensor([[0.9, 0.2], [0.1, 0.25], [0.5, 0.6]])), column=1)
    x = torch.ones(3, 2, 2)
    assert torch.equal(path(x), torch.tensor([0.0, 4 / 3, 4 / 3])[:, None, None].expand(3, 2, 2))
    assert path.eval()(x) is x
    noise.values = torch.zeros(2, 2)
    with pytest.raises(AssertionError, match="the noise is of another batch"):
        path.train()(x)


def test_every_path_of_a_model_has_a_column_and_timms_rate():
    model = create_classifier(SMALL, classes=4, pool="mean", drop_path=0.4)
    names = set(model.state_dict())
    paths = DropPaths(model)
    found = [module for module in model.modules() if isinstance(module, KeyedDropPath)]
    assert [path.rate for path in found] == pytest.approx([0.2, 0.2, 0.4, 0.4])  # the first block has none
    assert [path._column for path in found] == [0, 1, 2, 3]
    assert paths.paths == 4
    assert set(model.state_dict()) == names


def test_noise_belongs_to_positions_and_gives_the_same_result_in_any_company():
    model = create_classifier(SMALL, classes=4, pool="token", drop_path=0.5)
    initialize_encoder(model, torch.Generator().manual_seed(0))
    paths = DropPaths(model)
    images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    positions, cpu = np.arange(40, 48), torch.device("cpu")

    def run(rows: slice, seed: int = 0) -> torch.Tensor:
        paths.noise.values = paths.draw(positions[rows], seed, cpu)
        return model(images[rows])

    whole = run(slice(None))
    torch.testing.assert_close(run(slice(1, None, 2)), whole[1::2])
    assert not torch.allclose(run(slice(None), seed=1), whole)
    assert not torch.allclose(model.eval()(images), whole)


def test_shares_dropped_match_the_rate():
    noise = DropPaths(create_classifier(SMALL, classes=4, pool="mean", drop_path=0.3)).draw(
        np.arange(4000), 0, torch.device("cpu")
    )
    assert ((noise < 0.3).double().mean(dim=0) - 0.3).abs().max() < 0.03
