"""Which process is meant, on which machine, and whether it still lives."""

import dataclasses
import os
import socket
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Process:
    """A process named so that neither a reused pid, a reboot nor a second container is mistaken for it."""

    host: str
    boot_id: str
    """Changes with every start of the machine; "" where the system has none."""
    pid_namespace: str
    """Containers on one machine share its boot id, but number their processes apart; "" where unknown."""
    pid: int
    start: str
    """Clock ticks between the machine's start and the process's; "" where unknown."""

    def is_observable(self) -> bool:
        """Whether this process can tell if that one is alive: same machine, same boot, same numbering."""
        here = this_process()
        return (self.host, self.boot_id, self.pid_namespace) == (here.host, here.boot_id, here.pid_namespace)

    def is_alive(self) -> bool:
        """Only meaningful where `is_observable`. A zombie, which nobody has waited for yet, is dead."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            # It belongs to another user, whose entry in /proc may be hidden.
            pass
        state, start = _state_and_start(self.pid)
        if state in ("Z", "X"):
            return False
        return "" in (start, self.start) or start == self.start

    def describe(self) -> str:
        """For messages: `host node-3, pid 4242`."""
        return f"host {self.host}, pid {self.pid}"


def this_process() -> Process:
    """The calling process."""
    return Process(
        host=socket.gethostname(),
        boot_id=_read("/proc/sys/kernel/random/boot_id"),
        pid_namespace=_namespace(),
        pid=os.getpid(),
        start=_state_and_start(os.getpid())[1],
    )


def _state_and_start(pid: int) -> tuple[str, str]:
    text = _read(f"/proc/{pid}/stat")
    if not text:
        return "", ""
    # The program's name, in brackets, may itself hold spaces and brackets; the state is the first field after it.
    fields = text.rpartition(")")[2].split()
    return fields[0], fields[19]


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
