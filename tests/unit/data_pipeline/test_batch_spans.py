"""Which positions batches cover, and how many are left."""

import pytest

from data_pipeline.batch_spans import BatchSpans


def test_batches_follow_each_other_but_for_those_left_out():
    spans = BatchSpans(4, 40)
    spans.skip(8, 12, position=4)
    spans.skip(16, 24, position=4)
    assert list(spans.after(4)) == [(4, 8), (12, 16), (24, 28), (28, 32), (32, 36), (36, 40)]


@pytest.mark.parametrize("position", range(0, 44, 4))
def test_what_is_left_is_what_comes(position: int):
    spans = BatchSpans(4, 40, [(8, 12), (8, 16), (12, 16), (28, 40), (0, 4)])
    assert spans.left(position) == len(list(spans.after(position)))


def test_batches_that_do_not_lie_where_those_before_did():
    spans = BatchSpans(6, 42, [(4, 8), (20, 28)])  # of a run with batches of 4
    assert list(spans.after(0)) == [(8, 14), (14, 20), (28, 34), (34, 40), (40, 46)]
    assert spans.left(0) == 5


def test_only_whole_batches_to_come_can_be_left_out():
    spans = BatchSpans(4, 40)
    for start, stop in ((4, 10), (0, 4)):
        with pytest.raises(ValueError, match=f"skip {start} to {stop}: expected whole batches of 4 not yet handed out"):
            spans.skip(start, stop, position=4)


def test_a_stream_without_an_end():
    spans = BatchSpans(4, None)
    for expected, span in zip(range(0, 400, 4), spans.after(0), strict=False):
        assert span == (expected, expected + 4)
    with pytest.raises(ValueError, match="a stream without an end: give it epochs"):
        spans.left(0)
