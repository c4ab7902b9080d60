"""Where a run keeps what its models do on the held-out images."""

from pathlib import Path
from typing import Literal

from pretrain.prediction_file import PREDICTIONS

Which = Literal["last", "best"]
"""The model at the end of training, or that of its best evaluation."""


def evaluation_files(run_path: Path, which: Which) -> tuple[Path, Path]:
    """Where a run has the accuracy and the predictions of one of its models."""
    ending = "" if which == "last" else "-best"
    predictions = Path(PREDICTIONS)
    return run_path / f"evaluation{ending}.json", run_path / f"{predictions.stem}{ending}{predictions.suffix}"
