"""Run shard.py with workers that stop over a shard, once so many are whole, for as long as the command lives.

python hold_shards.py COUNT [argument of shard.py ...]: the dataset cannot be finished before a test has sent its
signal, however fast the machine is and however late the test. The product is patched from outside, in every worker too:
spawned processes import the main module, which is this one.
"""

import multiprocessing
import os
import sys
import time
from pathlib import Path

from data_pipeline.shard import main
from data_pipeline.tar_writer import TarWriter


def hold_after(count: int, out: Path) -> None:
    """Patch the end of a shard's tar: all is written aside then, and nothing has its name yet."""
    finish = TarWriter.finish

    def patched(tar: TarWriter) -> None:
        command = multiprocessing.parent_process()
        assert command is not None
        while len(list((out / ".work").glob("*.tar.json"))) >= count and command.is_alive():
            time.sleep(0.005)
        finish(tar)

    TarWriter.finish = patched


if __name__ == "__main__":
    os.environ["HOLD_SHARDS"] = sys.argv.pop(1)
    sys.path[0] = str(Path(__file__).parents[2] / "data_pipeline")
hold_after(int(os.environ["HOLD_SHARDS"]), Path(sys.argv[sys.argv.index("--out") + 1]))
if __name__ == "__main__":
    sys.exit(main())
