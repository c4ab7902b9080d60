"""The measured rate of products of matrices: sane, whatever the precision. What it is depends on the machine."""

import inspect
import math

import pytest
import torch

from pretrain.matrix_rate import matrix_rate


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_has_a_rate(precision):
    rate = matrix_rate(torch.device("cpu"), precision)
    assert math.isfinite(rate)
    assert rate > 0


def test_random_numbers_of_the_run_are_left_alone():
    state = torch.get_rng_state()
    matrix_rate(torch.device("cpu"), "fp32")
    assert torch.equal(torch.get_rng_state(), state)


def test_another_precision_is_refused():
    with pytest.raises(ValueError, match=r"^precision is 'fp8', expected one of: fp32, bf16, fp16$"):
        inspect.unwrap(matrix_rate)(torch.device("cpu"), "fp8")  # without the type checks that tests switch on


def test_another_device_is_refused():
    with pytest.raises(ValueError, match=r"^cannot time products of matrices on meta; expected a CPU or a CUDA GPU$"):
        matrix_rate(torch.device("meta"), "fp32")
