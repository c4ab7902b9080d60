"""Shards kept by column are the shards, and their text is what json.dumps writes."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import shard_table
from data_pipeline.shard_table import Shard, ShardTable, sorted_text

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)
SHARDS = st.builds(
    Shard, st.text(), st.integers(1), st.integers(1), st.text(), st.text(), st.text(), st.integers(-1, 2**40)
)
# As in a manifest that was damaged, or written by who knows what.
ODD_SHARDS = st.fixed_dictionaries(
    {name: st.one_of(st.integers(), st.text(), VALUES) for name in Shard.__dataclass_fields__}
)


def text_of(value: Any) -> str:
    return "".join(sorted_text(value))


@settings(max_examples=150)
@given(VALUES | st.lists(ODD_SHARDS, max_size=9) | st.dictionaries(st.text(), st.lists(ODD_SHARDS, max_size=9)))
def test_the_text_is_that_of_json_dumps(value: Any):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_table, "_AT_ONCE", 2)
        assert text_of(value) == json.dumps(value, sort_keys=True)


@settings(max_examples=100)
@given(st.lists(SHARDS, max_size=9))
def test_a_table_is_its_shards(shards: list[Shard]):
    table = ShardTable.of(shards)
    assert ShardTable.of(table) is table
    assert list(table) == shards == [table[number] for number in range(len(table))]
    assert table == tuple(shards)
    assert tuple(shards) == table
    assert hash(table) == hash(tuple(shards))
    assert repr(table) == repr(tuple(shards))
    assert table[1:] == tuple(shards[1:])
    assert table != tuple(shards)[:-1] or not shards
    listed = table.to_json()
    assert ShardTable.from_json(json.loads(json.dumps(listed))) == table


def test_columns():
    table = ShardTable.of(
        [Shard("a.tar", 3, 700, "aa", "a.npy", "bb", 0), Shard("b.tar", 2, 600, "cc", "b.npy", "dd", 3)]
    )
    assert table.samples.tolist() == [3, 2]
    assert table.bytes.tolist() == [700, 600]
    assert table.column("sha256") == ["aa", "cc"]
    assert table[-1].names == "b.txt"
    with pytest.raises(IndexError):
        table[2]


def test_a_manifest_of_before_first_was_written_is_read():
    old = [{"file": "a.tar", "samples": 3, "bytes": 7, "sha256": "a", "index": "a.npy", "index_sha256": "b"}]
    assert list(ShardTable.from_json(old)) == [Shard("a.tar", 3, 7, "a", "a.npy", "b", -1)]
    assert text_of(old) == json.dumps(old, sort_keys=True)


@pytest.mark.parametrize("wrong", [None, 5, "shards", [None], [5], [{"file": "a.tar"}], [{"files": 1, "a": 2}]])
def test_what_are_no_shards_is_refused(wrong: Any):
    with pytest.raises((LookupError, TypeError, AttributeError)):
        ShardTable.from_json(wrong)
