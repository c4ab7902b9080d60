"""Look at a dataset, and at what runs have read of it.

python data_pipeline/survey.py verify --data data/mine

python data_pipeline/survey.py preview --data data/mine --out sheet.png

python data_pipeline/survey.py audit --run runs/mae

Exit code 0, 1 for what is bad in the data or failed on the machine, 2 for what the user can put right.
"""

import json
import sys
from pathlib import Path
from typing import Any

from data_pipeline.survey_config import (
    COMMANDS,
    AuditConfig,
    ExplainConfig,
    PreviewConfig,
    ShuffleQualityConfig,
    StatsConfig,
    VerifyConfig,
    WithdrawConfig,
)
from launch.console import Console
from launch.settings import parse_command


def verify(config: VerifyConfig, console: Console) -> int:
    """1 if any shard is bad, or a withdrawn key is no sample's."""
    from data_pipeline.manifest import DatasetError, read_manifest
    from data_pipeline.verification import summary, verify_dataset

    # All shards are looked at, even where one that holds withdrawn samples cannot be opened.
    manifest = read_manifest(config.data, withdraw=False)
    verified = verify_dataset(manifest, config.split, config.processes, console)
    console.say(f"{config.data}: {summary(verified)}")
    if verified.bad:
        return 1
    try:
        read_manifest(config.data)
    except (ValueError, DatasetError) as error:
        console.say(str(error))
        return 1
    return 0


def stats(config: StatsConfig, console: Console) -> int:
    """Tables, or JSON alone."""
    from data_pipeline.manifest import read_manifest
    from data_pipeline.statistics_table import dataset_statistics, tables

    manifest = read_manifest(config.data)
    samples = sum(split.samples for split in manifest.splits.values())
    with _asides().progress(samples, unit="samples", label="read") as progress:
        found = dataset_statistics(manifest, progress.advance)
    console.say(_as_json(found) if config.json else tables(found))
    return 0


def preview(config: PreviewConfig, console: Console) -> int:
    """Writes the sheet."""
    from data_pipeline.contact_sheet import contact_sheet
    from data_pipeline.manifest import read_manifest
    from launch.atomic import write_atomically

    manifest, out = read_manifest(config.data), Path(config.out)
    split = _split(config.split, manifest)
    count = min(config.count, manifest.split(split).present)
    with console.progress(count, label="drawn") as progress:
        sheet = contact_sheet(manifest, split, count, config.seed, progress.advance)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, sheet)
    console.say(f"{out}: {count:,} samples of {config.data} [{split}]")
    return 0


def explain(config: ExplainConfig, console: Console) -> int:
    """A table, or JSON alone."""
    from data_pipeline import explanation

    found = explanation.explain(config)
    console.say(_as_json(found.to_json()) if config.json else found.table())
    return 0


def audit(config: AuditConfig, console: Console) -> int:
    """1 where the counts are not as they should be."""
    from data_pipeline.audit import audit_run
    from launch.atomic import write_json

    found = audit_run(config, console)
    for line in found.lines():
        console.say(line)
    if config.out is not None:
        out = Path(config.out) if config.out.endswith(".json") else Path(config.out) / "audit.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, found.to_json())
    for fault in found.faults:
        print(f"survey.py: {fault}", file=sys.stderr)
    console.say("not proven" if found.faults else "proven: the counts are as the plan says")
    return 1 if found.faults else 0


def shuffle_quality(config: ShuffleQualityConfig, console: Console) -> int:
    """A table, or JSON alone."""
    from data_pipeline.manifest import read_manifest
    from data_pipeline.shuffle_quality import measure_shuffle

    manifest = read_manifest(config.data)
    found = measure_shuffle(manifest, _split(config.split, manifest), config, _asides())
    console.say(_as_json(found.to_json()) if config.json else found.table())
    return 0


def withdraw(config: WithdrawConfig, console: Console) -> int:
    """Writes withdrawn.txt."""
    from data_pipeline import withdrawal
    from data_pipeline.withdrawn import read_keys

    keys = list(config.keys)
    if config.from_file is not None:
        keys += read_keys(Path(config.from_file).read_text())
    for line in withdrawal.withdraw(config.data, keys).lines():
        console.say(line)
    return 0


def _split(asked: str | None, manifest: Any) -> str:
    return asked or ("train" if "train" in manifest.splits else next(iter(manifest.splits)))


def _asides() -> Console:
    """Progress beside output that may be piped into another program."""
    return Console(stream=sys.stderr)


def _as_json(value: Any) -> str:
    return json.dumps(value, indent=2, allow_nan=False)


def main() -> int:
    """0, 2 for what the user can put right, 1 for bad data or what the machine did, 130 after Ctrl-C."""
    command, config = parse_command(__doc__ or "", COMMANDS)
    from data_pipeline.manifest import DatasetError
    from data_pipeline.task_pool import WorkerDiedError

    functions = {
        "verify": verify,
        "stats": stats,
        "preview": preview,
        "explain": explain,
        "audit": audit,
        "shuffle-quality": shuffle_quality,
        "withdraw": withdraw,
    }
    try:
        return functions[command](config, Console())
    except (ValueError, FileNotFoundError) as error:
        print(f"survey.py: {error}", file=sys.stderr)
        return 2
    except (DatasetError, WorkerDiedError, OSError) as error:
        print(f"survey.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("survey.py: stopped; nothing was changed", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
