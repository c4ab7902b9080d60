"""A folder of results is replaced whole, and only where all in it is its own."""

import json
import re
from pathlib import Path

import pytest

from finetune.written_folder import WrittenFolder


def folder(path: Path) -> WrittenFolder:
    return WrittenFolder(path, frozenset({"a.json", "b.png"}), "a.json", "format-a")


def write(path: Path, text: str) -> None:
    with folder(path).replaced() as staged:
        (staged / "a.json").write_text(json.dumps({"format": "format-a", "text": text}))
        (staged / "b.png").write_text(text)


def test_it_is_written_anew(tmp_path: Path):
    out = tmp_path / "deep/out"
    write(out, "one")
    write(out, "two")
    assert sorted(path.name for path in out.iterdir()) == ["a.json", "b.png"]
    assert (out / "b.png").read_text() == "two"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_what_fails_leaves_everything_as_it_was(tmp_path: Path):
    out = tmp_path / "out"
    write(out, "one")
    with pytest.raises(ValueError, match="broken"), folder(out).replaced():
        raise ValueError("broken")
    assert (out / "b.png").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"notes.txt": ""},
            "expected a new folder or one that this command has written (a.json), found one with notes",
        ),
        ({"a.json": '{"format": "other"}'}, "expected a new folder or one that this command has written (a.json)"),
        ({"a.json": '{"format": "format-a"}', "mine.txt": ""}, "holds mine.txt, which this command has not written"),
    ],
)
def test_what_is_of_others_is_left_alone(tmp_path: Path, files: dict[str, str], message: str):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=re.escape(f"--out {tmp_path}: {message}") + ".*; give another --out, or move"):
        folder(tmp_path).check()
    with pytest.raises(ValueError, match=re.escape(message)), folder(tmp_path).replaced():
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)


def test_files_and_links_are_left_alone(tmp_path: Path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("file", "link"):
        with pytest.raises(ValueError, match="expected a new or an empty folder, found a file or a link"):
            folder(tmp_path / name).check()
    folder(tmp_path / "new").check()
