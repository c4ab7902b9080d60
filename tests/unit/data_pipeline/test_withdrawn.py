"""Finding samples by their keys: in tars of ours by number, in those of others by name."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.manifest import DatasetError, Manifest, Split, read_manifest, write_manifest
from data_pipeline.withdrawn import find_keys, read_keys, without_withdrawn

MakeDataset = Callable[..., Manifest]


def numbered(manifest: Manifest, firsts: list[int]) -> Manifest:
    """The same dataset as one of ours, whose keys count from `firsts`: indexes tell each row's number."""
    split = manifest.split("train")
    shards = []
    for shard, first in zip(split.shards, firsts, strict=True):
        path = manifest.folder / shard.index
        assert isinstance(path, Path)
        index = np.load(path)
        index["place"] = first + 2 * np.arange(len(index))  # every other number was left out
        np.save(path, index)
        shards.append(replace(shard, first=first, index_sha256=hashlib.sha256(path.read_bytes()).hexdigest()))
    return replace(manifest, splits={"train": replace(split, shards=tuple(shards))})


def test_keys_of_ours_are_found_by_their_numbers(make_dataset: MakeDataset):
    manifest = numbered(make_dataset([3, 2, 4]), [0, 10, 20])
    keys = ["train-000000000", "train-000000004", "train-000000012", "train-000000020", "train-000000026"]
    assert find_keys(manifest, keys) == {"train": [0, 2, 4, 5, 8]}
    with pytest.raises(ValueError, match="no sample has the key train-000000003; expected keys as the tars' members"):
        find_keys(manifest, ["train-000000003"])  # between two
    with pytest.raises(ValueError, match=r"no sample has the key other-000000000, train-000000014, train-1;"):
        find_keys(manifest, ["train-000000014", "other-000000000", "train-1"])


def test_keys_of_others_are_found_by_their_names(make_dataset: MakeDataset):
    manifest = make_dataset([2, 2])
    lists = [Path(str(manifest.folder / shard.names)) for shard in manifest.split("train").shards]
    for number, path in enumerate(lists):
        path.write_text(f"a/{number}\nb/{number}\n")
    assert find_keys(manifest, ["b/1", "a/0"]) == {"train": [0, 3]}
    assert find_keys(manifest, []) == {}
    lists[1].unlink()
    with pytest.raises(DatasetError, match=r"names train-000001\.txt: missing"):
        find_keys(manifest, ["b/1"])


def test_a_dataset_without_a_list_is_the_same_and_one_with_it_counts_less(make_dataset: MakeDataset):
    manifest = numbered(make_dataset([3, 2]), [0, 10])
    folder = manifest.folder
    assert isinstance(folder, Path)
    write_manifest(manifest)
    assert without_withdrawn(manifest) is manifest
    (folder / "withdrawn.txt").write_text("train-000000002 # asked for\n\n# nothing\ntrain-000000010\n")
    split = read_manifest(folder).split("train")
    assert (split.withdrawn, split.present) == ((1, 3), 3)
    assert read_manifest(folder, withdraw=False).split("train").withdrawn == ()
    (folder / "withdrawn.txt").write_text("".join(f"train-{number:09d}\n" for number in (0, 2, 4, 10, 12)))
    with pytest.raises(ValueError, match="withdraws every sample of split train; leave some"):
        read_manifest(folder)


def test_keys_are_listed_once_without_comments():
    assert read_keys("b # why\n\n  a\n#c\nb\n") == ["a", "b"]


def test_a_split_of_no_shards_has_no_keys(make_dataset: MakeDataset):
    manifest = numbered(make_dataset([2]), [0])
    with_none = replace(manifest, splits={"none": Split("png", ()), **manifest.splits})
    assert find_keys(with_none, ["train-000000002"]) == {"train": [1]}
