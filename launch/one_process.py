"""An `accelerate launch` that was asked for several processes and has quietly started one.

It starts several only through its launcher "of several GPUs", on CPUs as well; with --cpu, or with a config file that
says distributed_type NO or MULTI_CPU, it ignores --num_processes.
"""

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from launch.redaction import redact

# accelerate's "simple" launcher sets the first one, too; who meets over MPI is not alone.
_LAUNCHED = "ACCELERATE_MIXED_PRECISION"
_WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_OF_ONE = ("NO", "MULTI_CPU")


def warn_of_one_process() -> None:
    """Call it first in a training script: warns on stderr where its launcher was asked for more than this one process.

    Silent where the system does not show the command lines of other processes, as /proc does.
    """
    try:
        launcher = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return
    warning = one_process_warning(launcher, sys.orig_argv, os.environ, _read)
    if warning is not None:
        print(warning, file=sys.stderr, flush=True)


def one_process_warning(
    launcher: Sequence[str],
    script: Sequence[str],
    environment: Mapping[str, str],
    read: Callable[[Path], str | None],
) -> str | None:
    """What to tell the user, with the line that starts as many processes as were asked for; None where all is well.

    launcher, script: the command lines of the parent process and of this one, each with its interpreter. read: gives
    the text of accelerate's config file, None where there is none.
    """
    if _LAUNCHED not in environment or any(environment.get(name, "1") != "1" for name in _WORLD_SIZES):
        return None
    own = list(script[2:] if script[1:2] == ["-m"] else script[1:])
    options = _launch_options(launcher, own)
    if options is None:
        return None
    config = _config(options, environment, read)
    given = _value(options, "num_processes")
    asked = str(config.settings.get("num_processes", 1) if given is None else given)
    if not asked.isdecimal() or int(asked) < 2:
        return None
    source = f"num_processes in {config.path}" if given is None else f"--num_processes {asked}"
    told_cpu = "--cpu" in options
    reason = "with --cpu it starts no more" if told_cpu else "without --multi_gpu it starts no more"
    several = [word for word in options if word != "--cpu"]
    if config.settings.get("distributed_type", "NO") in _OF_ONE:
        several = ["--multi_gpu", *several]
    line = shlex.join(["accelerate", "launch", *several, *(redact(word) for word in own)])
    if environment.get("ACCELERATE_USE_CPU", "").lower() == "true":
        line = f"ACCELERATE_USE_CPU=true {line}"
    else:
        line += "   (each takes a GPU where there are any)"
    return (
        f"warning: accelerate launch was asked for {asked} processes ({source}) and has started this one, which trains "
        f"alone: {reason}. What starts {asked}: {line}"
    )


class _Config(NamedTuple):
    path: Path | None
    settings: Mapping[str, Any]


def _config(options: list[str], environment: Mapping[str, str], read: Callable[[Path], str | None]) -> _Config:
    """The config file that accelerate has read: the one it was given or, except with --cpu, the user's default."""
    given = _value(options, "config_file")
    if given is not None:
        paths = [Path(given)]
    elif "--cpu" in options:
        paths = []
    else:
        caches = environment.get("XDG_CACHE_HOME", "~/.cache")
        folder = Path(environment.get("HF_HOME", f"{caches}/huggingface")).expanduser() / "accelerate"
        paths = [folder / "default_config.yaml", folder / "default_config.json"]
    for path in paths:
        text = read(path)
        if text is not None:
            return _Config(path, _settings(text))
    return _Config(None, {})


def _settings(text: str) -> Mapping[str, Any]:
    import yaml  # of which JSON is a part

    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError:
        return {}  # accelerate could read it: it has changed since
    return settings if isinstance(settings, dict) else {}


def _launch_options(launcher: Sequence[str], own: Sequence[str]) -> list[str] | None:
    """accelerate's own options; None where this is not `accelerate launch OPTIONS` with our command line behind."""
    end = len(launcher) - len(own)
    if not own or list(launcher[max(end, 0) :]) != list(own):
        return None
    for index, word in enumerate(launcher[:end]):
        name = Path(word).name
        if name in ("accelerate", "accelerate.commands.accelerate_cli") and launcher[index + 1] == "launch":
            return list(launcher[index + 2 : end])
        if name in ("accelerate-launch", "accelerate.commands.launch"):
            return list(launcher[index + 1 : end])
    return None


def _value(options: Sequence[str], name: str) -> str | None:
    """Of an option that may be written with - or _, with = or a space; the last one counts."""
    value = None
    for word, following in zip(options, [*options, ""][1:], strict=True):
        option, equals, behind = word.partition("=")
        if option.replace("-", "_") == f"__{name}":
            value = behind if equals else following
    return value


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
