import re
from typing import Any

import pytest

from launch.slurm_config import SlurmJobConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": 0}, "--nodes 0: expected at least 1"),
        ({"gpus": -1}, "--gpus -1: expected at least 0"),
        ({"most_vain_starts": 0}, "--most-vain-starts 0: expected at least 1"),
        ({"gpus": 8, "cpus": 7}, "--cpus 7: expected at least 8, one for each process of a node"),
        ({"minutes": 6}, "--minutes 6: the run is asked to save 300 s before they are over"),
        ({"seeds": (1, 1)}, "--seeds 1 1: expected different numbers from 0 on"),
        ({"seeds": (-1,)}, "--seeds -1: expected different numbers from 0 on"),
        ({"extra": ("--exclusive",)}, "--extra --exclusive: leave out its dashes"),
        ({"extra": ("exclusive", "signal=TERM@9")}, "--extra signal=TERM@9: the batch script sets it"),
        ({"mounts": ("/scratch",)}, "--mounts /scratch: there is no --container to mount them in"),
        ({"follow_run": "R", "dry_run": True}, "--follow-run submits nothing, and so has no --dry-run"),
    ],
)
def test_what_slurm_could_not_do_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        SlurmJobConfig(**options)


def test_processes() -> None:
    assert SlurmJobConfig(nodes=3, gpus=8).processes == 24
    assert SlurmJobConfig(nodes=3, gpus=0).processes == 3
    assert SlurmJobConfig(minutes=2, notice_seconds=59).minutes == 2
