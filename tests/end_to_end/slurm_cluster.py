"""A real Slurm cluster on this machine: a controller and two nodes, one process each, on free ports of their own.

Test files cannot import this under pytest's importlib mode: load it by its path.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

INSTALL = "apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge"
_NEEDED = ("slurmctld", "slurmd", "sbatch", "srun", "munged")
_SETTINGS = """
ClusterName=sherd
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/%n
SlurmctldPort={controller}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PropagateResourceLimits=NONE
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,sched_interval=2
SlurmctldHost={host}(127.0.0.1)
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=4 RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=4 RealMemory=4000
PartitionName=low Nodes=n1,n2 Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=high Nodes=n1,n2 PriorityTier=10 PreemptMode=OFF
"""


def missing() -> str | None:
    """What keeps a cluster from being started here, with what would help; None if nothing does."""
    absent = [name for name in _NEEDED if _find(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed: {INSTALL}"
    return None if os.getuid() == 0 else "munged and slurmd are started as root here"


def install() -> str | None:
    """Install Slurm where it is absent; what keeps a cluster from being started all the same, None if nothing does."""
    if missing() is None or os.getuid() != 0 or shutil.which("apt-get") is None:
        return missing()
    for words in (["apt-get", "update"], INSTALL.split()):
        ended = subprocess.run(
            words, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, capture_output=True, text=True, check=False
        )
        if ended.returncode != 0:
            complaint = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
            return f"{missing()}, which failed: {complaint}"
    return missing()


class SlurmCluster:
    """Use it in a `with`: commands given `environment` then speak to this cluster and to no other."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sherd-slurm-", dir="/tmp"))
        self.folder.chmod(0o755)  # munge insists that everyone can reach its socket
        self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "SlurmCluster":
        folder, ports = self.folder, _free_ports(3)
        (folder / "state").mkdir()
        (folder / "slurm.conf").write_text(
            _SETTINGS.format(
                folder=folder,
                user="root",
                host=socket.gethostname().split(".")[0],
                **dict(zip(("controller", "first", "second"), ports, strict=True)),
            )
        )
        try:
            self._start_munge()
            self.controller = self._start("slurmctld", "-D", "-c")
            self.start_node("n1")
            self.start_node("n2")
            self.wait_until(lambda: self.ask("sinfo", "-h", "-o", "%D %t", "-p", "low").strip() == "2 idle")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def restart_controller(self, seconds_without: float) -> None:
        """End the controller as for maintenance; after some seconds another goes on from its state."""
        self.controller.terminate()
        self.controller.wait(20)
        time.sleep(seconds_without)
        self.controller = self._start("slurmctld", "-D")

    def start_node(self, name: str) -> "subprocess.Popen[bytes]":
        """Another slurmd, for the node of this name."""
        return self._start("slurmd", "-D", "-N", name)

    def ask(self, *words: str) -> str:
        """What a Slurm command prints; AssertionError with its complaint where it fails."""
        answer = subprocess.run(words, env=os.environ | self.environment, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, f"{words}: {answer.stderr}\n{self.logs()}"
        return answer.stdout

    def jobs(self) -> list[str]:
        """State and id of every job that is not over, such as `RUNNING 7_2`."""
        return sorted(self.ask("squeue", "-h", "-r", "-o", "%T %i").splitlines())

    def show(self, job: str) -> str:
        """Everything that Slurm knows of a job, in a line."""
        return self.ask("scontrol", "show", "job", "--oneliner", job)

    def hurry(self, job: str) -> None:
        """Start a job now that was queued again: Slurm lets it wait for two minutes. Nothing where it runs already."""
        with contextlib.suppress(AssertionError):
            self.ask("scontrol", "update", f"JobId={job}", "StartTime=now")

    def wait_for_nodes(self) -> None:
        """Return when both are there and idle; one that is down is brought back."""

        def are_idle() -> bool:
            states = dict(
                line.split() for line in self.ask("sinfo", "-h", "-N", "-p", "low", "-o", "%N %t").splitlines()
            )
            for node, state in states.items():
                if state.startswith("down"):
                    self.ask("scontrol", "update", f"nodename={node}", "state=resume")
            return set(states.values()) == {"idle"}

        self.wait_until(are_idle, 60)

    def logs(self) -> str:
        """The last lines of every daemon's log."""
        tails = []
        for log in sorted(self.folder.glob("*.log")):
            tails.append(f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:]))
        return "\n".join(tails)

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        files = {"socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.txt", "seed-file": "munge.seed"}
        places = [f"--{option}={self.folder / name}" for option, name in files.items()]
        # --force: /tmp is for everyone to write, which munge would refuse.
        self._start("munged", "--foreground", "--force", f"--key-file={key}", *places)
        self.wait_until((self.folder / "munge.socket").exists)

    def _start(self, name: str, *options: str) -> "subprocess.Popen[bytes]":
        program = _find(name)
        assert program is not None
        with open(self.folder / f"{name}{len(self._daemons)}.log", "wb") as log:
            daemon = subprocess.Popen(
                [program, *options], env=os.environ | self.environment, stdout=log, stderr=log, start_new_session=True
            )
        self._daemons.append(daemon)
        return daemon

    def wait_until(self, is_reached: Callable[[], bool], seconds: float = 20) -> None:
        """Return as soon as the condition holds; AssertionError with the daemons' logs where it never does."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if is_reached():
                    return
            except AssertionError:  # the controller does not answer yet
                if time.monotonic() > deadline:
                    raise
            assert time.monotonic() < deadline, f"not reached in {seconds:g} s\n{self.logs()}"
            time.sleep(0.05)


def _find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _free_ports(count: int) -> list[int]:
    listeners = [socket.socket() for _ in range(count)]
    try:
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()
