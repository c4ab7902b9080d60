"""What a training command's options come to, by the script's own parser, before anything is paid for."""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from launch import settings
from launch.strict_json import to_json

_ROOT = Path(__file__).parents[1]
_PROGRAM = "from launch.parsed_options import tell; tell()"


def parsed_options(script: Path, options: Sequence[str]) -> dict[str, Any]:
    """The resolved config of one of our scripts as plain JSON, in half a second; its messages name the script as given,
    which may be relative to sherd's folder.

    Raises:
        ValueError: what the script would refuse, with its message.
    """
    ended = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(script), *options],
        cwd=_ROOT,
        env={**os.environ, "RANK": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode != 0:
        raise ValueError(ended.stderr.strip() or f"{script} ended with exit code {ended.returncode}")
    try:
        return json.loads(ended.stdout)
    except ValueError as error:
        raise ValueError(f"{script}: asks for help, expected options of a run: give it without a launcher") from error


def tell() -> None:
    """In a process of its own: run the script that the command line names until it has parsed, and print its config."""
    for name in ("parse", "parse_options", "parse_command"):
        setattr(settings, name, _telling(getattr(settings, name)))
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


def _telling(parse: Callable[..., Any]) -> Callable[..., Any]:
    def parse_and_end(*arguments: Any, **named: Any) -> None:
        parsed = parse(*arguments, **named)
        print(json.dumps(to_json(parsed[1] if isinstance(parsed, tuple) else parsed)))
        raise SystemExit(0)

    return parse_and_end
