"""Whether pre-training helps: fine-tuning against training from scratch, by the number of labels, over seeds.

python finetune/benchmark.py BENCHMARK --data DATASET --init RUN --out FOLDER

From scratch trains longer and at the best of several learning rates. The folder then holds every run, benchmark.json
and the table in benchmark.md. The same command goes on with a benchmark that was interrupted.
"""

import os

from finetune.benchmark_config import BENCHMARKS, BenchmarkConfig
from launch.settings import parse


def run(name: str, config: BenchmarkConfig) -> None:
    """Train everything, print and write the table."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is loaded, here and in the workers
    import time
    from pathlib import Path

    import torch

    from data_pipeline.manifest import read_manifest
    from finetune.comparison import Comparison, table
    from launch.atomic import write_atomically, write_json
    from launch.console import Console
    from launch.environment import environment
    from launch.redaction import redact
    from launch.run_folder import open_run
    from launch.strict_json import fields_at_default, to_json
    from pretrain.model_source import find_source
    from pretrain.session import LIBRARIES, explained

    began = time.monotonic()
    with explained():
        source, manifest, console = find_source(config.init, "--init"), read_manifest(config.data), Console()
        at_a_time = config.at_a_time(torch.cuda.is_available())
        settings = {"benchmark": name, **to_json(config)}
        with open_run(
            Path(config.out),
            settings,
            frozenset({"data", "out", "processes"}),
            at_default=fields_at_default(config),
        ) as folder:
            folder.write_json(folder.environment, environment(LIBRARIES))
            rows = list(Comparison(config, source, manifest, at_a_time).rows(console.say))
            data, seconds = redact(config.data), time.monotonic() - began
            model = {"init": config.init, "model_sha256": source.sha256}
            found = {"data": data, **model, "rows": rows, "seconds": seconds}
            write_json(folder.path / "benchmark.json", found, folder.guard)
            write_atomically(folder.path / "benchmark.md", table(rows) + "\n", folder.guard)
            folder.write_exit("done")
        console.say(f"\ntop-1 on held-out images, in percent, with the deviation over seeds\n{table(rows)}\n")
        console.say(f"in {folder.path}: benchmark.md, benchmark.json, and a folder for every run")


if __name__ == "__main__":
    assert __doc__ is not None
    run(*parse(__doc__, BENCHMARKS))
