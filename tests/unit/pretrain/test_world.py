"""What the processes of a world are told of each other's ends; that they meet is for the tests of whole commands."""

import pytest
import torch.distributed

from pretrain.roll_call import RankFailedError, RankLostError
from pretrain.world import World, steps_between_questions

TIMED_OUT = "[/x/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 600ms for recv operation. Some advice"


class Calls:
    """A roll call whose outcome is known."""

    def __init__(self, outcome: str | RankFailedError | None) -> None:
        self.outcome = outcome
        self.words: list[str] = []

    def absent(self) -> str | None:
        if isinstance(self.outcome, RankFailedError):
            raise self.outcome
        return self.outcome

    def leave_word(self, error: str) -> None:
        self.words.append(error)


def meet(error: Exception, outcome: str | RankFailedError | None = None) -> tuple[Exception, list[str]]:
    """What an error becomes in a world, and the word that is left of it."""
    world, calls = World("fp32"), Calls(outcome)
    world._roll_call = calls  # type: ignore[assignment]
    with pytest.raises(Exception) as met, world.naming_the_lost():  # noqa: PT011 - the test looks at it
        raise error
    assert isinstance(met.value, Exception)
    return met.value, calls.words


@pytest.mark.parametrize("kind", [RuntimeError, torch.distributed.DistBackendError])
def test_who_is_lost_is_named(kind: type[Exception]) -> None:
    error, words = meet(kind(TIMED_OUT), "rank 1 has ended")
    assert isinstance(error, RankLostError)
    assert str(error) == (
        "rank 1 has ended: what the others do together cannot go on. The same command goes on from the newest "
        "checkpoint, on any number of processes (Timed out waiting 600ms for recv operation)"
    )
    assert words == []


def test_a_connection_may_break_though_all_live() -> None:
    error, words = meet(RuntimeError(TIMED_OUT))
    assert isinstance(error, RankLostError)
    assert str(error).startswith("the processes lost touch though all live: what the others do together cannot go on. ")
    assert words == []


def test_an_error_of_another_process_is_told_here() -> None:
    failed = RankFailedError("rank 2 (host h, pid 4) has failed: shard 3: 7 bytes")
    error, words = meet(RuntimeError(TIMED_OUT), failed)
    assert error is failed
    assert words == []


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (ValueError("shard 3: 7 bytes"), "shard 3: 7 bytes"),
        (AssertionError(), "AssertionError"),
        (RuntimeError("shapes (3, 4) and (5, 6) do not fit"), "shapes (3, 4) and (5, 6) do not fit"),
    ],
)
def test_the_others_hear_of_an_error_here(error: Exception, word: str) -> None:
    met, words = meet(error)
    assert met is error
    assert words == [word]


@pytest.mark.parametrize("error", [RankLostError("rank 1 has ended"), RankFailedError("rank 1 has failed")])
def test_of_what_others_met_no_word_is_left(error: Exception) -> None:
    """As where a teacher's run within another has told of it."""
    met, words = meet(error)
    assert met is error
    assert words == []


def test_alone_every_error_is_left_as_it_is() -> None:
    error = RuntimeError(TIMED_OUT)
    with pytest.raises(RuntimeError, match=r"Some advice$") as met, World("fp32").naming_the_lost():
        raise error
    assert met.value is error


def test_large_worlds_ask_each_other_less_often() -> None:
    found = [steps_between_questions(processes) for processes in (1, 2, 64, 127, 128, 512, 1024)]
    assert found == [1, 1, 1, 1, 2, 8, 16]
