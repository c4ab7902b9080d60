"""Whether a teacher's judgement of the training images is computed once and kept, as a dataclass that imports nothing
heavy.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class TeacherCacheConfig:
    """What is kept of a teacher's logits, or of its features, and where.

    Raises:
        ValueError: a number lies outside its range, the folder is none of this machine, or nothing is to be kept.
    """

    views: int = 0
    """Views of each training image whose logits, or features, are kept; training then shows these alone, in turn. 0: no
    cache."""
    classes: int | None = None
    """The most probable classes of each view whose logits are kept: the rest of the probability is spread evenly over
    the others. None: all."""
    folder: str | None = None
    """Where the cache is, a folder on this machine. None: DATASET/.teacher/KEY beside the shards, where KEY stands for
    all that is kept depends on."""

    def __post_init__(self) -> None:
        if self.views < 0:
            raise ValueError(f"--cache-teacher.views {self.views}: expected a number of views, or 0 for no cache")
        if self.classes is not None and self.classes < 1:
            raise ValueError(
                f"--cache-teacher.classes {self.classes}: expected at least 1, such as 16; leave it out to keep all"
            )
        if self.folder is not None and "://" in self.folder:
            scheme = self.folder.partition("://")[0]
            raise ValueError(
                f"--cache-teacher.folder {scheme}://...: expected a folder on this machine, which can be mapped into "
                "memory: give one on a local or shared disk"
            )
        if not self.is_on and (self.classes is not None or self.folder is not None):
            given = "classes" if self.classes is not None else "folder"
            raise ValueError(
                f"--cache-teacher.{given} without --cache-teacher.views: nothing is kept; expected a number of views, "
                "such as --cache-teacher.views 4"
            )

    @property
    def is_on(self) -> bool:
        """Whether anything is kept."""
        return self.views > 0
