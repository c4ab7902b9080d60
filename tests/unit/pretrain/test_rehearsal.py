"""What a rehearsal's log comes to, and what is made of its memory. The rehearsal itself: test_doctor_command.py."""

import pytest

from pretrain.rehearsal import Rehearsed, judge_memory, rates

DONE = Rehearsed(64, 40, 1_000.0, 0.0, 70_000_000_000, 346_000_000, 1_038_000_000, ())


def line(step: int, images_per_second: float, data_wait: float = 0.0) -> dict[str, float]:
    return {"step": step, "images_per_second": images_per_second, "data_wait": data_wait}


def test_the_first_line_is_left_out():
    assert rates([line(10, 1.0), line(20, 800.0), line(30, 800.0)], 64, 1) == (pytest.approx(800.0), 0.0, 20)
    assert rates([line(10, 5.0)], 64, 1) == (pytest.approx(5.0), 0.0, 10)  # unless there is no other


def test_waiting_is_no_part_of_a_step():
    rate, waited, steps = rates([line(1, 1.0), line(2, 100.0, 0.5), line(3, 100.0)], 100, 1)
    assert (rate, waited, steps) == (pytest.approx(200 / 1.5), pytest.approx(0.25), 2)


def test_a_rate_is_that_of_each_process():
    assert rates([line(1, 1.0), line(2, 800.0)], 64, 4)[0] == pytest.approx(200.0)


def test_seconds_of_a_step_with_other_rows():
    assert DONE.step_seconds(500) == pytest.approx(0.5)


def test_memory():
    found = judge_memory(DONE, 80_000_000_000, 64, is_shared=False)
    assert (found.verdict, found.measured) == ("ok", "70.0 GB at most with 64 images of each process")
    assert found.needed == "less than 73.6 GB of the GPU's 80.0 GB"
    found = judge_memory(DONE, 72_000_000_000, 64, is_shared=True)
    assert (found.verdict, found.fix) == ("warning", "--accumulate 2 leaves room, and gives the same result")
    assert found.measured.endswith(", before weights are shared out")


def test_a_cpu_does_not_tell_of_a_gpu():
    found = judge_memory(DONE, None, 512, is_shared=False)
    assert (found.verdict, found.needed, found.fix) == (
        "warning",
        "512 images on a GPU",
        "give this command where the GPU is",
    )
