"""The options of finetune/publish.py; imports nothing heavy."""

import re
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class PublishConfig:
    """What is published, where to, and under what licence.

    Raises:
        ValueError: a licence that is not spelled as the Hub does.
    """

    run: str
    """Finished run folder: of finetune/classify.py or pretrain/distill.py, whose model is meant, or of pretrain/mae.py
    or pretrain/distill.py without labels, whose encoder is."""
    out: str
    """Model folder to write. One that publish.py has written is replaced, unless anything in it has changed since."""
    which: Literal["last", "best"] = "last"
    """Of a classifier: the model at the end of training, or that of its best evaluation, which had to be kept."""
    data: str | None = None
    """Dataset folder that the run was trained on, if it has been moved; None: where the run found it."""
    license: str | None = None
    """Licence of the weights, as the Hub spells it: apache-2.0. None: that of the published model which training
    started from, or else `other`: whoever owns the images and the weights has to say; sherd's licence does not. What
    the licence of a teacher asks for is not decided, but the card names the teacher."""

    def __post_init__(self) -> None:
        if self.license is not None and not re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*", self.license):
            raise ValueError(
                f"--license {self.license!r} is not spelled as on the Hub: expected lower-case letters, digits, dots "
                "and dashes, such as apache-2.0, cc-by-nc-4.0 or other "
                "(https://huggingface.co/docs/hub/repositories-licenses)"
            )
