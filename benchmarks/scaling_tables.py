"""Figures to Markdown tables, those of docs/scaling.md."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from machine import machine_line
from scaling_model import CHANGES
from scaling_setting import CLUSTERS, FAILURE_RATES, MFUS

Row = Mapping[str, Any]
_NAMES = {
    "compute": "GPU",
    "gradients": "gradient traffic",
    "optimizer": "update",
    "decode": "decode",
    "read": "read",
    "messages": "messages",
    "saving": "checkpoint",
}


def tables(found: Mapping[str, Sequence[Row]], measured_by: Mapping[str, Any]) -> dict[str, str]:
    """Every table of the document, by name."""
    makers: dict[str, Callable[[Sequence[Row]], str]] = {
        "steps": _steps,
        "changes": lambda _: _changes(found),
        "covered": _covered,
        "clusters": _clusters,
        "rates": _rates,
        "traffic": _traffic,
        "reading": _reading,
        "loader": _loader,
        "failures": _failures,
        "intervals": _intervals,
        "checks": _checks,
    }
    made = {name: make(found.get(name, ())) for name, make in makers.items()}
    return {"run": _run(found["run"][0], dict(measured_by)), **made}


def markdown(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns but the first lie to the right."""
    line = "|".join(["---", *["---:"] * (len(heading) - 1)])
    return "\n".join([f"| {' | '.join(heading)} |", f"|{line}|", *(f"| {' | '.join(row)} |" for row in rows)])


def seconds(value: float) -> str:
    """Milliseconds below a second, then seconds, minutes and hours, with their unit."""
    for unit, scale, most in (("ms", 1e-3, 1), ("s", 1, 120), ("min", 60, 7200)):
        if value < most:
            return f"{value / scale:,.{0 if value / scale >= 100 else 1}f} {unit}"
    return f"{value / 3600:,.{0 if value >= 360_000 else 1}f} h"


def _run(row: Row, measured_by: dict[str, Any]) -> str:
    facts = [
        (
            "images",
            f"{row['images']:,}; {row['positions']:,.0f} are shown, in {row['steps']:,} steps of the recipe's batch",
        ),
        (
            "an image in a shard",
            f"{row['bytes_full'] / 1e3:.1f} kB; with `--short-side 256` {row['bytes_256'] / 1e3:.1f} kB",
        ),
        ("training on an image", f"{row['flops'] / 1e9:.1f} GFLOP (`pretrain/flops.py`)"),
        ("parameters", f"{row['trained'] / 1e6:.1f} M trained, gradients {4 * row['trained'] / 1e9:.2f} GB in fp32"),
        (
            "a checkpoint",
            f"{row['checkpoint_bytes'] / 1e9:.2f} GB (weights and AdamW's two moments); "
            f"written with its SHA-256 in {row['write_seconds']:.1f} s; by this machine's busy disk in "
            f"{row['write_seconds_here']:.1f} s",
        ),
        ("a message", f"{row['message_seconds'] * 1e6:.0f} us a hop, over loopback"),
        ("measured on", machine_line(measured_by)),
    ]
    return markdown(["the run", "figures"], [[name, value] for name, value in facts]).replace("---:", "---")


def _steps(rows: Sequence[Row]) -> str:
    heading = [
        "GPUs",
        "images a GPU",
        "GPU",
        "traffic not hidden",
        "update",
        "messages",
        "step",
        "images/s",
        "read, GB/s a node",
    ]
    heading += ["decode cores a GPU", "hours", "GPU-hours", "binds"]
    return markdown(heading, [_step(row) for row in rows])


def _step(row: Row) -> list[str]:
    return [
        f"{row['gpus']:,}",
        f"{row['images_a_gpu']:,}",
        *(seconds(row[part]) for part in ("compute", "gradients", "optimizer", "messages", "step")),
        f"{row['images_per_second']:,.0f}",
        f"{row['read_rate'] / 1e9:.2f}",
        f"{row['cores']['full']:.1f} / {row['cores']['256']:.1f}",
        f"{row['hours']:,.1f}",
        f"{row['gpu_hours']:,.0f}",
        _NAMES[row["binds"]],
    ]


def _changes(found: Mapping[str, Sequence[Row]]) -> str:
    binding = {row["binds"] for row in found["steps"]}
    binding |= {one["binds"] for row in found["clusters"] for one in row["clusters"].values()}
    return markdown(
        ["where this binds", "change"], [[_NAMES[part], CHANGES[part]] for part in CHANGES if part in binding]
    ).replace("---:", "---")


def _covered(rows: Sequence[Row]) -> str:
    heading = ["GPUs", "batch", "images a GPU", "step", "images/s", "read, GB/s a node", "decode cores a GPU"]
    heading += ["hours", "GPU-hours", "binds"]
    return markdown(
        heading,
        [
            [
                f"{row['gpus']:,}",
                f"{row['batch']:,}",
                f"{row['images_a_gpu']:,}",
                seconds(row["step"]),
                f"{row['images_per_second']:,.0f}",
                f"{row['read_rate'] / 1e9:.2f}",
                f"{row['cores']['full']:.1f} / {row['cores']['256']:.1f}",
                f"{row['hours']:,.2f}",
                f"{row['gpu_hours']:,.0f}",
                _NAMES[row["binds"]],
            ]
            for row in rows
        ],
    )


def _clusters(rows: Sequence[Row]) -> str:
    names = [cluster.name for cluster in CLUSTERS]
    return markdown(
        ["GPUs", *names],
        [
            [
                f"{row['gpus']:,}",
                *(
                    f"{seconds(one['step'])}, {one['hours']:,.1f} h: {_NAMES[one['binds']]}"
                    for one in (row["clusters"][name] for name in names)
                ),
            ]
            for row in rows
        ],
    )


def _rates(rows: Sequence[Row]) -> str:
    heading = ["hours on GPUs:", *(f"{row['gpus']:,}" for row in rows)]
    return markdown(heading, [[f"MFU {mfu:.0%}", *(f"{row['hours'][str(mfu)]:,.1f}" for row in rows)] for mfu in MFUS])


def _traffic(rows: Sequence[Row]) -> str:
    heading = ["GPUs", "backward", "DDP: GB a GPU sends", "inside nodes", "between", "latency", "not hidden"]
    heading += ["FSDP2: GB a GPU sends", "in all", "of it latency", "not hidden"]
    return markdown(
        heading,
        [
            [
                f"{row['gpus']:,}",
                seconds(row["backward"]),
                f"{row['ddp']['bytes'] / 1e9:.2f}",
                *(seconds(row["ddp"][part]) for part in ("inside", "between", "latency", "exposed")),
                f"{row['fsdp']['bytes'] / 1e9:.2f}",
                *(seconds(row["fsdp"][part]) for part in ("seconds", "latency", "exposed")),
            ]
            for row in rows
        ],
    )


def _reading(rows: Sequence[Row]) -> str:
    heading = ["GPUs", "lanes a rank reads", "times a byte is read", "counted", "cache a rank", "cache a node"]
    heading += ["requests/s by block", "singly", "S3 prefixes for the former"]
    return markdown(
        heading,
        [
            [
                f"{row['gpus']:,}",
                f"{row['lanes']:,.0f}",
                f"{row['factor']:g}",
                f"{row['counted']:.3f}",
                f"{row['cache_a_rank'] / 1e9:.1f} GB",
                f"{row['cache_a_node'] / 1e9:.1f} GB",
                f"{row['requests']:,.0f}",
                f"{row['requests_singly']:,.0f}",
                f"{row['prefixes']:.2f}",
            ]
            for row in rows
        ],
    )


def _loader(rows: Sequence[Row]) -> str:
    heading = ["GPUs", "workers there are"]
    for stored in ("full size", "256"):
        heading += [f"{stored}: needed by the mean", "simulated", "one rank slow", "with one fewer, steps that wait"]
    made = []
    for row in rows:
        cells = [f"{row['gpus']:,}", f"{row['workers']}"]
        for stored in ("full", "256"):
            one = row[stored]
            fewer = "-" if one["fewer"] is None else f"{one['fewer']:.0%}"
            cells += [f"{one['formula']:.2f}", f"{one['workers']}", f"{one['with_a_slow_rank']}", fewer]
        made.append(cells)
    return markdown(heading, made)


def _failures(rows: Sequence[Row]) -> str:
    names = [rate.name for rate in FAILURE_RATES]
    heading = ["GPUs", "checkpoint every", "lost at a failure", "restart", *names, f"{names[-1]}, noticed at once"]
    made = []
    for row in rows:
        rates = [row["rates"][name] for name in names]
        made.append(
            [
                f"{row['gpus']:,}",
                *(seconds(value) for value in (row["cycle"], rates[-1]["lost"], row["restart"])),
                *(f"{one['between_hours']:,.0f} h, {one['goodput']:.2%}, {one['gpu_hours']:,.1f}" for one in rates),
                f"{rates[-1]['told']:.2%}",
            ]
        )
    return markdown(heading, made)


def _intervals(rows: Sequence[Row]) -> str:
    heading = ["GPUs", "between failures", "stall", "written after", "best, simulated", "in steps", "Young", "Daly"]
    heading += ["goodput at the best", "at Daly's", "at the recipe's"]
    return markdown(
        heading,
        [
            [
                f"{row['gpus']:,}",
                f"{row['between_hours']:,.1f} h",
                *(seconds(row[name]) for name in ("stall", "write", "best")),
                f"{row['best_steps']:,.0f}",
                *(seconds(row[name]) for name in ("young", "daly")),
                *(f"{row[f'{name}_goodput']:.2%}" for name in ("best", "daly", "recipe")),
            ]
            for row in rows
        ],
    )


def _checks(rows: Sequence[Row]) -> str:
    return markdown(
        ["", "formula", "counted, recorded or simulated"],
        [[row["what"], f"{row['formula']:,.4f}", f"{row['found']:,.4f}"] for row in rows],
    )
