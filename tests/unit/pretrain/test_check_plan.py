"""Whether batch, processes, lanes, blocks and epochs fit each other, and what to change to what."""

import pytest

from pretrain.check_plan import judge_batch, judge_blocks, judge_lanes, judge_steps, nearest_batches, read_factor


def test_a_batch_that_processes_share_equally():
    found = judge_batch(4096, 64, 1)
    assert (found.verdict, found.measured) == ("ok", "4,096 = 64 x 64")


def test_a_batch_that_they_cannot_share_is_a_problem_with_the_nearest_that_they_can():
    found = judge_batch(64, 21, 1)
    assert (found.verdict, found.measured, found.needed) == (
        "problem",
        "64 images for 21 processes",
        "a multiple of 21",
    )
    assert found.fix == "--batch-size 63 or --batch-size 84"


@pytest.mark.parametrize(
    ("batch", "unit", "near"), [(64, 21, (63, 84)), (5, 8, (8,)), (8, 8, (8, 16)), (100, 1, (100, 101))]
)
def test_the_nearest_batches(batch: int, unit: int, near: tuple[int, ...]):
    assert nearest_batches(batch, unit) == near


def test_pieces():
    assert judge_batch(64, 4, 3).measured == "64 = 4 x 16, in 3 pieces of 6 at most"
    found = judge_batch(64, 16, 8)
    assert (found.verdict, found.needed, found.fix) == ("problem", "at most 4 pieces", "--accumulate 4 or less")
    assert judge_batch(16, 16, 2).fix == "--accumulate 1 or a larger --batch-size"


@pytest.mark.parametrize(
    ("processes", "lanes", "factor"),
    [(1, 240, 1), (16, 240, 1), (7, 240, 7), (64, 240, 4), (64, 7680, 1), (1024, 7680, 2)],
)
def test_how_often_a_byte_is_read(processes: int, lanes: int, factor: int):
    assert read_factor(processes, lanes) == factor


def test_lanes_that_the_processes_divide():
    assert judge_lanes(24, 16).verdict == "ok"  # more than --max-world, and yet each byte is read once
    found = judge_lanes(64, 512)
    assert (found.verdict, found.measured) == (
        "ok",
        "7,680 lanes (--max-world 512) for 64 processes: every byte read once an epoch",
    )


def test_more_processes_than_the_order_was_made_for():
    found = judge_lanes(64, 16)
    assert (found.verdict, found.measured) == (
        "warning",
        "240 lanes (--max-world 16) for 64 processes: bytes read up to 4 times",
    )
    assert found.fix == "--max-world 64 (it decides the order: of a new run only)"


@pytest.mark.parametrize(
    ("processes", "max_world", "fix"),
    [
        (7, 16, "6 or 8 processes"),
        (21, 16, "20 or 24 processes with --max-world 24"),
        (1024, 512, "960 or 1,280 processes"),
    ],
)
def test_processes_that_divide_no_lanes(processes: int, max_world: int, fix: str):
    found = judge_lanes(processes, max_world)
    assert (found.verdict, found.needed, found.fix) == ("warning", "processes that divide the lanes", fix)


def test_blocks():
    few = judge_blocks(1_437, 2_944_000, 1_437, 7_680, is_remote=False, max_world=512)
    assert (few.verdict, few.needed, few.fix) == ("warning", "7,680 images", "--max-world 16")
    small = judge_blocks(50_000, 100_000_000, 1_000, 240, is_remote=True, max_world=16)
    assert small.verdict == "warning"
    assert small.measured == "50,000 images in 1,000 blocks of 100 kB for 240 lanes, each a request"
    assert small.needed == "requests of 1.0 MB at least"
    assert judge_blocks(50_000, 100_000_000, 1_000, 240, is_remote=False, max_world=16).verdict == "ok"


def test_steps():
    found = judge_steps(1_437, 64, 150.0)
    assert (found.verdict, found.measured) == (
        "ok",
        "150 epochs of 1,437 in 3,368 steps of 64; the last reaches 2 images further",
    )
    assert judge_steps(128, 64, 2.0).measured == "2 epochs of 128 in 4 steps of 64"
    found = judge_steps(100, 128, 2.0)
    assert (found.verdict, found.fix) == ("warning", "a --batch-size of 100 or less")
