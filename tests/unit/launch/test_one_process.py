"""What is said where accelerate was asked for several processes and has started one.

The command that a warning gives is parsed by accelerate itself: it must start as many as were asked for.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from accelerate.commands.config import config_args
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from launch.one_process import one_process_warning

ROOT = Path(__file__).parents[3]
ALONE = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "False", "HF_HOME": "/cache"}
ON_CPU = {**ALONE, "ACCELERATE_USE_CPU": "True"}
ACCELERATE = ["/venv/bin/python3", "/venv/bin/accelerate", "launch"]
SCRIPT = ["pretrain/mae.py", "digits", "--data", "my data"]
DEFAULT = "/cache/accelerate/default_config.yaml"
SEVERAL_CPUS = "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_CPU\nnum_processes: 4\nuse_cpu: true\n"
HINT = "   (each takes a GPU where there are any)"


def warning_of(
    *options: str,
    environment: Mapping[str, str] = ALONE,
    files: Mapping[str, str] | None = None,
    launcher: list[str] = ACCELERATE,
) -> str | None:
    texts = files or {}
    script = ["/venv/bin/python3", *SCRIPT]
    return one_process_warning([*launcher, *options, *SCRIPT], script, environment, lambda path: texts.get(str(path)))


def advised(warning: str | None) -> list[str]:
    """The words of the command that a warning gives."""
    assert warning is not None
    assert "\n" not in warning
    return shlex.split(warning.rpartition(": ")[2].removesuffix(HINT))


def test_cpu_starts_one() -> None:
    warning = warning_of("--cpu", "--num_processes", "2", environment=ON_CPU)
    assert warning == (
        "warning: accelerate launch was asked for 2 processes (--num_processes 2) and has started this one, which "
        "trains alone: with --cpu it starts no more. What starts 2: ACCELERATE_USE_CPU=true accelerate launch "
        "--multi_gpu --num_processes 2 pretrain/mae.py digits --data 'my data'"
    )


def test_without_multi_gpu_it_starts_one() -> None:
    warning = warning_of("--num-processes=3", "--main_process_port", "0")
    assert warning is not None
    assert "asked for 3 processes (--num_processes 3)" in warning
    assert "without --multi_gpu it starts no more" in warning
    assert warning.endswith(HINT)
    assert advised(warning)[:4] == ["accelerate", "launch", "--multi_gpu", "--num-processes=3"]


def test_the_last_of_an_option_counts() -> None:
    assert "asked for 4 " in str(warning_of("--num_processes", "2", "--num-processes", "4"))
    assert warning_of("--num_processes", "2", "--num-processes", "1") is None


@pytest.mark.parametrize("options", [(), ("--config_file", "my.yaml")], ids=["default", "given"])
def test_a_config_file_of_several_cpus_starts_one(options: tuple[str, ...]) -> None:
    """What `accelerate config` writes for several processes on CPUs."""
    path = options[1] if options else DEFAULT
    warning = warning_of(*options, environment=ON_CPU, files={path: SEVERAL_CPUS})
    assert f"asked for 4 processes (num_processes in {path})" in str(warning)
    assert advised(warning) == [
        *["ACCELERATE_USE_CPU=true", "accelerate", "launch", "--multi_gpu", *options],
        *SCRIPT,
    ]


def test_json_is_read_where_there_is_no_yaml() -> None:
    path = "/cache/accelerate/default_config.json"
    json = '{"distributed_type": "NO", "num_processes": 2}'
    assert f"num_processes in {path})" in str(warning_of(files={path: json}))
    assert warning_of(files={DEFAULT: "distributed_type: NO\n", path: json}) is None


def test_the_default_file_is_where_accelerate_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nobody looks there with --cpu, as accelerate does not."""
    here = {name: value for name, value in os.environ.items() if name in ("HF_HOME", "XDG_CACHE_HOME")}
    looked: list[str] = []

    def read(path: Path) -> None:
        looked.append(str(path))

    words = [*ACCELERATE, "x.py"]
    one_process_warning(words, ["python", "x.py"], {"ACCELERATE_MIXED_PRECISION": "no", **here}, read)
    assert config_args.default_yaml_config_file in looked
    looked.clear()
    one_process_warning([*ACCELERATE, "--cpu", "x.py"], ["python", "x.py"], ALONE, read)
    assert looked == []


def test_cpu_undoes_a_config_file_of_several() -> None:
    """Then to leave --cpu out is enough; the kind of the file stays, such as FSDP."""
    several = "distributed_type: FSDP\nnum_processes: 2\n"
    warning = warning_of("--cpu", "--config_file=f.yaml", environment=ON_CPU, files={"f.yaml": several})
    assert advised(warning) == ["ACCELERATE_USE_CPU=true", "accelerate", "launch", "--config_file=f.yaml", *SCRIPT]


@pytest.mark.parametrize(
    ("options", "environment"),
    [
        ((), ALONE),
        (("--cpu",), ON_CPU),
        (("--cpu", "--num_processes", "1"), ON_CPU),
        (("--multi_gpu", "--num_processes", "2"), {**ALONE, "WORLD_SIZE": "2"}),
        (("--cpu", "--num_processes", "2"), {**ON_CPU, "OMPI_COMM_WORLD_SIZE": "2"}),
        (("--cpu", "--num_processes", "2"), {}),
    ],
    ids=["plain", "one CPU", "one", "torchrun", "MPI", "not of accelerate"],
)
def test_silence_where_all_is_well(options: tuple[str, ...], environment: Mapping[str, str]) -> None:
    assert warning_of(*options, environment=environment) is None


def test_options_of_the_script_are_not_the_launchers() -> None:
    words = ["tool.py", "--num_processes", "2"]
    assert one_process_warning([*ACCELERATE, *words], ["python", *words], ALONE, lambda _: None) is None


@pytest.mark.parametrize(
    "launcher",
    [["bash"], ["/venv/bin/python3", "/venv/bin/accelerate", "test"], []],
    ids=["a shell", "another command", "unknown"],
)
def test_silence_under_other_parents(launcher: list[str]) -> None:
    assert warning_of("--cpu", "--num_processes", "2", launcher=launcher) is None
    other = ["python", "somebody", "else.py"]
    assert one_process_warning([*ACCELERATE, "--num_processes", "2", *SCRIPT], other, ALONE, lambda _: None) is None


@pytest.mark.parametrize(
    "launcher",
    [
        ["python", "/venv/bin/accelerate-launch"],
        ["python", "-m", "accelerate.commands.launch"],
        ["python", "-m", "accelerate.commands.accelerate_cli", "launch"],
    ],
    ids=lambda words: words[1],
)
def test_other_names_of_the_launcher(launcher: list[str]) -> None:
    assert "asked for 2 processes" in str(warning_of("--cpu", "--num_processes", "2", launcher=launcher))


def test_modules() -> None:
    words = [*ACCELERATE, "--num_processes", "2", "--module", "pretrain.mae", "digits"]
    warning = one_process_warning(words, ["python", "-m", "pretrain.mae", "digits"], ALONE, lambda _: None)
    assert advised(warning)[-3:] == ["--module", "pretrain.mae", "digits"]


def test_damaged_config_files_are_passed_over() -> None:
    for text in ("{", "- a list", "", "num_processes: [2]"):
        assert warning_of(files={DEFAULT: text}) is None


def test_credentials_are_not_shown() -> None:
    words = ["pretrain/mae.py", "--data", "https://me:secret@store/data"]
    launcher = [*ACCELERATE, "--cpu", "--num_processes", "2", *words]
    warning = one_process_warning(launcher, ["python", *words], ON_CPU, lambda _: None)
    assert "secret" not in str(warning)
    assert "store/data" in str(warning)


@pytest.mark.parametrize(
    "options",
    [("--cpu", "--num_processes", "2"), ("--cpu", "--num-processes=3", "--main_process_port", "29511")],
    ids=["two", "three"],
)
def test_accelerate_would_start_several_by_the_advice(options: tuple[str, ...]) -> None:
    words = advised(warning_of(*options, environment=ON_CPU))
    assert words[:3] == ["ACCELERATE_USE_CPU=true", "accelerate", "launch"]
    more = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]  # or it tells of its defaults
    asked, _, _ = _validate_launch_command(launch_command_parser().parse_args([*more, *words[3:]]))
    assert (asked.multi_gpu, asked.cpu) == (True, False)
    assert asked.num_processes == int(options[1][-1] if "=" in options[1] else options[2])
    assert [asked.training_script, *asked.training_script_args] == SCRIPT


# Starts its arguments as accelerate's simple launcher does.
LAUNCHER = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, *sys.argv[4:]]).returncode)"
CALLER = "from launch.one_process import warn_of_one_process; warn_of_one_process()"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_parents_command_line_is_read(tmp_path: Path) -> None:
    launcher, script = tmp_path / "accelerate", tmp_path / "train.py"
    launcher.write_text(LAUNCHER)
    script.write_text(CALLER)
    command = [sys.executable, str(launcher), "launch", "--cpu", "--num_processes=2", str(script), "digits"]
    environment = {**os.environ, **ON_CPU}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.startswith("warning: accelerate launch was asked for 2 processes (--num_processes 2)")
    assert done.stderr.endswith(f"--multi_gpu --num_processes=2 {script} digits\n")
    assert done.stdout == ""
    environment.pop("ACCELERATE_MIXED_PRECISION")
    silent = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert silent.stderr == ""


def test_every_script_that_a_launcher_starts_asks() -> None:
    called = {
        str(path.relative_to(ROOT)): "\n    warn_of_one_process()\n" in path.read_text()
        for package in ("pretrain", "finetune")
        for path in (ROOT / package).glob("*.py")
        if "\n    end_with_launcher()\n" in path.read_text()
    }
    assert {"pretrain/mae.py", "finetune/classify.py"} <= called.keys()
    assert [script for script, asks in called.items() if not asks] == []
