"""Which tars a source names, in which splits, and what is said where there are none."""

from pathlib import Path

import pytest

from data_pipeline.location import RemotePath
from data_pipeline.tar_files import find_tars


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_splits_by_the_names_of_tars_and_folders(tmp_path: Path) -> None:
    names = (
        *("train-000.tar", "val-000.tar", "validation_1.tar", "imagenet1k-test-00.tar", "values.tar", "TRAIN/x.tar"),
        *("test/shard-0.tar", "test/train-0.tar", "deep/er/valid/0.tar", ".hidden/0.tar", "train/.0.tar", "0.tar.idx"),
    )
    touch(tmp_path, *names)
    assert find_tars(str(tmp_path)).splits == {
        "train": ("TRAIN/x.tar", "test/train-0.tar", "train-000.tar", "values.tar"),
        "validation": ("deep/er/valid/0.tar", "val-000.tar", "validation_1.tar"),
        "test": ("imagenet1k-test-00.tar", "test/shard-0.tar"),
    }


def test_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "set", "train-08.tar", "train-09.tar", "train-10.tar", "val-0.tar", "odd-{1,2}.tar")
    monkeypatch.chdir(tmp_path)
    three = ("train-08.tar", "train-09.tar", "train-10.tar")
    for spelled in ("set/train-{08..10}.tar", f"{tmp_path}/set/train-{{08..10}}.tar", "./set/train-{08,09,10}.tar"):
        tars = find_tars(spelled)
        assert (tars.splits, str(tars)) == ({"train": three}, spelled)
        assert all((tars.folder / file).samefile(tmp_path / "set" / file) for file in three)  # type: ignore[union-attr]
    twice = {split: (f"set/{file}",) * 2 for split, file in (("train", "train-08.tar"), ("validation", "val-0.tar"))}
    assert find_tars("{set,set}/{train-08,val-0}.tar").splits == twice
    assert find_tars("set/odd-{1,2}.tar").splits == {"train": ("odd-{1,2}.tar",)}
    monkeypatch.chdir(tmp_path / "set")
    assert find_tars("train-08.tar").splits == {"train": ("train-08.tar",)}
    missing = r"--source train-\{08..12\}\.tar: 2 of 5 tars are missing, such as train-11\.tar"
    with pytest.raises(ValueError, match=missing):
        find_tars("train-{08..12}.tar")
    for pattern in ("{3..1}", "{a}", "{a..b}", "{0..9999999}"):
        with pytest.raises(ValueError, match="is neither a count such as"):
            find_tars(f"x-{pattern}.tar")


def test_a_place_without_tars(tmp_path: Path) -> None:
    touch(tmp_path, "x.tar.gz")
    with pytest.raises(
        ValueError, match=rf"--source {tmp_path}: no file in it, or in a folder below it, ends in \.tar"
    ):
        find_tars(str(tmp_path))


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/0.tar", "in/val/1.tar")
    (tmp_path / "in" / "train").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "val" / "round").symlink_to(tmp_path / "in")
    assert find_tars(str(tmp_path / "in")).splits == {"train": ("train/0.tar",), "validation": ("val/1.tar",)}


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_tars(str(tmp_path / "nowhere"))


def test_a_store_that_does_not_answer_shows_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def find(*_: object) -> None:
        raise ConnectionError("GET https://user:hunter2@host/?sig=topsecret failed")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "find", find)
    with pytest.raises(OSError, match="memory://tar-source: stage list: ConnectionError: GET") as caught:
        find_tars("memory://tar-source")
    assert "hunter2" not in str(caught.value)
    assert "topsecret" not in str(caught.value)


def test_signed_urls_keep_their_query_and_names_do_not() -> None:
    tars = find_tars("https://host/a%20set/train-{0..1}.tar?X-Amz-Signature=0123456789")
    assert tars.splits == {"train": ("train-0.tar", "train-1.tar")}
    assert isinstance(tars.folder, RemotePath)
    where = tars.folder / "train-1.tar"
    assert where.url == "https://host/a%20set/train-1.tar?X-Amz-Signature=0123456789"
    assert "0123456789" not in f"{tars} {where}"
