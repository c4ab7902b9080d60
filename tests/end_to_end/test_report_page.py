"""The report's page: what is in it, opened in a browser without an error, and what the command refuses."""

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"


def make(runs: "Runs", out: Path, *folders: object) -> "Runs.Finished":
    words = runs.python(runs.ROOT / "finetune/report.py", *folders, "--out", out)
    return runs.Child(words, out.with_name(f"{out.stem}-log")).wait()


@pytest.fixture(scope="module")
def page(runs: "Runs", digits: Path, undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-training run, a fine-tuning run from it and a probe."""
    folder = tmp_path_factory.mktemp("report")
    tuned, probe = folder / "tuned", folder / "probe"
    for script, recipe, out, more in (
        ("classify", "digits", tuned, ("--epochs", 2, "--optimizer.warmup-epochs", 1, "--log-every", 5)),
        ("probe", "small", probe, ()),
    ):
        options = (recipe, "--data", digits, "--init", undisturbed, "--out", out, "--workers", 1, *more)
        words = runs.python(runs.ROOT / f"finetune/{script}.py", *options)
        runs.Child(words, folder / script).wait().expect(0)
    made = make(runs, folder / "page.html", undisturbed, tuned, probe).expect(0)
    assert made.err == ""
    assert made.out.splitlines()[-1].startswith(f"report: {folder / 'page.html'} (")
    return folder / "page.html"


def test_it_holds_every_section_and_needs_nothing_else(page: Path) -> None:
    text = page.read_text()
    sections = ("Summary", "Curves", "Reconstructions", "Attention", "Position embeddings", "Accuracy", "Settings")
    for title in (*sections, "Frozen features", "images per second", "linear, logistic regression"):
        assert title in text, title
    assert "Not shown" not in text
    loaded = re.findall(r"""(?:src|href)=["']([^"']*)|url\(["']?([^"')]*)|@import""", text)
    assert all(source.startswith(("#", "data:")) for pair in loaded for source in pair if source)
    assert not re.search(r"<script\b", text)


def test_a_browser_shows_it_without_an_error(page: Path, runs: "Runs", tmp_path: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH")
    options = (*QUIET.split(), f"--user-data-dir={tmp_path}", "--enable-logging=stderr", "--v=0", "--dump-dom")
    shown = runs.Child([CHROMIUM, *options, page.as_uri()], tmp_path / "browser").wait().expect(0)
    complaints = [line for line in shown.err.splitlines() if "CONSOLE" in line or "net_error" in line]
    assert complaints == []
    assert shown.out.count("<section") == page.read_text().count("<section") > 10
    assert "<svg" in shown.out


def test_a_page_with_an_error_would_be_noticed(runs: "Runs", tmp_path: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH")
    (tmp_path / "bad.html").write_text("<script>console.error('seen'); missing()</script><img src='gone.png'>")
    options = (*QUIET.split(), f"--user-data-dir={tmp_path / 'user'}", "--enable-logging=stderr", "--v=0", "--dump-dom")
    shown = runs.Child([CHROMIUM, *options, (tmp_path / "bad.html").as_uri()], tmp_path / "browser").wait().expect(0)
    assert sum("CONSOLE" in line for line in shown.err.splitlines()) >= 2


def test_what_is_no_run_is_refused(runs: "Runs", digits: Path, tmp_path: Path) -> None:
    refused = make(runs, tmp_path / "page.html", digits).expect(2)
    assert refused.err.startswith("report.py: ")
    assert refused.err.count("\n") == 1
    assert str(digits) in refused.err
    assert not (tmp_path / "page.html").exists()
