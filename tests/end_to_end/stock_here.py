"""`subprocess.run` for publishing, without another process: programs given with -c run here, where all is loaded.

What such a program may not import is kept from it all the same.
"""

import contextlib
import io
import os
import subprocess
import sys
import traceback
import warnings
from types import SimpleNamespace
from typing import Any

import pytest


def run(command: list[str], **_: Any) -> "subprocess.CompletedProcess[str]":
    """As `subprocess.run(command, capture_output=True, text=True)` of python -I -c PROGRAM ARGUMENT..."""
    place = command.index("-c")
    program, arguments = command[place + 1], command[place + 2 :]
    printed, complaint, code = io.StringIO(), "", 0
    before = sys.argv, sys.meta_path[:], os.getcwd()
    sys.argv = ["-c", *arguments]
    try:
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(compile(program, "<stock>", "exec"), {"__name__": "__main__"})
    except Exception:  # noqa: BLE001 - as a process of its own would end with it
        complaint, code = traceback.format_exc(), 1
    finally:
        sys.argv, sys.meta_path[:] = before[:2]
        os.chdir(before[2])
    return subprocess.CompletedProcess(command, code, printed.getvalue(), complaint)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put this in the place of the module subprocess where publishing uses it."""
    for module in ("finetune.stock_process", "finetune.snippets"):
        monkeypatch.setattr(f"{module}.subprocess", SimpleNamespace(run=run))
