"""The programs that the README and docs/data.md print, run as they stand but for the names of datasets."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

# What is another in a test, so that it needs no store, and two processes instead of eight.
REPLACED = {
    "README.md": {'"data/mine"': '"data/flowers"', "workers=4": "workers=2", "batch_size=256": "batch_size=60"},
    "docs/data.md": {
        "https://host/birds": "data/birds",
        "workers=8": "workers=2",
        "batch_size=256": "batch_size=60",
        "epochs=10": "epochs=1",
    },
}


@pytest.fixture(scope="module")
def folder(runs: "Runs", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/flowers and data/birds, of 240 images each."""
    made = tmp_path_factory.mktemp("documented")
    for seed, name in enumerate(("flowers", "birds")):
        (made / name).mkdir()
        for number in range(240):
            pixels = np.random.default_rng((seed, number)).integers(0, 256, (4, 4, 3), np.uint8)
            Image.fromarray(pixels).resize((64, 48)).save(made / name / f"{number}.jpg")
        words = runs.python(
            runs.ROOT / "data_pipeline/shard.py", "--source", made / name, "--out", made / "data" / name
        )
        runs.start(words, made / f"log-{name}").wait().expect()
    return made


@pytest.mark.parametrize("page", REPLACED)
def test_the_stream_in_ones_own_loop(runs: "Runs", folder: Path, page: str) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (runs.ROOT / page).read_text(), re.DOTALL)
    for old, new in REPLACED[page].items():
        assert old in program
        program = program.replace(old, new)
    program += f"    assert stream.state()['position'] >= {240 if page == 'README.md' else 480}\n"
    script = folder / f"{Path(page).stem}.py"
    script.write_text(f"import os\nos.chdir({str(folder)!r})\n{program}")
    ended = runs.start(runs.python(script), folder / f"log-{script.stem}", cold=True).wait().expect()
    assert ended.err == ""
