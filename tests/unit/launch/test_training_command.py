import pytest

from launch.training_command import TrainingCommand, split_command

MAE = ("pretrain/mae.py", "digits", "--data", "/data/d")


def test_what_stands_after_the_dashes_is_the_command():
    assert split_command(["--nodes", "2", "--", "pretrain/mae.py", "--", "x"]) == (
        ["--nodes", "2"],
        ("pretrain/mae.py", "--", "x"),
    )
    assert split_command(["--nodes", "2"]) == (["--nodes", "2"], ())


def test_options_are_found_in_both_forms_and_the_last_one_counts():
    command = TrainingCommand((*MAE, "--out", "/runs/a", "--out=/runs/b=c"))
    assert command.out == "/runs/b=c"
    assert command.option("--data") == "/data/d"
    assert command.option("--seed") is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), r"expected a command after `--`, such as: -- pretrain/mae\.py RECIPE --data D --out R"),
        (
            ("pretrain/may.py", "--out", "r"),
            r"-- pretrain/may\.py: no script of sherd; did you mean pretrain/mae\.py\?",
        ),
        (("pretrain/loop.py", "--out", "r"), r"no script of sherd.* Scripts: pretrain/.*, finetune/.*data_pipeline/"),
        (MAE, r"-- pretrain/mae\.py: --out is missing; the launcher looks there for how the run has ended"),
        ((*MAE, "--out"), "--out is missing"),
    ],
)
def test_what_cannot_be_launched_is_refused(words: tuple[str, ...], message: str):
    with pytest.raises(ValueError, match=message):
        TrainingCommand(words)
