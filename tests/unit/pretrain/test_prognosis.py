"""How long a run would take, by fixed times of a step."""

from dataclasses import replace

import pytest

from pretrain.prognosis import Prognosis, judge_hours

ALONE = Prognosis(steps=36_000, processes=1, compute=0.2, load=0.1, traffic=None, measured_on="a GPU")


def test_what_takes_longer_counts():
    assert ALONE.hours == pytest.approx(2.0)
    assert ALONE.sentence == (
        "36,000 steps of 200.0 ms (the step binds): 2:00:00 on 1 process, 2.00 GPU-hours; evaluations left out; "
        "measured on a GPU"
    )
    waiting = replace(ALONE, load=0.4)
    assert waiting.hours == pytest.approx(4.0)
    assert "(the loader binds)" in waiting.sentence


def test_what_several_processes_add_is_said():
    many = replace(ALONE, processes=8)
    assert "scaling taken as linear; what gradients add was not measured" in many.sentence
    assert many.to_json()["gpu_hours"] == pytest.approx(16.0)
    assert "what gradients add is in it" in replace(many, traffic=0.0).sentence
    slow = replace(many, traffic=0.1)
    assert slow.most_hours == pytest.approx(3.0)
    assert "with all that gradients can add, 100.0 ms a step: 3:00:00" in slow.sentence
    assert replace(slow, load=0.3).most_hours == pytest.approx(3.0)  # it is hidden behind the waiting


def test_hours_that_there_are():
    assert judge_hours(ALONE, None).verdict == "ok"
    assert judge_hours(ALONE, 2.5).verdict == "ok"
    assert judge_hours(replace(ALONE, traffic=0.1), 2.5).verdict == "warning"
    found = judge_hours(ALONE, 1.0)
    assert (found.verdict, found.needed) == ("problem", "1 hours at most")
    assert found.fix.startswith("2.0 times the GPUs")
