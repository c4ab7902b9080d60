import json
from pathlib import Path

import pytest

from launch.run_folder import RunFolder
from pretrain.roll_call import RankFailedError, RankLostError
from pretrain.session import complain, explained, record_failure


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (RankLostError("rank 1 has ended"), "lost"),
        (RankFailedError("rank 1 has failed: no such shard"), "error"),
        (ValueError("no such shard"), "error"),
        (KeyboardInterrupt(), "error"),
    ],
)
def test_wrappers_can_tell_a_lost_process_from_an_error(tmp_path: Path, error: BaseException, cause: str) -> None:
    record_failure(RunFolder(tmp_path), error)
    left = json.loads((tmp_path / "exit.json").read_text())
    assert (left["status"], left["cause"], left["error"]) == ("failed", cause, str(error))
    assert left["traceback"].startswith(("pretrain.roll_call.Rank", "ValueError", "KeyboardInterrupt"))


def test_the_rank_is_named_where_there_are_several(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["/x/mae.py"])
    complain("one")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(SystemExit), explained():
        raise RankFailedError("rank 1 has failed")
    assert capsys.readouterr().err == "mae.py: one\nmae.py: rank 3: rank 1 has failed\n"
