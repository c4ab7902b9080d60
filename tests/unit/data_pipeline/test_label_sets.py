"""Label sets are read from annotations alone, exact to the sample, and what is no set of labels is told."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data_pipeline.config import ShardConfig
from data_pipeline.label_sets import LabelSets, find_field, read_label_sets
from data_pipeline.location import RemotePath
from data_pipeline.manifest import DatasetError, Manifest, read_manifest
from data_pipeline.sample_rules import choose_anew, choose_samples
from data_pipeline.sharding import shard_dataset
from data_pipeline.withdrawn import read_names
from launch.console import Console

MakeDataset = Callable[..., Manifest]

TAGS: list[Any] = [["cat", "dog"], [], None, ["dog", "dog"], "owl", ["cat"], ["ant", "owl", "cat"]]


def annotated(make: MakeDataset, values: Sequence[Any], shards: Sequence[int] = (), **options: Any) -> Manifest:
    """A dataset with `tags` in the samples' annotations; None for a sample without."""
    texts = [json.dumps({"caption": "x"} if value is None else {"tags": value}).encode() for value in values]
    return make(shards or [len(values)], annotations=texts, **options)


def sets_of(found: LabelSets) -> list[set[str] | None]:
    targets = found.targets(np.arange(len(found.known)))
    return [
        {found.names[label] for label in np.flatnonzero(row)} if known else None
        for row, known in zip(targets, found.known, strict=True)
    ]


@pytest.mark.parametrize(
    "options", [{}, {"is_image_last": True}, {"folder_in_tar": "x" * 120 + "/", "is_image_last": True}]
)
def test_labels_are_those_of_each_sample(make_dataset: MakeDataset, options: dict[str, Any]):
    told: list[int] = []
    manifest = annotated(make_dataset, TAGS, [3, 4], **options)
    found = read_label_sets(manifest, "train", "tags", report=told.append)
    assert found.names == ("ant", "cat", "dog", "owl")
    assert sets_of(found) == [{"cat", "dog"}, set(), None, {"dog"}, {"owl"}, {"cat"}, {"ant", "owl", "cat"}]
    assert sum(told) == 7
    some = found.targets(np.asarray([6, 0, 6, 1]))
    assert some.astype(int).tolist() == [[1, 1, 0, 1], [0, 1, 1, 0], [1, 1, 0, 1], [0, 0, 0, 0]]
    assert found.targets(np.empty(0, np.int64)).shape == (0, 4)


@given(st.lists(st.sets(st.integers(-3, 12)), min_size=1, max_size=20), st.data())
def test_targets_are_the_sets(sets: list[set[int]], data: st.DataObject):
    counts = [len(one) for one in sets]
    labels = np.asarray([label + 3 for one in sets for label in sorted(one)], np.int32)
    names, starts = tuple(map(str, range(-3, 13))), np.append(0, np.cumsum(counts))
    found = LabelSets("tags", names, starts, labels, np.ones(len(sets), np.bool_))
    samples = data.draw(st.lists(st.integers(0, len(sets) - 1), max_size=30))
    expected = [[label in sets[sample] for label in range(-3, 13)] for sample in samples]
    assert found.targets(np.asarray(samples, np.int64)).tolist() == expected


def test_integers_are_in_the_order_of_their_values(make_dataset: MakeDataset):
    found = read_label_sets(annotated(make_dataset, [[10, 2], [33], 2]), "train", "tags")
    assert found.names == ("2", "10", "33")
    assert sets_of(found) == [{"2", "10"}, {"33"}, {"2"}]


def test_another_split_is_read_by_the_names_of_the_training_split(make_dataset: MakeDataset):
    names = ("ant", "bee", "cat", "dog", "owl")
    found = read_label_sets(annotated(make_dataset, TAGS), "train", "tags", names)
    assert found.names == names
    assert sets_of(found)[6] == {"ant", "owl", "cat"}
    message = r"2 labels in 'tags' that the 2 known ones lack: 'ant', 'owl'; the names are those of the training split"
    with pytest.raises(ValueError, match=message):
        read_label_sets(annotated(make_dataset, TAGS), "train", "tags", ("cat", "dog"))


def test_withdrawn_samples_are_not_read_and_have_no_set(make_dataset: MakeDataset):
    manifest = annotated(make_dataset, [["a"], {"no": "set"}, ["b"]], withdrawn=[1])
    found = read_label_sets(manifest, "train", "tags")
    assert sets_of(found) == [{"a"}, None, {"b"}]


def test_a_run_trains_on_the_samples_that_have_a_set(make_dataset: MakeDataset):
    manifest = annotated(make_dataset, [*TAGS, *TAGS])
    label_sets = read_label_sets(manifest, "train", "tags")
    chosen = choose_samples(manifest, "train", seed=0, label_sets=label_sets)
    assert chosen.training is not None
    assert chosen.training.tolist() == [0, 1, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13]
    assert chosen.subset.startswith("with-tags-")
    assert choose_anew(manifest, "train", chosen.subset, seed=0).tolist() == chosen.training.tolist()  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="several labels have no one class"):
        choose_samples(manifest, "train", seed=0, label_sets=label_sets, balance=1)


def test_where_all_have_a_set_the_whole_split_is_chosen_and_shared_out(make_dataset: MakeDataset):
    manifest = replace(annotated(make_dataset, [["a"], []] * 20), classes=None)
    label_sets = read_label_sets(manifest, "train", "tags")
    assert label_sets.members() == (None, "")
    chosen = choose_samples(manifest, "train", seed=0, label_sets=label_sets, hold_out_share=0.25)
    assert chosen.training is not None
    assert chosen.subset.startswith("hold-out-0.25-")
    assert choose_anew(manifest, "train", chosen.subset, seed=0).tolist() == chosen.training.tolist()  # type: ignore[union-attr]


def test_classes_are_sets_of_one(make_dataset: MakeDataset):
    manifest = make_dataset([12], withdrawn=[3])
    found = read_label_sets(manifest, "train", "cls")
    assert found.names == tuple("0123456789")
    assert sets_of(found) == [{str(number % 10)} if number != 3 else None for number in range(12)]
    assert read_label_sets(manifest, "train", "cls", found.names).names == found.names
    with pytest.raises(ValueError, match="its 10 classes are not the 2 that were trained on"):
        read_label_sets(manifest, "train", "cls", ("0", "1"))


@pytest.mark.parametrize("value", [1.5, [1.5], {"a": 1}, [["a"]], True, [True], ["a", 1], [None]])
def test_what_is_no_set_of_labels_is_told_with_its_sample(make_dataset: MakeDataset, value: Any):
    manifest = annotated(make_dataset, [["a"], value])
    names = manifest.folder / manifest.split("train").shards[0].names
    assert isinstance(names, Path)
    names.write_text("one\ntwo\n")
    with pytest.raises(ValueError, match=r"\[train\]: sample two: the field 'tags' holds .*, expected a list of str"):
        read_label_sets(manifest, "train", "tags")


def test_integers_among_strings_broken_json_and_absent_fields_are_told(make_dataset: MakeDataset):
    with pytest.raises(ValueError, match="holds integers, such as 3, and strings, such as 'a'; expected one kind"):
        read_label_sets(annotated(make_dataset, [["a"], [3]]), "train", "tags")
    with pytest.raises(ValueError, match=r"no sample has the field 'tag' in its \.json; they have: 'tags', 'caption';"):
        read_label_sets(annotated(make_dataset, TAGS), "train", "tag")
    with pytest.raises(ValueError, match=r"no sample has the field 'tag' in its \.json, nor any other; shard a table"):
        read_label_sets(make_dataset([3]), "train", "tag")
    broken = make_dataset([2], annotations=[b"{}", b"{"])
    names = broken.folder / broken.split("train").shards[0].names
    assert isinstance(names, Path)
    names.write_text("one\ntwo\n")
    with pytest.raises(ValueError, match=r"sample two: its \.json is no JSON: Expecting"):
        read_label_sets(broken, "train", "tags")


@pytest.mark.parametrize("where", ["value", "header"])
def test_altered_annotations_are_found_out(make_dataset: MakeDataset, where: str):
    manifest = annotated(make_dataset, TAGS)
    path = manifest.folder / "train-000000.tar"
    assert isinstance(path, Path)
    content = path.read_bytes()
    at = content.index(b"train-000000005.json") if where == "header" else content.index(b'["ant", "owl"') + 3
    path.write_bytes(content[:at] + b"X" + content[at + 1 :])
    with pytest.raises(DatasetError, match=r"shard train-000000\.tar: sample [56], bytes .* its annotations are not"):
        read_label_sets(manifest, "train", "tags")


def test_fields_of_objects():
    content = {"a.b": 1, "a": {"b": 2, "c": {"d": 3}}, "objects": [{"kind": "cat"}, {}, {"kind": "dog"}], "none": None}
    assert find_field(content, "a.b") == 1
    assert find_field(content, "a.c.d") == 3
    assert find_field(content, "objects.kind") == ["cat", "dog"]
    for absent in ("x", "a.x", "a.b.c", "none", "none.x", "objects.kind.x.y"):
        assert find_field(content, absent) in (None, [])


@pytest.mark.parametrize("size", [160, 4])
def test_annotations_are_read_from_a_store_without_images_unless_they_are_small(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch, size: int
):
    local = annotated(make_dataset, TAGS * 40, [140, 140], size=size, array=(3, "uint8"))
    files, asked = fsspec.filesystem("memory"), list[int]()

    class Store:
        async_impl = False

        def info(self, url: str) -> dict[str, Any]:
            return files.info(url)

        def cat_file(self, url: str, start: int, end: int) -> bytes:
            asked.extend([end - start] if url.endswith(".tar") else [])
            return files.cat_file(url, start=start, end=end)

    monkeypatch.setattr("data_pipeline.transfer._file_system", lambda *_: Store())
    assert isinstance(local.folder, Path)
    for path in local.folder.iterdir():
        files.pipe(f"/sets/{path.name}", path.read_bytes())
    found = read_label_sets(replace(local, folder=RemotePath("memory://sets")), "train", "tags")
    files.store.clear()
    assert sets_of(found) == sets_of(read_label_sets(local, "train", "tags"))
    if size == 160:  # 77 kB an image; headers and contents of .cls and .json are two blocks of a tar each
        assert asked == [4 * 512] * 280
    else:
        assert len(asked) < 10  # of several samples each


def test_columns_of_lists_of_a_table_become_label_sets(tmp_path: Path):
    images, tags = [], [["red", "round"], [], None, ["round"]]
    for number in range(4):
        buffer = io.BytesIO()
        Image.new("RGB", (9, 8), (number, 0, 0)).save(buffer, "PNG")
        images.append({"bytes": buffer.getvalue(), "path": None})
    objects = [[{"kind": number, "box": [0.5, 1.5]}] * number for number in range(4)]
    pq.write_table(pa.table({"image": images, "tags": tags, "objects": objects}), tmp_path / "train.parquet")
    out = tmp_path / "data"
    shard_dataset(ShardConfig(source=str(tmp_path / "train.parquet"), out=str(out), workers=1), Console(rank=1))
    manifest = read_manifest(out)
    order = [int(name.rpartition("/")[2]) for name in read_names(manifest, manifest.split("train").shards[0])]
    found = read_label_sets(manifest, "train", "tags")
    assert found.names == ("red", "round")
    assert sets_of(found) == [[{"red", "round"}, set(), None, {"round"}][number] for number in order]
    kinds = read_label_sets(manifest, "train", "objects.kind")
    assert sets_of(kinds) == [{str(number)} if number else set() for number in order]
