"""Turn a finished run into a model folder that anybody can load without sherd, with the proof that it is the same.

python finetune/publish.py --run RUN --out MODEL

python finetune/publish.py --run RUN --out MODEL --format transformers --push user/name

python finetune/publish.py --verify user/name

MODEL holds the weights, config.json, README.md (the model card), proof.json and what belongs to them. The library that
the format is for (timm, or Transformers), in a process that cannot import sherd, must give from it what the run's
newest checkpoint gives here, on images the run has not trained on; otherwise nothing is written. --verify repeats that
anywhere, and finds any change to any file.
"""

import os

from finetune.publish_config import PublishConfig
from launch.settings import parse_options
from launch.start_up import without_collection


def main() -> None:
    """Publish or verify, as the command line says."""
    assert __doc__ is not None
    config = parse_options(__doc__, PublishConfig)
    # Read when torch is loaded: threads that spin while they wait take the cores from the other process.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with without_collection():  # --help must not wait for torch
        from finetune.publishing import publish
        from finetune.verification import verify
        from launch.console import Console
        from pretrain.session import explained

    with explained():
        if config.verify is not None:
            verify(config.verify, Console())
        else:
            publish(config, Console())


if __name__ == "__main__":
    main()
