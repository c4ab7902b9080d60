"""Which stage binds is said by name, with what to change."""

import re

import pytest

from data_pipeline.rows import FillReport
from data_pipeline.stages import stages_of, what_binds, who_decoded


def report(**values: float) -> FillReport:
    return FillReport(rows=1000, **values)  # type: ignore[arg-type]


def test_stages_are_microseconds_an_image_and_shares():
    stages = stages_of(
        report(
            fill_seconds=1.5,
            read_seconds=0.1,
            decode_seconds=1.0,
            resize_seconds=0.3,
            wait_seconds=0.5,
            consumer_seconds=0.5,
        ),
        2,
    )
    assert stages.workers == {"read": 100, "decode": 1000, "resize": 300, "augment": 0, "write": 0, "other": 100}
    assert stages.here == {"order": 0, "wait": 500, "collate": 0, "step": 500}
    assert stages.images_per_second == 1000
    assert stages.busy == pytest.approx(0.75)
    lines = stages.table().splitlines()
    assert lines[0].split() == ["where", "stage", "us/image", "share"]
    assert lines[2].split() == ["workers", "decode", "1000.0", "67%"]
    assert lines[-1].split() == ["this", "process", "step", "500.0", "50%"]


def test_a_stream_that_is_not_waited_for_does_not_bind():
    text = what_binds(report(decode_seconds=2.0, wait_seconds=0.04, consumer_seconds=3.96), 2)
    assert text == (
        "data: 250 images/s; waited for 1.0% of the time: the step binds, not the loader, which could give "
        "1,000 images/s"
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"decode_seconds": 1.5, "resize_seconds": 0.4},
            r"decode binds, 79% of .* to change: more --workers .*short-side",
        ),
        ({"read_seconds": 1.5, "decode_seconds": 0.4}, r"read binds, 79% .* to change: a faster disk.* SHERD_CACHE"),
        ({"augment_seconds": 1.5, "decode_seconds": 0.4}, r"augment binds, 79% .* a cheaper policy"),
    ],
)
def test_the_stage_that_busy_workers_spend_most_in_binds(values: dict[str, float], expected: str):
    binds = what_binds(report(**values, wait_seconds=0.9, consumer_seconds=0.1), 2)
    assert binds.startswith("data: 1,000 images/s; waited for 90.0% of the time: ")
    assert re.search(expected, binds)


def test_workers_that_have_time_leave_it_to_this_process():
    text = what_binds(report(decode_seconds=0.4, wait_seconds=0.3, collate_seconds=0.6, order_seconds=0.1), 2)
    assert "while workers were busy for 20% of it: this process binds, most of it in collate" in text


def test_without_workers_the_stage_binds_too():
    assert ": decode binds, 100%" in what_binds(report(decode_seconds=0.5, wait_seconds=0.9, consumer_seconds=0.1), 0)


def test_workers_are_no_help_to_a_device():
    text = what_binds(report(on_device=1000, resize_seconds=0.9, wait_seconds=0.9, consumer_seconds=0.1), 2)
    assert "90.0% of the time: making views on the device binds" in text
    assert "decode" not in text


def test_a_stream_that_was_not_used_has_no_stages():
    assert "0 images/s" in what_binds(FillReport(), 2)


def test_images_that_pillow_decodes_are_counted():
    assert who_decoded(report(decode_seconds=1.0)) is None
    assert who_decoded(FillReport(rows=1000, by_pillow=25)) == (
        "data: Pillow decoded 25 of 1,000 images (2.5%), which are no JPEGs or are printed in inks: it takes three to "
        "four times as long as libjpeg-turbo does for JPEG"
    )
