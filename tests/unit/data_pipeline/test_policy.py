"""Policies: how often each operation is chosen and how strong it is, several in turn, and what tells them apart."""

import pickle
from collections import Counter

import numpy as np
import pytest

from data_pipeline.augment import RandomResizedCrop
from data_pipeline.colour_jitter import ColourJitter
from data_pipeline.policy import InTurn, Policy
from data_pipeline.rand_augment import RandAugment
from data_pipeline.randomness import Draws
from data_pipeline.three_augment import ThreeAugment

RAND, THREE, JITTER = RandAugment("rand-m9-mstd0.5-inc1"), ThreeAugment(), ColourJitter(0.3)
POLICIES: tuple[Policy, ...] = (RAND, THREE, JITTER, InTurn((RAND, JITTER)), InTurn((THREE, JITTER)))


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (16, 12, 3), np.uint8)


def operation(found: np.ndarray, pixels: np.ndarray) -> str:
    if (found == found[..., :1]).all():
        return "grayscale"
    return "solarisation" if np.array_equal(found, np.where(pixels < 128, pixels, 255 - pixels)) else "blur"


def test_three_augment_does_one_of_three_a_third_of_the_time_each():
    pixels = picture()
    counts = Counter(operation(THREE.apply(Draws(number), pixels), pixels) for number in range(3000))
    assert set(counts) == {"grayscale", "solarisation", "blur"}
    assert all(900 < count < 1100 for count in counts.values()), counts


def test_factors_fill_their_range_evenly():
    """An image of one grey has no contrast and no colour: only its brightness varies."""
    grey = np.full((2, 2, 3), 100, np.uint8)
    for strength, low, high in ((0.3, 70, 130), (1.5, 0, 250)):
        policy = ColourJitter(strength)
        values = np.array([policy.apply(Draws(number), grey)[0, 0, 0] for number in range(3000)], np.float64)
        assert low <= values.min() < low + 3
        assert high - 3 < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 0.02 * (high - low)
        assert abs(values.std() - (high - low) / 12**0.5) < 0.02 * (high - low)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_pixels_are_a_function_of_the_key_and_the_input_stays(policy: Policy):
    pixels = picture()
    mirrored = pixels[:, ::-1]
    mirrored.flags.writeable = False
    found = [policy.apply(Draws(number), mirrored) for number in range(20)]
    again = pickle.loads(pickle.dumps(policy))  # noqa: S301 - as workers are given it
    for number, one in enumerate(found):
        assert (one.shape, one.dtype, one.flags.writeable) == (pixels.shape, np.uint8, True)
        np.testing.assert_array_equal(one, again.apply(Draws(number), np.ascontiguousarray(mirrored)))
    assert len({one.tobytes() for one in found}) > 2
    np.testing.assert_array_equal(pixels, picture())


def test_policies_in_turn_go_on_with_the_draws():
    pixels, draws = picture(), Draws(5)
    expected = JITTER.apply(draws, THREE.apply(draws, pixels))
    np.testing.assert_array_equal(InTurn((THREE, JITTER)).apply(Draws(5), pixels), expected)
    assert not np.array_equal(expected, JITTER.apply(Draws(5), THREE.apply(Draws(5), pixels)))


def test_views_tell_themselves_apart():
    views = [
        RandomResizedCrop((8, 8), policy=policy)
        for policy in (
            None,
            *POLICIES,
            InTurn((JITTER, THREE)),
            ColourJitter(0.25),
            RandAugment(RAND.policy, (124, 116, 104)),
        )
    ]
    views += [RandomResizedCrop((8, 8), (0.08, 1.0)), RandomResizedCrop((8, 8), mirror=0.0)]
    assert len({repr(view) for view in views}) == len(set(views)) == len(views)
    for view in views:
        copy = pickle.loads(pickle.dumps(view))  # noqa: S301 - as workers are given it
        assert (copy, repr(copy)) == (view, repr(view))


def test_messages_name_them():
    assert [str(policy) for policy in POLICIES] == [
        "rand-m9-mstd0.5-inc1",
        "3-Augment",
        "colour jitter 0.3",
        "rand-m9-mstd0.5-inc1, then colour jitter 0.3",
        "3-Augment, then colour jitter 0.3",
    ]


def test_policies_that_would_do_nothing_are_refused():
    with pytest.raises(ValueError, match="ColourJitter: strength 0, expected above 0; or leave the policy out"):
        ColourJitter(0)
    with pytest.raises(ValueError, match="InTurn: no policies; give at least one"):
        InTurn(())
