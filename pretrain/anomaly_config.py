"""What a run does about losses and gradients that are not finite, as a dataclass that imports nothing heavy."""

from dataclasses import dataclass


@dataclass(frozen=True)
class AnomalyConfig:
    """Steps whose loss or gradient is not finite are skipped and described in `anomalies/`; many of them end a run.

    Raises:
        ValueError: a number outside its range.
    """

    most_skipped: int = 5
    """So many skipped steps within `within_steps` lead back to the newest checkpoint from before the first of them,
    from where the run goes on without their batches."""
    within_steps: int = 100
    """Of this many steps the skipped ones are counted together."""
    most_rollbacks: int = 2
    """After so many ways back the next one ends the run."""

    def __post_init__(self) -> None:
        for option, least in (("most_skipped", 1), ("within_steps", 1), ("most_rollbacks", 0)):
            if getattr(self, option) < least:
                raise ValueError(
                    f"--anomalies.{option.replace('_', '-')} expects at least {least}, got {getattr(self, option)}"
                )
