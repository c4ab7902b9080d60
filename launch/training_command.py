"""The part of a launcher's command line that is launched: `-- pretrain/mae.py RECIPE --data D --out R ...`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.strict_json import closest

_ROOT = Path(__file__).parents[1]
_STAGES = ("pretrain", "finetune", "data_pipeline")


@dataclass(frozen=True)
class TrainingCommand:
    """A script of ours with its options, as on the command line.

    Raises:
        ValueError: no script, one that does not exist, or no --out.
    """

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.words:
            raise ValueError("expected a command after `--`, such as: -- pretrain/mae.py RECIPE --data D --out R")
        script = self.words[0]
        known = _scripts()
        if script not in known:
            near = closest(script, known)
            hint = f"did you mean {near}? " if near else ""
            raise ValueError(f"-- {script}: no script of sherd; {hint}Scripts: {', '.join(known)}")
        if self.option("--out") is None:
            raise ValueError(f"-- {script}: --out is missing; the launcher looks there for how the run has ended")

    @property
    def out(self) -> str:
        """The run folder."""
        out = self.option("--out")
        assert out is not None
        return out

    def option(self, name: str) -> str | None:
        """The value of an option, given as `--out R` or `--out=R`; the last one counts. None where it is absent."""
        value = None
        for word, after in zip(self.words, (*self.words[1:], None), strict=True):
            if word == name:
                value = after
            elif word.startswith(f"{name}="):
                value = word.removeprefix(f"{name}=")
        return value


def split_command(arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The launcher's own options, and the words after the first `--`."""
    words = list(arguments)
    place = words.index("--") if "--" in words else len(words)
    return words[:place], tuple(words[place + 1 :])


def _scripts() -> list[str]:
    paths = (path for stage in _STAGES for path in sorted((_ROOT / stage).glob("*.py")))
    return [
        path.relative_to(_ROOT).as_posix()
        for path in paths
        if '\nif __name__ == "__main__":' in path.read_text("utf-8")
    ]
