import pytest

from launch.training_command import TrainingCommand
from launch.world_fit import check_fit

MAE = ("pretrain/mae.py", "digits", "--data", "/data/d", "--out", "/runs/r")


def test_a_command_that_fits_needs_no_words():
    assert check_fit(TrainingCommand(MAE), 2, 8) == []


def test_more_processes_than_the_order_was_made_for_are_told():
    (note,) = check_fit(TrainingCommand(MAE), 4, 8)
    assert "32 processes, but --max-world 16: they read some of the data several times" in note


@pytest.mark.parametrize(
    ("words", "processes", "message"),
    [
        (MAE, 5, r"--batch-size 64 is not divisible by 3 x 5 processes; the nearest that are: 60, 75"),
        (MAE, 50, r"--batch-size 64 is not divisible by 3 x 50 processes; the nearest that are: 150$"),
        ((*MAE, "--epoch", "3"), 8, r"unknown option --epoch; did you mean --epochs\?"),
        (("data_pipeline/shard.py", "--source", "digits", "--out", "/data/d"), 1, "shard.py: is not made for several"),
    ],
)
def test_what_does_not_fit_is_refused(words: tuple[str, ...], processes: int, message: str):
    with pytest.raises(ValueError, match=message):
        check_fit(TrainingCommand(words), 3, processes)
