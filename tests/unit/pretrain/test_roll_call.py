import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pretrain import roll_call
from pretrain.roll_call import Place, RankFailedError, RollCall


class Meeting:
    """Three processes, as threads: what each gives is put together as a collective operation does it."""

    def __init__(self) -> None:
        self.places = [Place(7, "wait") for _ in range(3)]
        self._given: list[list[Any]] = [[] for _ in range(3)]
        self._barrier = threading.Barrier(3)
        with ThreadPoolExecutor(3) as pool:
            self.calls = list(pool.map(self._join, range(3)))
        self.who = self.calls[0].who

    def _join(self, rank: int) -> RollCall:
        def gather(items: list[Any]) -> list[Any]:
            self._given[rank] = items
            self._barrier.wait(20)
            everything = [item for given in self._given for item in given]
            self._barrier.wait(20)
            return everything

        return RollCall(rank, self.places[rank], gather)


@pytest.fixture
def meeting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Meeting]:
    monkeypatch.setattr(roll_call, "SECONDS", 0.1)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    found = Meeting()
    yield found
    for call in found.calls:
        call.close()


def test_where_all_live_and_are_equally_far_nobody_is_absent(meeting: Meeting) -> None:
    assert [call.absent() for call in meeting.calls] == [None] * 3
    assert [sign[1:] for sign in meeting.calls[2].signs() or []] == [(7, "wait", "")] * 3


def test_what_takes_long_is_told(meeting: Meeting) -> None:
    meeting.places[1].doing = "worker 0 reads, and reads"
    deadline = time.monotonic() + 20
    while (signs := meeting.calls[0].signs()) and not signs[1].doing and time.monotonic() < deadline:
        time.sleep(0.05)
    assert signs is not None
    assert [sign.doing for sign in signs] == ["", "worker 0 reads, and reads", ""]


def test_who_is_behind(meeting: Meeting) -> None:
    """Also at the same step: who reads on does not come to where the others wait."""
    meeting.places[1].stage = "read"
    expected = f"{meeting.who[1]} at step 7 (read) did not get to step 7 (wait)"
    assert meeting.calls[0].absent() == meeting.calls[2].absent() == expected
    assert meeting.calls[1].absent() is None
    meeting.places[2].step = 1006
    meeting.places[0].step = 1007
    expected = (
        f"{meeting.who[1]} at step 7 (read), {meeting.who[2]} at step 1,006 (wait) did not get to step 1,007 (wait)"
    )
    assert meeting.calls[0].absent() == expected


def test_who_is_silent(meeting: Meeting) -> None:
    meeting.calls[1].close()
    meeting.places[2].step = 6  # which nobody would mention beside that
    assert meeting.calls[0].absent() == f"{meeting.who[1]} has ended or stopped, or cannot be reached"
    meeting.calls[2].close()
    both = f"{meeting.who[1]}, {meeting.who[2]}"
    assert meeting.calls[0].absent() == f"{both} have ended or stopped, or cannot be reached"


def test_who_has_failed(meeting: Meeting) -> None:
    meeting.calls[2].leave_word("shard 3: 7 bytes")
    meeting.calls[2].close()
    for call in meeting.calls[:2]:
        with pytest.raises(RankFailedError, match=r"^rank 2 \(host .*, pid \d+\) has failed: shard 3: 7 bytes$"):
            call.absent()


class Gone:
    """The store of a process that has ended, or of one that was stopped."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def set(self, *_: object) -> None:
        time.sleep(self._seconds)
        raise RuntimeError("Broken pipe")

    multi_get = set


@pytest.mark.parametrize("seconds", [0.0, 0.5])
def test_the_first_process_does_not_answer(seconds: float, meeting: Meeting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roll_call, "_ANSWERS", 0.1)
    monkeypatch.setattr(meeting.calls[1], "_store", Gone(seconds))
    assert meeting.calls[1].absent() == f"{meeting.who[0]} has ended or stopped, or cannot be reached"
    meeting.calls[1].leave_word("nobody hears this")
