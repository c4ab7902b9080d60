"""What sums over processes took, beside a step, judged by fixed values."""

import pytest

from pretrain.check_network import Traffic, judge_gradients, judge_network, measure_traffic
from pretrain.world import World

PAIR = Traffic(2, 2, "nccl", ((1_000_000, 0.001), (64_000_000, 0.064)))


def test_the_rate_of_a_link_is_that_of_the_largest_sum():
    assert PAIR.link_rate == pytest.approx(1e9)  # of two processes each sends its data once
    assert Traffic(8, 2, "nccl", ((64_000_000, 0.064),)).link_rate == pytest.approx(1.75e9)


def test_sums_over_more_processes_at_the_same_rate():
    assert PAIR.seconds(64_000_000, 2) == pytest.approx(0.064)
    assert PAIR.seconds(64_000_000, 8) == pytest.approx(0.064 * 1.75)
    assert PAIR.seconds(64_000_000, 8, is_sharded=True) == pytest.approx(0.064 * 1.75 * 1.5)


def test_one_process_alone_has_nothing_to_measure():
    assert measure_traffic(World("fp32")) is None
    assert judge_network(None, 1, 1).verdict == "ok"
    found = judge_network(None, 4, 32)
    assert (found.verdict, found.measured) == ("warning", "not checked: one process was started")
    assert "accelerate launch --multi_gpu --num_machines 4 --num_processes 32 " in found.fix


def test_what_was_measured_is_told_with_what_it_was_measured_on():
    found = judge_network(PAIR, 2, 16)
    assert (found.verdict, found.measured) == (
        "ok",
        "nccl, 2 processes on 2 hosts: sums of 1.0 MB in 1.0 ms, 64.0 MB in 64.0 ms: 1.0 GB/s each way",
    )
    alone = judge_network(Traffic(2, 1, "nccl", PAIR.sums), 2, 16)
    assert (alone.verdict, alone.needed) == ("warning", "2 hosts that reach each other")


def test_gradients_that_take_longer_than_half_a_step():
    found = judge_gradients(PAIR, 346_000_000, 2, 1.0, is_sharded=False)
    assert found.verdict == "ok"
    assert found.measured == "346 MB over 2 processes: 346.0 ms by nccl, 2 processes on 2 hosts"
    found = judge_gradients(PAIR, 346_000_000, 2, 0.5, is_sharded=True)
    assert (found.verdict, found.needed) == ("warning", "less than a step's 500.0 ms")
    assert "gloo" not in found.fix
    gloo = Traffic(2, 2, "gloo", PAIR.sums)
    assert "GPUs use NCCL" in judge_gradients(gloo, 346_000_000, 2, 0.5, is_sharded=False).fix
