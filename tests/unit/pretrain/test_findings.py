"""How findings are told."""

import pytest

from pretrain.findings import Finding, conclusion, counted, findings_table, told_bytes, works

FINE = Finding("ok", "lanes", "240 lanes for 8 processes")
SLOW = Finding("warning", "loader", "500 images/s", "1,000 images/s", "more --workers")
BAD = Finding("problem", "batch", "64 images for 21 processes", "a multiple of 21", "--batch-size 63")


def test_a_line_for_each_and_what_to_change_below_it():
    assert findings_table([FINE, SLOW, BAD]).splitlines() == [
        "ok       lanes   240 lanes for 8 processes",
        "warning  loader  500 images/s; needed: 1,000 images/s",
        "                 to change: more --workers",
        "problem  batch   64 images for 21 processes; needed: a multiple of 21",
        "                 to change: --batch-size 63",
    ]


def test_the_conclusion():
    assert works([FINE, SLOW])
    assert conclusion([FINE, SLOW]) == "the run would work: 0 problems, 1 warning"
    assert not works([FINE, BAD])
    assert conclusion([BAD, BAD]) == "the run would not work: 2 problems, 0 warnings"


def test_what_is_not_well_says_what_to_change():
    with pytest.raises(AssertionError):
        Finding("warning", "loader", "500 images/s")


def test_numbers_with_names():
    assert [counted(1, "process"), counted(1024, "process"), counted(2, "host")] == [
        "1 process",
        "1,024 processes",
        "2 hosts",
    ]
    assert [told_bytes(size) for size in (12, 2_400, 145_000, 1.5e6, 346e6, 7.6e9)] == [
        "12 bytes",
        "2.4 kB",
        "145 kB",
        "1.5 MB",
        "346 MB",
        "7.6 GB",
    ]
