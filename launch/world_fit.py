"""Whether a training command and a number of processes fit each other, by what the script makes of its options."""

from pathlib import Path

from launch.parsed_options import parsed_options
from launch.training_command import TrainingCommand


def check_fit(command: TrainingCommand, nodes: int, processes_of_node: int) -> list[str]:
    """What a user should know of a combination that will do. Takes a fraction of a second.

    Raises:
        ValueError: the script would refuse its options or so many processes, or it is none that a launcher starts.
    """
    script, *options = command.words
    asked = parsed_options(Path(script), options)
    if "epochs" not in asked:
        raise ValueError(f"-- {script}: is not made for several processes and interruptions; it runs on one machine")
    world, batch, most = nodes * processes_of_node, asked["batch_size"], asked["max_world"]
    if batch % world != 0:
        below = batch // world * world
        nearest = ", ".join(str(size) for size in (below, below + world) if size > 0)
        raise ValueError(
            f"--batch-size {batch} is not divisible by {nodes} x {processes_of_node} processes; "
            f"the nearest that are: {nearest}"
        )
    if world > most:
        return [
            f"warning: {world} processes, but --max-world {most}: they read some of the data several times; for a new "
            f"run give --max-world {world}"
        ]
    return []
