"""Turn images into a dataset folder: shuffled tar shards, an index of each, and a manifest.

python data_pipeline/shard.py --source digits --out data/digits

python data_pipeline/shard.py --source /images/flowers --out data/flowers --short-side 256 --holdout 0.01

python data_pipeline/shard.py --source uoft-cs/cifar10 --out data/cifar10

python data_pipeline/shard.py --source 's3://bucket/train-{000000..000999}.tar' --out data/web --index-only

python data_pipeline/shard.py --source /images/flowers --out data/flowers --push user/flowers --license cc-by-4.0

Every image is decoded strictly; what is broken, filtered or there twice is left out and listed in quarantine.jsonl. A
killed run goes on where it was when the same command is given again; the same source gives the same bytes, whatever the
number of workers. What --push uploads is read with --data hf://datasets/user/flowers, and an upload that broke off goes
on likewise; --dry-run lists what would go.
"""

import sys

from data_pipeline.config import ShardConfig
from launch.console import Console
from launch.settings import parse_options


def main() -> int:
    """The exit code: 0, 2 for what the user can put right, 1 for what the machine did, 130 after Ctrl-C."""
    config = parse_options(__doc__ or "", ShardConfig)
    from data_pipeline.dry_run import estimate
    from data_pipeline.indexing import index_dataset
    from data_pipeline.manifest import DatasetError
    from data_pipeline.sharding import shard_dataset
    from data_pipeline.task_pool import WorkerDiedError
    from launch.lock import FolderInUseError, LockLostError

    work = estimate if config.dry_run else index_dataset if config.index_only else shard_dataset
    if config.push is not None:
        from data_pipeline.pushing import with_upload  # asks for huggingface_hub

        work = with_upload(work)
    try:
        work(config, Console())
    except ValueError as error:
        print(f"shard.py: {error}", file=sys.stderr)
        return 2
    except (DatasetError, WorkerDiedError, FolderInUseError, LockLostError, OSError) as error:
        print(f"shard.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "shard.py: stopped; give the same command again: it goes on from the shards that are whole", file=sys.stderr
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
