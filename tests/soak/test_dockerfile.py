"""The RUN lines of launch/Dockerfile, executed without Docker, and what they have made.

The stand-in for the base image is this machine with a fresh Python environment, under a layer that takes all changes:
nothing here changes. A quarter of an hour and gigabytes of temporary files: torch and its CUDA are installed.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "launch/Dockerfile"
pytestmark = pytest.mark.timeout(3600)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PYTHON = "/opt/base-python"
# How this machine reaches its package index is the host's business, as it is that of Docker's.
HOSTS_OWN = re.compile(r"(pip|ssl)_\w+|\w*_proxy|requests_ca_bundle", re.IGNORECASE)
ENTER = """
set -e
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount -t proc proc "$1/root/proc"
mount --rbind /dev "$1/root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$1/root/dev/shm"
mount -t tmpfs tmpfs "$1/root$2"
shift 2
exec chroot "$@"
"""


def _missing() -> str | None:
    if os.geteuid() != 0 or sys.platform != "linux" or shutil.which("unshare") is None:
        return "needs Linux, root and unshare: it mounts a file system"
    if shutil.which("apt-get") is None:
        return "needs Debian: the base image is one"
    asked = [sys.executable, "-m", "pip", "index", "versions", "xxhash"]
    if subprocess.run(asked, check=False, capture_output=True).returncode != 0:
        return "the package index cannot be reached"
    return None


class Image:
    """A file system laid over this machine's, with Docker's instructions done to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("upper", "work", "root"):
            (folder / name).mkdir()
        self.environment = {"PATH": f"{PYTHON}/bin:{PATH}", "HOME": "/root"}
        self.environment |= {name: value for name, value in os.environ.items() if HOSTS_OWN.fullmatch(name)}
        self.workdir = "/"
        self.user = "0:0"
        # A base image has no users of its own. Others than root may not look into its home, where Python may be.
        self.shell("sed -i '/:1[0-9][0-9][0-9]:/d' /etc/passwd /etc/group; chmod o+x /root")
        self.shell(f"{sys.base_prefix}/bin/python3 -m venv {PYTHON}")

    def shell(self, script: str) -> str:
        """Runs a script of bash as the current user in the current folder; returns what it prints."""
        words = [f"{name}={value}" for name, value in self.environment.items()]
        inside = f"cd {shlex.quote(self.workdir)}; {script}"
        enter = ["bash", "-c", ENTER, "enter", str(self.folder), str(ROOT)]
        chroot = [f"--userspec={self.user}", f"{self.folder}/root", "env", "-i", *words]
        finished = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", *enter, *chroot, "bash", "-ec", inside],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert finished.returncode == 0, f"{script}\n{finished.stdout}"
        return finished.stdout

    def copy(self, sources: list[str], destination: str) -> None:
        """As COPY does: files into a folder, of folders what is in them, where .dockerignore lets them through."""
        assert {f"!{source}" for source in sources} <= set((ROOT / ".dockerignore").read_text().splitlines())
        target = self.folder / "upper" / self.workdir.lstrip("/") / destination
        target.mkdir(parents=True, exist_ok=True)
        found = [path for source in sources for path in ROOT.glob(source)]
        assert len(found) >= len([source for source in sources if "*" not in source]), sources
        for path in found:
            if path.is_dir():
                shutil.copytree(path, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, target)


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """(RUN, its script) and the like, in order."""
    lines = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    for line in lines.replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, rest = line.partition(" ")
            yield name, rest.strip()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    if (missing := _missing()) is not None:
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("image")
    try:
        image = Image(folder)
        lines = list(instructions(DOCKERFILE.read_text()))
        (base,) = (place for place, (name, _) in enumerate(lines) if name == "FROM")
        for name, rest in lines[base + 1 :]:
            match name:
                case "CMD":
                    continue
                case "ARG":
                    variable, given, value = rest.partition("=")
                    if given:
                        image.environment.setdefault(variable, value)
                case "WORKDIR":
                    image.workdir = rest
                    image.copy([], ".")
                case "COPY":
                    *sources, destination = rest.split()
                    image.copy(sources, destination)
                case "USER":
                    image.user = rest
                case "RUN":
                    print(image.shell(rest))
                case _:
                    raise AssertionError(f"{name}: this test does not know what Docker does there")
        image.environment["HOME"] = "/home/sherd"
        yield image
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_the_image_trains_as_its_user(image: Image):
    assert image.shell("id --user; id --user --name; touch made || echo sources are safe").splitlines() == [
        "1000",
        "sherd",
        "touch: cannot touch 'made': Permission denied",
        "sources are safe",
    ]
    command = json.loads(dict(instructions(DOCKERFILE.read_text()))["CMD"])
    assert "usage: pretrain/mae.py RECIPE" in image.shell(shlex.join(command))
    sharded = image.shell("python data_pipeline/shard.py --source digits --out ~/digits && ls ~/digits")
    assert "manifest.json" in sharded.split()
    short = "--epochs 1 --optimizer.warmup-epochs 0 --evaluate-epochs 0"
    words = f"pretrain/mae.py digits {short} --data ~/digits --out ~/run"
    said = image.shell(f"python launch/pod.py run --out ~/run -- accelerate launch --cpu --num_processes 1 {words}")
    assert "pod 0: the run is done; exit code 0" in said


def test_the_image_says_what_it_holds(image: Image):
    versions = image.shell("cat versions.txt").splitlines()
    assert {"torch", "s3fs", "gcsfs"} <= {line.partition("==")[0] for line in versions}
    assert "torch.compile" in image.shell(
        "python -c 'import torch; print(torch.compile(lambda x: x + 1)(torch.zeros(2)).tolist(), \"torch.compile\")'"
    )
