"""Random numbers as functions of keys."""

import numpy as np
import pytest

from data_pipeline.augment import CenterCrop, RandomResizedCrop
from data_pipeline.randomness import Draws, hash_array, key, permutation, uniform_array


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 64, 1000, 65_537])
def test_a_permutation_holds_each_number_once(count: int):
    assert sorted(permutation(5, count).tolist()) == list(range(count))


def test_permutations_are_uniform():
    counts = np.zeros((4, 4))
    for seed in range(6000):
        counts[np.arange(4), permutation(key(seed), 4)] += 1
    assert np.abs(counts / 6000 - 0.25).max() < 0.025


def test_numbers_never_change():
    """Frozen: runs begun with one version must be resumed by the next."""
    assert key(1, 2, 3) == 8964613590703056768
    assert permutation(7, 8).tolist() == [1, 5, 7, 0, 4, 6, 3, 2]
    assert hash_array(1, np.arange(2, dtype=np.uint64)).tolist() == [10451216379200822465, 13757245211066428519]
    draws = Draws(1, 2)
    assert [draws.uniform(), draws.integer(1000)] == [0.6495064025457518, 986]


def test_draws_are_uniform_and_differ_by_every_word_of_the_key():
    numbers = np.asarray([Draws(1, word).uniform() for word in range(20_000)])
    assert abs(numbers.mean() - 0.5) < 0.01
    assert np.abs(np.histogram(numbers, 10, (0, 1))[0] / 2000 - 1).max() < 0.1
    draws = Draws(3)
    assert np.abs(np.bincount([draws.integer(5) for _ in range(20_000)]) / 4000 - 1).max() < 0.1
    assert len({Draws(1, 2).uniform(), Draws(2, 1).uniform(), Draws(1).uniform(), Draws(1, 2, 0).uniform()}) == 4


def test_uniform_arrays_depend_on_each_rows_key_alone():
    seeds = np.asarray([5, 6, 7], np.uint64)
    whole = uniform_array(seeds, 50)
    assert whole.shape == (3, 50)
    assert whole.dtype == np.float32
    assert np.array_equal(uniform_array(seeds[1:2], 50)[0], whole[1])
    assert whole.min() >= 0
    assert whole.max() < 1


def test_crops_have_torchvisions_distribution():
    import torch
    from torchvision.transforms import RandomResizedCrop as Reference

    view = RandomResizedCrop((224, 224))
    ours = np.asarray([view.draw(Draws(seed), 500, 375) for seed in range(4000)], float)
    image = torch.empty(3, 375, 500)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reference = np.asarray([Reference.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)], float)
    for column, theirs in ((0, 1), (1, 0), (2, 3), (3, 2)):
        assert abs(ours[:, column].mean() - reference[:, theirs].mean()) < 4
        assert abs(ours[:, column].std() - reference[:, theirs].std()) < 4
    assert abs(ours[:, 4].mean() - 0.5) < 0.03


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 50), (1000, 3), (32, 32)])
def test_crops_lie_inside_images_of_any_shape(width: int, height: int):
    for view in (RandomResizedCrop((16, 16)), CenterCrop((16, 16), 0.875), CenterCrop((16, 32))):
        for seed in range(50):
            crop = view.draw(Draws(seed), width, height)
            assert 0 <= crop.left <= crop.left + crop.width <= width
            assert 0 <= crop.top <= crop.top + crop.height <= height
            assert crop.width >= 1
            assert crop.height >= 1


def test_a_center_crop_of_seven_eighths_is_224_of_256():
    assert CenterCrop((224, 224), 0.875).draw(Draws(0), 256, 512) == (16, 144, 224, 224, False)
