"""Whether a pod still lives, for Kubernetes, which kills it otherwise.

What is looked at is the heartbeat that the process holding the run folder's lock renews from a thread of its own,
whatever it does: fetching shards, compiling, running a teacher for an hour. How old metrics.jsonl is tells nothing.
What hangs while its heart beats, such as the wait for a lost peer, the run finds out itself.
"""

import json
import time
from pathlib import Path

from launch.processes import Process


def is_alive(out: Path, watch_seconds: float) -> bool:
    """False only where a process of this container holds the lock of `out` and no heartbeat came for `watch_seconds`.

    Clocks are not compared: that of the file server may differ. True before the run begins and after its end, and in
    pods whose processes do not hold the lock.
    """
    before = _newest_claim(out)
    if before is None or not _is_held_here(before[0]):
        return True
    deadline = time.monotonic() + watch_seconds
    while time.monotonic() < deadline:
        time.sleep(min(1.0, watch_seconds / 10))
        if _newest_claim(out) != before:
            return True
    return False


def _newest_claim(out: Path) -> tuple[Path, int] | None:
    """The file and its heartbeat, in nanoseconds."""
    try:
        path = max(path for path in (out / ".lock").iterdir() if path.stem.isdecimal())
        return path, path.stat().st_mtime_ns
    except (OSError, ValueError):  # none, or taken over just now
        return None


def _is_held_here(path: Path) -> bool:
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):  # being written
        return False
    return not record["released"] and Process(**record["holder"]).is_observable()
