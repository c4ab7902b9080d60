"""What rank 0 finds out or does for all processes."""

from collections.abc import Callable
from typing import TypeVar

from pretrain.world import World

Result = TypeVar("Result")


def on_first(world: World, act: Callable[[], Result]) -> Result:
    """What `act` returns on rank 0, on every process; it is called there alone. Every process must call this.

    Raises:
        SystemExit: on the others, where it fails: rank 0 raises the error, and says why.
    """
    found: list[Result] = []
    is_done = False
    try:
        if world.rank == 0:
            found = [act()]
        is_done = True
    finally:
        has_failed = world.any(not is_done)
    if has_failed:
        raise SystemExit(1)
    return world.gather(found)[0]
