import io
import sys

import pytest

from launch.console import Console, format_duration, format_rate


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def make(rank: int = 0) -> tuple[Console, io.StringIO, Clock]:
    stream, clock = io.StringIO(), Clock()
    return Console(rank, stream, clock), stream, clock


def test_only_rank_0_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    Console().say("hello")
    Console(rank=1).say("hello")
    with Console(rank=1).progress(3) as progress:
        progress.advance()
    assert progress.position == 1
    assert capsys.readouterr() == ("hello\n", "")


def test_a_plain_line_now_and_then_and_at_the_end() -> None:
    console, stream, clock = make()
    with console.progress(300, every_seconds=10) as progress:
        for _ in range(120):
            clock.now += 0.25
            progress.advance(items=256, loss=0.43214, data_wait="0.3 %")
    assert stream.getvalue().splitlines() == [
        "step 40/300  loss 0.4321  data wait 0.3 %  1,024 images/s  0:01:05 left",
        "step 80/300  loss 0.4321  data wait 0.3 %  1,024 images/s  0:00:55 left",
        "step 120/300  loss 0.4321  data wait 0.3 %  1,024 images/s  0:00:45 left",
        "step 120/300  loss 0.4321  data wait 0.3 %  1,024 images/s  in 0:00:30",
    ]


def test_fields_stay_until_given_anew() -> None:
    console, _, clock = make()
    with console.progress(10) as progress:
        progress.advance(loss=1.0, lr=1.5e-5)
        clock.now += 2
        progress.advance(loss=2.0)
        assert progress.line() == "step 2/10  loss 2  lr 1.5e-05  1 images/s  0:00:08 left"


def test_time_left_counts_this_session_only() -> None:
    console, _, clock = make()
    with console.progress(1000, start=900) as progress:
        assert progress.seconds_left() is None
        clock.now += 10
        progress.advance(50)
        assert progress.seconds_left() == 10
        assert progress.line() == "step 950/1,000  5 images/s  0:00:10 left"


def test_the_rate_is_that_of_the_last_minute() -> None:
    console, _, clock = make()
    with console.progress(None, unit="files", label="files") as progress:
        for _ in range(100):
            clock.now += 1
            progress.advance(100)
        for _ in range(100):
            clock.now += 1
            progress.advance(1)
        assert progress.line() == "files 10,100  1 files/s"


def test_without_any_step() -> None:
    console, stream, _ = make()
    with console.progress(5):
        pass
    assert stream.getvalue() == "step 0/5  in 0:00:00\n"


def test_the_last_line_is_printed_on_an_error_too() -> None:
    console, stream, _ = make()
    with pytest.raises(KeyError), console.progress(5):
        raise KeyError
    assert stream.getvalue() == "step 0/5  in 0:00:00\n"


def test_a_live_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    stream, clock = Terminal(), Clock()
    console = Console(0, stream, clock)
    before = sys.stdout
    with console.progress(4) as progress:
        clock.now += 1
        progress.advance(betas="[0.9, 0.95]")
        console.say("saved [red]step-1[/red]")
        with console.progress(2, label="evaluation") as inner:
            clock.now += 1
            inner.advance(2)
        clock.now += 1
        progress.advance(3)
    text = stream.getvalue()
    assert sys.stdout is before
    assert console.live is None
    assert "step 4/4  betas [0.9, 0.95]  1.33 images/s  in 0:00:03" in text
    assert "saved [red]step-1[/red]\n" in text
    assert "evaluation 2/2  2 images/s  in 0:00:01\n" in text
    assert "\x1b[" in text
    assert text.count("\n") < 12


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with Console(0, stream).progress(1) as progress:
        progress.advance()
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00:00"), (61.6, "0:01:02"), (3599.7, "1:00:00"), (86400 * 2 + 3 * 3600 + 245, "2 d 3:04:05")],
)
def test_format_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(("rate", "text"), [(1234.4, "1,234"), (12.34, "12.3"), (0.1234, "0.123"), (0.0, "0")])
def test_format_rate(rate: float, text: str) -> None:
    assert format_rate(rate) == text
