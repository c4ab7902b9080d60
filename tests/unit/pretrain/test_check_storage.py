"""What a run needs of the file system that its folder is on: tried in a folder, and judged by fixed values."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from pretrain.check_storage import (
    FileSystem,
    Seen,
    claim,
    existing_ancestor,
    explain,
    judge_file_system,
    judge_saving,
    judge_sharing,
    judge_space,
    probe_folder,
    try_file_system,
    try_together,
)
from pretrain.world import World

GOOD = FileSystem(replaces=True, is_exclusive=True, renews=True, clock=0.0, write_rate=1e9, free=10**12)


def test_a_folder_is_tried_and_left_as_it_was(tmp_path: Path):
    with probe_folder(tmp_path / "runs" / "mine") as folder:
        assert folder.parent == tmp_path
        found = try_file_system(folder, most_bytes=1000)
        assert (found.replaces, found.is_exclusive, found.renews) == (True, True, True)
        assert abs(found.clock) < 5
        assert found.write_rate > 0
        assert [one.has_won for one in try_together(World("fp32"), folder)] == [True]
        assert try_together(World("fp32"), folder / "absent")[0].is_there is False
    assert list(tmp_path.iterdir()) == []
    assert judge_file_system(found, tmp_path).verdict == "ok"


def test_the_run_folder_itself_is_tried_where_it_is_there(tmp_path: Path):
    assert existing_ancestor(tmp_path / "a" / "b") == tmp_path
    (tmp_path / "a").mkdir()
    assert existing_ancestor(tmp_path / "a" / "b") == tmp_path / "a"


def test_only_one_claim_succeeds(tmp_path: Path):
    assert [claim(tmp_path), claim(tmp_path)] == [True, False]


@pytest.mark.parametrize(
    ("field", "lack"),
    [
        ("replaces", "a rename over a file"),
        ("is_exclusive", "files that only one process can make (O_EXCL)"),
        ("renews", "times of change that move on"),
    ],
)
def test_what_a_file_system_lacks(field: str, lack: str):
    found = judge_file_system(replace(GOOD, **{field: False}), Path("/mnt/bucket"))
    assert (found.verdict, found.measured) == ("problem", f"/mnt/bucket has not: {lack}")
    assert found.fix == "--out on a local disk, NFS 4, Lustre or the like, and not on a mounted object store"


def test_a_folder_that_not_all_hosts_see():
    assert judge_sharing([Seen("a", True, True), Seen("b", True, False)]).verdict == "ok"
    found = judge_sharing([Seen("a", True, True), Seen("b", False, False)])
    assert (found.verdict, found.measured) == ("problem", "b does not see what rank 0 writes")
    found = judge_sharing([Seen("a", True, True), Seen("b", True, True)])
    assert (found.verdict, found.measured) == ("problem", "2 processes made the same file (O_EXCL)")


def test_space_for_checkpoints():
    here = Path("/data")
    assert judge_space(60, 10, 3, here, chosen=False).verdict == "ok"
    found = judge_space(49, 10, 3, here, chosen=False)
    assert (found.verdict, found.measured) == ("problem", "49 bytes free at /data")
    assert found.needed == "50 bytes: 4 checkpoints of 10 bytes, and the trained model"
    assert judge_space(60, 10, 3, here, chosen=True).verdict == "problem"  # the best ones stay as well
    assert "--keep-checkpoints" not in judge_space(0, 10, 1, here, chosen=False).fix


def test_checkpoints_that_take_as_long_as_the_steps_between_them():
    assert judge_saving(1e9, 10**9, 60.0).verdict == "ok"
    found = judge_saving(1e8, 7_600_000_000, 100.0)
    assert (found.verdict, found.measured) == ("warning", "7.6 GB in 76.00 s at 100 MB/s, synced")
    assert found.needed == "one every 100.0 s"


def test_where_nothing_can_be_written():
    found = explain(OSError(errno.EROFS, "Read-only file system"), Path("/proc/run"))
    assert found.measured == "cannot write in /proc: Read-only file system"
    assert found.fix == "--out on a file system that is not mounted read-only"
    assert explain(OSError(errno.EACCES, "Permission denied"), Path("/proc/run")).fix.endswith("chmod u+w /proc")
