"""The curves stand in a page: whole, with ids of their own, in the page's colours, asking for nothing."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from finetune.report_figures import (
    Curve,
    accuracy_by_labels,
    accuracy_curves,
    agreement_curve,
    averaging,
    throughput,
    training_curves,
)


def _curve(label: str, values: list[float]) -> Curve:
    return Curve(label, np.arange(1.0, len(values) + 1), np.array(values))


def _ids(svg: str) -> list[str]:
    return re.findall(r'\bid="([^"]+)"', svg)


def _texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


@pytest.fixture(scope="module")
def figures() -> dict[str, str]:
    loss, rate = _curve("loss", [2.0, 1.0, np.nan, 0.5]), _curve("lr", [0.0, 1e-3, 5e-4, 0.0])
    by_labels = {"pre-trained": [[0.8, 0.82], [0.9]], "from scratch": [[], [0.7, 0.75]], "pixels, 1-NN": [(0.6,), ()]}
    return {
        "a-loss": training_curves("a-loss", loss, rate),
        "b-loss": training_curves("b-loss", loss, rate),
        "a-accuracy": accuracy_curves("a-accuracy", [_curve("top-1", [0.5, 0.7]), _curve("k-NN", [0.4, np.nan])]),
        "a-throughput": throughput("a-throughput", _curve("rate", [5.0] * 4), _curve("wait", [np.nan] * 4)),
        "c-loss": training_curves("c-loss", _curve("whole", [2.0, 1.0]), rate, [_curve("class token", [1.5, 0.5])]),
        "c-throughput": throughput("c-throughput", rate, _curve("wait", [0.1]), _curve("teacher", [0.6])),
        "c-agreement": agreement_curve("c-agreement", _curve("agreement", [0.25, 0.5])),
        "a-labels": accuracy_by_labels("a-labels", ["10", "all"], by_labels),
    }


def test_each_is_xml_that_can_stand_in_html(figures: dict[str, str]):
    for svg in figures.values():
        assert svg.startswith("<svg")
        assert ET.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"


def test_ids_are_unique_in_a_page_and_all_references_are_met(figures: dict[str, str]):
    page = "".join(figures.values())
    ids = _ids(page)
    assert len(ids) == len(set(ids))
    for anchor, svg in figures.items():
        assert all(name.startswith(f"{anchor}-") for name in _ids(svg))
        referred = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', svg)
        assert {a or b for a, b in referred} <= set(_ids(svg))


def test_colours_are_the_pages_and_nothing_is_fetched(figures: dict[str, str]):
    for svg in figures.values():
        assert "var(--ink)" in svg
        assert "var(--series-1)" in svg
        assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= {"#000000"}
        assert not re.search(r'(src|href)="(?!#)', svg)
        assert re.findall(r"<(\w+:)?(metadata|image|script)", svg) == []


def test_text_stays_text(figures: dict[str, str]):
    assert {"loss", "learning rate", "epoch"} <= set(_texts(figures["a-loss"]))
    assert {"pre-trained", "from scratch", "pixels, 1-NN", "10", "all"} <= set(_texts(figures["a-labels"]))
    assert any(text.endswith("%") for text in _texts(figures["a-accuracy"]))
    assert {"whole", "class token", "learning rate"} <= set(_texts(figures["c-loss"]))
    assert {"wait", "teacher", "share of time"} <= set(_texts(figures["c-throughput"]))
    assert {"0%", "100%"} <= set(_texts(figures["c-agreement"]))


def test_a_curve_alone_needs_no_legend(figures: dict[str, str]):
    assert "share of the time waiting for data" in _texts(figures["a-throughput"])
    assert "wait" not in _texts(figures["a-throughput"])
    assert _texts(figures["a-loss"]).count("loss") == 1


def test_text_is_taken_as_it_is():
    svg = accuracy_curves("a", [_curve("$x$ <b>&", [0.5]), _curve("other", [0.4])])
    assert "$x$ <b>&" in _texts(svg)


def test_the_same_data_give_the_same_bytes(figures: dict[str, str]):
    loss, rate = _curve("loss", [2.0, 1.0, np.nan, 0.5]), _curve("lr", [0.0, 1e-3, 5e-4, 0.0])
    assert training_curves("a-loss", loss, rate) == figures["a-loss"]


def test_null_leaves_a_gap():
    whole = throughput("a", _curve("r", [1.0, 2.0, 3.0, 2.0, 1.0]), _curve("w", [0.1] * 5))
    broken = throughput("a", _curve("r", [1.0, 2.0, np.nan, 2.0, 1.0]), _curve("w", [0.1] * 5))
    assert _moves(broken) == _moves(whole) + 1


def _moves(svg: str) -> int:
    """Beginnings of strokes in the curves, which alone have a colour of a series."""
    paths = re.findall(r'<path d="([^"]*)"[^>]*style="[^"]*var\(--series', svg)
    return sum(path.count("M ") for path in paths)


def test_many_points_are_averaged():
    assert (averaging(1), averaging(400), averaging(401), averaging(4000)) == (1, 1, 2, 10)
    rng = np.random.default_rng(0)
    long = Curve("loss", np.arange(50_000.0), rng.random(50_000))
    svg = training_curves("a", long, long)
    assert len(svg) < 100_000
