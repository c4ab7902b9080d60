from pathlib import Path

import pytest

from launch.parsed_options import parsed_options


def test_options_are_those_that_the_script_itself_would_take() -> None:
    options = parsed_options(Path("pretrain/mae.py"), ["digits", "--data", "D", "--out", "R", "--optimizer.base-lr=1"])
    assert options["out"] == "R"
    assert options["batch_size"] == 64
    assert options["optimizer"]["base_lr"] == 1.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["digitz"], r"^pretrain/mae.py: unknown recipe 'digitz'; did you mean digits\?"),
        (["digits", "--epoch", "3"], r"^pretrain/mae.py digits: unknown option --epoch; did you mean --epochs\?"),
        (
            ["digits", "--help"],
            r"^pretrain/mae.py: asks for help, expected options of a run: give it without a launcher$",
        ),
    ],
)
def test_what_it_would_refuse_is_refused_with_its_words(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parsed_options(Path("pretrain/mae.py"), [*words, "--data", "D", "--out", "R"])
