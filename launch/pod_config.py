"""The options of `pod.py`: frozen, and free of heavy imports."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RunConfig:
    """Run the launcher after `--` and end with a code that says whether to start again: 0, 75 (go on) or 1 (failed)."""

    out: str
    """Run folder of the command."""
    patience_seconds: float = 60.0
    """So long a pod other than the first waits to see how the run ended: file servers show new files late."""

    def __post_init__(self) -> None:
        if self.patience_seconds < 0:
            raise ValueError(f"--patience-seconds {self.patience_seconds:g}: expected at least 0")


@dataclass(frozen=True)
class ProbeConfig:
    """Exit with 1 where a process of this pod holds the run folder and its heart has stopped, else with 0."""

    out: str
    """Run folder of the command."""
    watch_seconds: float = 35.0
    """So long no heartbeat has to come; there is one every ten seconds."""

    def __post_init__(self) -> None:
        if self.watch_seconds <= 0:
            raise ValueError(f"--watch-seconds {self.watch_seconds:g}: expected more than 0")


COMMANDS = {"run": RunConfig, "probe": ProbeConfig}
"""By the name that the command line gives first."""
