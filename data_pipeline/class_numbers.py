"""Labels, as a source has them, become classes: names with numbers from 0 on."""

import numpy as np
from numpy.typing import NDArray

from data_pipeline.manifest import NO_LABEL
from data_pipeline.sources import Found

WITHOUT_LABELS = "leave labels out with --labels none"
"""What helps whenever labels are no good; the end of a message."""

_MOST_CLASSES = 1_000_000


class ClassNumbers:
    """Numbers for labels: those of the known classes, the labels' own, or by the names' order once all are found.

    `known` are the names by number, None where they follow from the labels. Its memory grows with the classes alone.
    """

    def __init__(self, known: tuple[str, ...] | None) -> None:
        self._known = None if known is None else {name: number for number, name in enumerate(known)}
        self._found: dict[str, int] = {}  # numbered as they are found
        self._largest = NO_LABEL

    def number(self, found: Found) -> int:
        """The class's number, for names that are not known beforehand a number of its own until `renumbering`.

        Raises:
            ValueError: a label that is no class.
        """
        label = found.label
        if label is None or label == NO_LABEL:
            return NO_LABEL
        named = isinstance(label, str)
        if self._known is not None:
            number = self._known.get(label, NO_LABEL) if named else label
            expected = f"one of the {len(self._known):,} known classes"
            if not 0 <= number < len(self._known):
                raise _refusal(found, expected if named else f"0 to {len(self._known) - 1}, the number of {expected}")
        else:
            if self._largest != NO_LABEL if named else self._found:
                raise _refusal(found, f"{'a number' if named else 'a name'} as in the images before it")
            number = self._found.setdefault(label, len(self._found)) if named else label
            if not 0 <= number < _MOST_CLASSES:
                expected = f"at most {_MOST_CLASSES:,} names" if named else f"0 to {_MOST_CLASSES - 1:,}"
                raise _refusal(found, f"{expected}, these are no class{' names' if named else ' numbers'}")
        if not named or self._known is not None:
            self._largest = max(self._largest, number)
        return number

    @property
    def names(self) -> tuple[str, ...] | None:
        """By number, None if no image had a label."""
        if self._found:
            return tuple(sorted(self._found))
        if self._largest == NO_LABEL:
            return None
        return tuple(self._known if self._known is not None else map(str, range(self._largest + 1)))

    @property
    def renumbering(self) -> NDArray[np.int32] | None:
        """The last number of each that `number` gave; None where those are the last already."""
        if not self._found:
            return None
        last = {name: number for number, name in enumerate(sorted(self._found))}
        return np.array([last[name] for name in self._found], np.int32)


def _refusal(found: Found, expected: str) -> ValueError:
    return ValueError(
        f"split {found.split}: {found.name} has the label {found.label!r}, expected {expected}; choose another "
        f"--label-column, or {WITHOUT_LABELS}"
    )
