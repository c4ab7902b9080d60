"""Where on the Hub something goes: options, and how names are spelled there. Imports nothing heavy."""

import re
from dataclasses import dataclass

_WORD = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_MOST_LETTERS = 96  # of user/name, on the Hub


@dataclass(frozen=True)
class HubConfig:
    """Of `--push`: who may see the repository, the branch that is written, and the tag that its commit gets.

    Raises:
        ValueError: a branch or tag that git would not take.
    """

    private: bool = False
    """Where the repository does not exist yet: make it one that only its owners see."""
    revision: str | None = None
    """Branch to write to, made where there is none; by default main."""
    tag: str | None = None
    """Name for the commit, given when all is there; it must not exist yet."""

    def __post_init__(self) -> None:
        for option, name in (("revision", self.revision), ("tag", self.tag)):
            if name is not None and not _is_reference(name):
                raise ValueError(
                    f"--hub.{option} {name!r}: not the name of a branch or tag; expected letters, digits, dots, dashes "
                    "and slashes, such as v1.0"
                )
        if self.revision is not None and re.fullmatch(r"[0-9a-f]{40}|refs/.*", self.revision):
            raise ValueError(
                f"--hub.revision {self.revision}: a commit or full reference cannot be written to; expected the name "
                "of a branch, such as main or v2"
            )

    @property
    def branch(self) -> str:
        """The branch that is written to."""
        return self.revision or "main"


def check_repository(name: str, option: str = "--push") -> None:
    """Refuse what is not the name of a repository: `user/name`.

    Raises:
        ValueError: says what was expected.
    """
    spelled = re.fullmatch(rf"{_WORD}/{_WORD}", name) and not re.search(r"--|\.\.|\.git$", name)
    if not spelled or len(name) > _MOST_LETTERS:
        if "://" in name:
            fix = f"the name alone, without {name.partition('://')[0]}://"
        elif "/" not in name:
            fix = f"a user or organization before it: user/{name}"
        else:
            fix = "letters, digits, single dashes and dots, and underscores"
        raise ValueError(
            f"{option} {name!r}: not the name of a repository on the Hub; expected user/name of at most "
            f"{_MOST_LETTERS} letters: {fix}"
        )


def check_license(name: str) -> None:
    """Refuse a licence that is not spelled as the Hub does.

    Raises:
        ValueError: says how it is spelled.
    """
    if not re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*", name):
        raise ValueError(
            f"--license {name!r} is not spelled as on the Hub: expected lower-case letters, digits, dots and dashes, "
            "such as apache-2.0, cc-by-nc-4.0 or other (https://huggingface.co/docs/hub/repositories-licenses)"
        )


def _is_reference(name: str) -> bool:
    """Whether git takes it as a branch or tag, and a URL shows it as it is."""
    parts = name.split("/")
    return all(re.fullmatch(rf"{_WORD}", part) and ".." not in part for part in parts) and not name.endswith(".lock")
