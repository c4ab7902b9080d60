"""Mixup, CutMix and smoothed labels: the formulas, the pairs, and the same mixing on any number of processes."""

import numpy as np
import pytest
import torch
from timm.data.mixup import mixup_target
from torch import Tensor

from data_pipeline.order import Order, Plan, rank_positions
from data_pipeline.randomness import Draws
from pretrain.augment_config import MixingConfig
from pretrain.mixing import Mix, check_pairs, draw_mix, mix_batch, mix_images, mix_targets, soft_targets

BOTH = MixingConfig(0.8, 1.0, 0.1)


def batch(rows: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, 3, 6, 10, generator=generator), torch.arange(rows) % 5


def test_mixup_weighs_a_row_and_the_one_half_a_batch_on():
    images, _ = batch()
    mixed = mix_images(images, Mix(0.25, None))
    for row in range(8):
        torch.testing.assert_close(mixed[row], 0.25 * images[row] + 0.75 * images[(row + 4) % 8])


def test_cutmix_takes_a_box_from_the_partner_and_leaves_the_rest():
    images, _ = batch()
    mixed = mix_images(images, Mix(0.9, (1, 3, 2, 7)))
    inside = torch.zeros(6, 10, dtype=torch.bool)
    inside[1:3, 2:7] = True
    for row in range(8):
        assert torch.equal(mixed[row][:, inside], images[(row + 4) % 8][:, inside])
        assert torch.equal(mixed[row][:, ~inside], images[row][:, ~inside])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_targets_are_timms_for_its_own_pairing(smoothing: float):
    """timm mixes row i with the one as far from the end: fed in an order in which both pairings are the same."""
    labels = torch.tensor([3, 0, 4, 1])  # pairs (0, 2), (1, 3) here; timm's of the same rows laid 0, 1, 3, 2
    ours = mix_targets(soft_targets(labels, 5, smoothing), 0.3)
    laid = torch.tensor([0, 1, 3, 2])
    torch.testing.assert_close(ours[laid], mixup_target(labels[laid], 5, 0.3, smoothing))


def test_smoothed_labels_by_hand():
    expected = torch.tensor([[0.925, 0.025, 0.025, 0.025], [0.025, 0.025, 0.925, 0.025]])
    torch.testing.assert_close(soft_targets(torch.tensor([0, 2]), 4, 0.1), expected)


def test_a_row_without_a_label_adds_nothing_to_the_loss():
    targets = soft_targets(torch.tensor([1, -1]), 4, 0.1)
    assert torch.equal(targets[1], torch.zeros(4))
    losses = torch.nn.functional.cross_entropy(torch.randn(2, 4), targets, reduction="none")
    assert losses[1] == 0


def test_a_box_is_cut_off_at_the_border_and_its_true_area_counts():
    shares, cuts = [], 0
    for number in range(2000):
        mix = draw_mix(BOTH, Draws(number), (32, 48))
        shares.append(mix.share)
        if mix.box is not None:
            cuts += 1
            top, bottom, left, right = mix.box
            assert 0 <= top <= bottom <= 32
            assert 0 <= left <= right <= 48
            assert mix.share == pytest.approx(1 - (bottom - top) * (right - left) / (32 * 48))
    assert 900 < cuts < 1100
    assert 0 <= min(shares) < 0.05
    assert 0.95 < max(shares) <= 1
    assert 0.5 < np.mean(shares) < 0.65  # boxes that are cut off are smaller


@pytest.mark.parametrize(("config", "is_cut"), [(MixingConfig(0.8, 0.0), False), (MixingConfig(0.0, 1.0), True)])
def test_one_of_the_two_alone(config: MixingConfig, is_cut: bool):
    assert all((draw_mix(config, Draws(n), (8, 8)).box is not None) == is_cut for n in range(20))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_any_number_of_processes_mixes_alike(world: int):
    """Batch 3 of a run of 16 positions: put together in the order of positions, the ranks have what one has alone."""
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(16, 3, 8, 8, generator=generator), torch.arange(16) % 7
    alone = mix_batch(images, soft_targets(labels, 7, 0.1), np.arange(48, 64), BOTH, batch_size=16, seed=5)
    assert not torch.equal(alone[0], images)
    together = (torch.empty_like(alone[0]), torch.empty_like(alone[1]))
    for rank in range(world):
        positions = rank_positions(48, 16, rank, world)
        own = positions - 48
        found = mix_batch(images[own], soft_targets(labels[own], 7, 0.1), positions, BOTH, batch_size=16, seed=5)
        for target, values in zip(together, found, strict=True):
            target[own] = values
    assert torch.equal(together[0], alone[0])
    assert torch.equal(together[1], alone[1])


def test_batches_are_mixed_differently_and_by_seed():
    images, labels = batch()
    found = [
        mix_batch(images, soft_targets(labels, 5, 0.1), np.arange(first, first + 8), BOTH, batch_size=8, seed=seed)[1]
        for first, seed in ((0, 0), (8, 0), (0, 1))
    ]
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_nothing_is_mixed_when_both_are_off():
    images, labels = batch()
    config = MixingConfig(0.0, 0.0, 0.0)
    mixed, targets = mix_batch(
        images, soft_targets(labels, 5, config.label_smoothing), np.arange(8), config, batch_size=8, seed=0
    )
    assert torch.equal(mixed, images)
    assert torch.equal(targets, torch.eye(5)[labels])


def test_a_batch_whose_pairs_would_be_torn_apart_is_refused():
    check_pairs(64, 4)
    message = r"--batch-size 62 is not divisible by 2 x 4 processes, which mixing of pairs needs; .*: 56, 64; or turn"
    with pytest.raises(ValueError, match=message):
        check_pairs(62, 4)


def test_the_nearest_batch_sizes_are_accepted_themselves():
    with pytest.raises(ValueError, match="accepted: 8; or turn it off"):
        check_pairs(2, 4)
    message = (
        r"^--batch-size 480 pairs rows 1 x 240 positions apart for mixing: of 3 views .*: 478, 482; or turn it off"
    )
    with pytest.raises(ValueError, match=message):
        check_pairs(480, 1, views=3)
    with pytest.raises(ValueError, match=r"--batch-size 32 pairs rows 2 x 8 .* accepted: 24, 40; or turn"):
        check_pairs(32, 4, views=3, lanes=8)
    with pytest.raises(ValueError, match=r"--batch-size 10 is not divisible by 2 x 2 .* accepted: 4, 12; or turn"):
        check_pairs(10, 2, views=2, lanes=4)  # 8 would pair views
    for size, world, views, lanes in ((478, 1, 3, 240), (482, 1, 3, 240), (24, 4, 3, 8), (40, 4, 3, 8), (4, 2, 2, 4)):
        check_pairs(size, world, views=views, lanes=lanes)
    check_pairs(480, 1)  # one view of each image
    check_pairs(1440, 1, views=3)  # three rows of lanes apart: the third view is two from the first


def pairs_of_one_sample(order: Order, batch_size: int, epochs: int) -> tuple[float, set[tuple[int, int]]]:
    """Of the pairs within an epoch the share that shows one sample twice, and which (epoch, sample) these are."""
    steps = epochs * order.epoch_positions // batch_size + 1
    located = order.locate(np.arange(steps * batch_size))
    sample, epoch, view = (values.reshape(steps, 2, -1).swapaxes(0, 1) for values in located[1:])
    same = (sample[0] == sample[1]) & (epoch[0] == epoch[1])
    assert (view[0][same] != view[1][same]).all()
    return float(same.mean()), set(zip(epoch[0][same].tolist(), sample[0][same].tolist(), strict=True))


@pytest.mark.parametrize(("samples", "lanes"), [(96, 12), (101, 12), (7, 7)])
def test_no_accepted_batch_pairs_two_views_of_a_sample(samples: int, lanes: int):
    """In a plan of 12 lanes; the last dataset has fewer samples. Of 101 the last 5 of an epoch make a shorter row, the
    one place where there may be such pairs.
    """
    views, epochs, refused = 3, 3, []
    plan = Plan(lanes=12, views=views, block_bytes=5_000)
    order = Order([samples], [1_000 * samples], fingerprint="5e" * 32, plan=plan, seed=1)
    full = samples // lanes * lanes * views
    ends = order.locate(
        np.concatenate([np.arange(full, samples * views) + n * samples * views for n in range(epochs + 1)])
    )
    shorter_rows = set(zip(ends.epoch.tolist(), ends.sample.tolist(), strict=True))
    met = False
    for size in range(2, 2 * (views + 1) * lanes + 2, 2):
        share, twice = pairs_of_one_sample(order, size, epochs)
        try:
            check_pairs(size, 1, views=views, lanes=lanes)
        except ValueError:
            refused.append(size)
            assert share > 0.2, size
            continue
        assert twice <= shorter_rows, size
        met = met or bool(twice)
    assert refused == [2 * lanes, 4 * lanes]
    assert met == bool(samples % lanes)
