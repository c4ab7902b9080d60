"""Two hosts on this machine: network namespaces with names of their own, joined by one link that can be cut.

Test files cannot import this under pytest's importlib mode: load it by its path.
"""

import os
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

_NEEDED = ("ip", "unshare", "mount", "hostname")
# What a host has to itself beside its network: its name, and what it calls the others.
_BECOME = 'hostname "$0" && mount --bind "$1" /etc/hosts && shift && exec "$@"'


def missing() -> str | None:
    """What keeps such hosts from being made here, with what would help; None if nothing does."""
    absent = [name for name in _NEEDED if _find(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed: apt-get install -y --no-install-recommends iproute2 util-linux"
    if os.getuid() != 0:
        return "network namespaces are made as root here"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--uts", "true"], capture_output=True, text=True, check=False
    )
    return None if tried.returncode == 0 else f"namespaces are not allowed here: {tried.stderr.strip()}"


class TwoHosts:
    """Hosts 0 and 1, called `names`, at `addresses`; they share all files but /etc/hosts. Use it in a `with`."""

    names = ("sherd-h0", "sherd-h1")
    addresses = ("10.77.0.1", "10.77.0.2")

    def __init__(self) -> None:
        mark = secrets.token_hex(4)
        self._spaces = [f"sherd-{mark}-{host}" for host in range(2)]
        self._folder = Path(tempfile.mkdtemp(prefix="sherd-hosts-"))
        self._hosts = self._folder / "hosts"

    def __enter__(self) -> "TwoHosts":
        lines = ["127.0.0.1 localhost", *map(" ".join, zip(self.addresses, self.names, strict=True))]
        self._hosts.write_text("\n".join(lines) + "\n")
        try:
            for space in self._spaces:
                _ip("netns", "add", space)
            first, second = self._spaces
            _ip("link", "add", "eth0", "netns", first, "type", "veth", "peer", "name", "eth0", "netns", second)
            for space, address in zip(self._spaces, self.addresses, strict=True):
                _ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
                _ip("-n", space, "link", "set", "lo", "up")
                _ip("-n", space, "link", "set", "eth0", "up")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for space in self._spaces:
            subprocess.run(["ip", "netns", "delete", space], capture_output=True, check=False)
        shutil.rmtree(self._folder, ignore_errors=True)

    def on(self, host: int, words: list[str]) -> list[str]:
        """A command as it is run on a host; what it starts is there as well."""
        become = ["unshare", "--mount", "--uts", "--propagation", "private", "sh", "-c", _BECOME]
        return ["ip", "netns", "exec", self._spaces[host], *become, self.names[host], str(self._hosts), *words]

    def cut(self) -> None:
        """Let nothing through between the hosts, which neither is told."""
        _ip("-n", self._spaces[1], "link", "set", "eth0", "down")

    def join(self) -> None:
        """Mend what was cut."""
        _ip("-n", self._spaces[1], "link", "set", "eth0", "up")


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


def _find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
