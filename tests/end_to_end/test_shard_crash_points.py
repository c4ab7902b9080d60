"""Sharding that dies at every point of its work, one after another, ends as if it had been left alone."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

OPTIONS = ("--shard-size", 40_000, "--workers", 1, "--holdout", 0.2, "--min-side", 30, "--short-side", 60)
# In the order in which a run comes by. The second time that the order of a split is put into place is that of the
# validation split: the first split's is there already.
POINTS = [
    ("listing", 1),
    ("listed", 1),
    ("examined", 1),
    ("selecting", 1),
    ("order-moved", 1),
    ("order-moved", 2),
    ("sharded", 1),
    ("quarantined", 1),
    ("before-manifest", 1),
    ("manifest-written", 1),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images") / "some images"
    for number in range(150):
        pixels = np.random.default_rng(number % 140).integers(0, 256, (4, 4, 3), np.uint8)  # nine are there twice
        path = folder / f"class {number % 3}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        side = 20 if number % 25 == 0 else 90
        Image.fromarray(pixels).resize((side, side + number % 140)).save(path, quality=90)
    return folder


def test_every_crash_point(runs: "Runs", images: Path, tmp_path: Path) -> None:
    script = runs.ROOT / "data_pipeline/shard.py"
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    whole = runs.python(script, "--source", images, "--out", undisturbed, *OPTIONS)
    runs.start(whole, tmp_path / "log", cold=True).wait().expect()
    assert len((undisturbed / "quarantine.jsonl").read_text().splitlines()) == 15
    assert len(list(undisturbed.glob("*.tar"))) > 3
    words = ("--source", images, "--out", out, *OPTIONS)
    for point, count in POINTS:
        child = runs.start(runs.python(runs.HERE / "crash_at.py", point, count, script, *words), tmp_path / point)
        child.wait().expect(-9)
        assert child.is_gone(), f"{point}: processes remain: {child.members()}"
        assert (out / "manifest.json").exists() == (point == "manifest-written"), point
    ended = runs.start(runs.python(script, *words), tmp_path / "end").wait().expect()
    assert "finished already; nothing to do" in ended.out
    assert runs.contents(out) == runs.contents(undisturbed)
