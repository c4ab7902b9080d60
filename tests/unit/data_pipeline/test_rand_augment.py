"""RandAugment from keys: timm's results for timm's seeds, and global generators left as they were."""

import random

import numpy as np
from PIL import Image
from timm.data.auto_augment import rand_augment_transform

from data_pipeline.augment import CenterCrop, RandomResizedCrop
from data_pipeline.rand_augment import RandAugment
from data_pipeline.randomness import Draws, seeded_libraries

POLICY = RandAugment("rand-m9-mstd0.5-inc1", (124, 116, 104))


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)


def test_timms_own_transform_under_the_same_seed():
    hints = {"translate_const": 10, "img_mean": (124, 116, 104), "interpolation": Image.Resampling.BICUBIC}
    transform = rand_augment_transform(POLICY.policy, hints)
    differing = 0
    for number in range(30):
        found = POLICY.apply(Draws(number), picture())
        seed = Draws(number).seed()
        random.seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)
        assert np.array_equal(found, np.array(transform(Image.fromarray(picture()))))
        differing += not np.array_equal(found, picture())
    assert differing > 15


def test_full_magnitude_posterizes_to_black():
    """Pillow refuses 0 bits, timm asks for them: about one image in a hundred of the recipe's policy."""
    policy = RandAugment("rand-m10-p1-n1-inc1-t3aw")
    found = [policy.apply(Draws(number), picture()) for number in range(150)]
    assert any(not pixels.any() for pixels in found)


def test_the_global_generators_go_on_as_if_nothing_had_been_drawn():
    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.rand()
    random.seed(1)
    np.random.seed(1)
    POLICY.apply(Draws(0), picture())
    with seeded_libraries(5):
        inside = random.random(), np.random.rand()
    assert (random.random(), np.random.rand()) == expected
    with seeded_libraries(5):
        assert (random.random(), np.random.rand()) == inside


def test_views_finish_with_their_policy():
    pixels = picture()
    assert RandomResizedCrop((24, 32)).finish(Draws(3), pixels) is pixels
    assert CenterCrop((24, 32)).finish(Draws(3), pixels) is pixels
    found = RandomResizedCrop((24, 32), policy=POLICY).finish(Draws(3), pixels)
    assert np.array_equal(found, POLICY.apply(Draws(3), pixels))
    assert found.shape == pixels.shape


def test_beta_has_its_mean_and_deviation():
    for alpha in (0.3, 0.8, 1.0, 3.0):
        draws = Draws(int(alpha * 10))
        values = np.array([draws.beta(alpha) for _ in range(4000)])
        assert abs(values.mean() - 0.5) < 0.03
        assert abs(values.var() - 1 / (4 * (2 * alpha + 1))) < 0.01
