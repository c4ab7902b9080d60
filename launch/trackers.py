"""Where a run's numbers and figures go beside metrics.jsonl: TensorBoard, Weights & Biases, trackio or nowhere.

metrics.jsonl is the record; a tracker is a view of it. So no tracker ends a run: what it raises is told and counted.
"""

import importlib
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from launch.atomic import write_json
from launch.strict_json import read_json
from launch.tracker_services import Trackio, Wandb, numbers, told
from launch.tracker_tensorboard import TensorBoard

TrackerKind = Literal["tensorboard", "wandb", "trackio", "none"]

_LIBRARIES: Mapping[TrackerKind, str] = {
    # Not `tensorboard.summary`, whose file layer loads TensorFlow, boto3 and fsspec where they are installed.
    "tensorboard": "tensorboard.compat.proto.event_pb2",
    "wandb": "wandb",
    "trackio": "trackio",
}
_IDENTITY = "tracker.json"


@runtime_checkable
class Tracker(Protocol):
    """Shows a run while it lasts. Steps never fall between two openings: to go back, close it and open it anew."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """The numbers of a step or an evaluation, as metrics.jsonl has them; what is no number is left out."""
        ...

    def image(self, step: int, name: str, png: Path) -> None:
        """A figure, from a PNG file."""
        ...

    def close(self) -> None:
        """Hand over what is still waiting, which may take half a minute where a server is slow."""
        ...


def open_tracker(
    kind: TrackerKind, run: Path, *, config: Mapping[str, Any], start: int, say: Callable[[str], None]
) -> Tracker:
    """The tracker of a run folder, for rank 0; it says where to look.

    `start` is the step that the run goes on from, 0 for a new one. TensorBoard then forgets what came after it; W&B and
    trackio cannot, and keep what they have of the steps that are done a second time. These two are given what they lack
    of the steps before from metrics.jsonl. `config`, plain JSON without credentials, is shown beside the curves.
    Raises ValueError where the library is not installed.
    """
    if kind == "none":
        return _Nowhere()
    library = _load(kind)

    def begin() -> Tracker:
        if kind == "tensorboard":
            return TensorBoard(library, run / "tensorboard", config=config, start=start, say=say)
        service = Wandb if kind == "wandb" else Trackio
        return service(library, run, _identity(run), config=config, start=start, say=say)

    return _Unbreakable(kind, begin, say)


def _load(kind: TrackerKind) -> Any:
    name = _LIBRARIES[kind]
    package = name.partition(".")[0]
    other = "none" if kind == "tensorboard" else "tensorboard"
    try:
        return importlib.import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name in (name, package):
            problem = f"is not installed; pip install {package}"
        else:
            problem = f"does not load: {told(error)}; pip install --upgrade {package}"
        raise ValueError(f"--tracker {kind}: {package} {problem}, or choose --tracker {other}") from error


def _identity(run: Path) -> str:
    """By which a service knows the run again: kept in the run folder, so that each start goes on with the same run."""
    path = run / _IDENTITY
    if not path.exists():
        write_json(path, {"id": secrets.token_hex(6)})
    identity = read_json(path).get("id")
    if not isinstance(identity, str) or not identity:
        raise ValueError(f"{path}: id is {identity!r}, expected a string; remove the file to begin a new run there")
    return identity


class _Nowhere:
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing: metrics.jsonl has the numbers."""

    def image(self, step: int, name: str, png: Path) -> None:
        """Nothing: the figure is in the run folder."""

    def close(self) -> None:
        """Nothing to hand over."""


class _Unbreakable:
    """Passes everything on to a tracker, and survives whatever that raises: the first is told, the others counted."""

    def __init__(self, kind: TrackerKind, begin: Callable[[], Tracker], say: Callable[[str], None]) -> None:
        self._kind = kind
        self._say = say
        self._failures = 0
        self._tracker: Tracker = _Nowhere()
        self._try("opening it", lambda: self._begin(begin))

    def _begin(self, begin: Callable[[], Tracker]) -> None:
        self._tracker = begin()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._try(f"step {step}", lambda: self._tracker.log(step, numbers(values)))

    def image(self, step: int, name: str, png: Path) -> None:
        self._try(f"step {step}, {name}", lambda: self._tracker.image(step, name, png))

    def close(self) -> None:
        before = self._failures
        self._try("closing it", self._tracker.close)
        self._tracker = _Nowhere()
        if before:
            times = f"{self._failures} times" if self._failures > 1 else "once"
            self._say(f"warning: --tracker {self._kind} failed {times}; what it lacks is in metrics.jsonl and figures/")

    def _try(self, what: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - whatever it is, training matters more
            self._failures += 1
            if self._failures == 1:
                self._say(
                    f"warning: --tracker {self._kind}, {what}: {told(error)}; "
                    "the run goes on, its numbers are in metrics.jsonl and its figures in figures/"
                )
