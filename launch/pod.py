"""In a container on Kubernetes: runs a training, and tells whether it lives. launch/jobset.py writes these commands.

python launch/pod.py run --out R -- accelerate launch ... pretrain/mae.py RECIPE --data D --out R
python launch/pod.py probe --out R
"""

import os
import sys
from pathlib import Path

from launch.pod_config import COMMANDS, RunConfig
from launch.settings import parse_command
from launch.training_command import split_command


def main() -> None:
    """Do what the command line says, and exit."""
    assert __doc__ is not None
    options, words = split_command(sys.argv[1:])
    _, config = parse_command(__doc__, COMMANDS, options)
    raise SystemExit(_run(config, words) if isinstance(config, RunConfig) else _probe(config.out, config.watch_seconds))


def _run(config: RunConfig, words: tuple[str, ...]) -> int:
    from launch.pod_run import run_pod

    pod = int(os.environ.get("JOB_COMPLETION_INDEX", "0"))
    if not words:
        print("pod.py run: expected the launcher's command after `--`", file=sys.stderr)
        return 2

    def say(text: str) -> None:
        print(f"pod {pod}: {text}", flush=True)

    try:
        return run_pod(Path(config.out), words, is_first=pod == 0, patience=config.patience_seconds, say=say)
    except FileNotFoundError as error:
        print(f"pod.py run: {words[0]} cannot be started: {error.strerror}", file=sys.stderr)
        return 2


def _probe(out: str, watch_seconds: float) -> int:
    from launch.pod_probe import is_alive

    if is_alive(Path(out), watch_seconds):
        return 0
    print(f"the process of this pod that holds {out} has not renewed its heartbeat for {watch_seconds:g} s")
    return 1


if __name__ == "__main__":
    main()
