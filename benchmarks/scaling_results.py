"""From facts to figures: everything that docs/scaling.md shows, as JSON."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from scaling_model import Workload, bottleneck, covering_batch, step
from scaling_plan import Facts, Plan, workload
from scaling_setting import CLUSTERS, MFU, MFUS, STORE_REQUESTS, Cluster
from scaling_simulated import STORED, failure_row, interval_row, loader_row
from scaling_traffic import all_reduce, all_reduce_bytes, gather, gather_bytes

Row = dict[str, Any]


def results(facts: Facts, plan: Plan) -> dict[str, list[Row]]:
    """All tables' figures, by table."""
    found = {name: rows(name, facts, plan) for name in ROWS}
    return {"run": [_run(facts, plan)], **found, "checks": [*checks(facts), *_goodput_checks(found["failures"])]}


def rows(name: str, facts: Facts, plan: Plan) -> list[Row]:
    """A table's figures, a row for each size of the world; none where a size cannot have any."""
    made = (ROWS[name](facts, plan, gpus) for gpus in plan.gpus)
    return [row for row in made if row is not None]


def _run(facts: Facts, plan: Plan) -> Row:
    work = workload(facts, plan)
    return {
        "positions": plan.positions,
        "steps": work.steps,
        "write_seconds": work.checkpoint_bytes / work.write_rate,
        "write_seconds_here": work.checkpoint_bytes / facts["measured"]["checkpoint"]["bytes_a_second"],
        "message_seconds": work.message_seconds,
        "images": facts["images"],
        **facts["model"],
        **{f"bytes_{stored}": workload(facts, plan, stored).image_bytes for stored in STORED},
    }


def _step_row(facts: Facts, plan: Plan, gpus: int) -> Row:
    return _figures(facts, workload(facts, plan), CLUSTERS[0], gpus)


def _figures(facts: Facts, work: Workload, cluster: Cluster, gpus: int, mfu: float = MFU) -> Row:
    factor = facts["order"]["factor"][str(gpus)]
    found = step(work, cluster, gpus, read_factor=factor, mfu=mfu)
    seconds = found.total
    hours = work.steps * seconds / 3600
    rate = work.batch / seconds
    nodes, _ = cluster.place(gpus)
    return {
        "gpus": gpus,
        "batch": work.batch,
        "images_a_gpu": work.batch // gpus,
        "compute": found.compute,
        "gradients": found.gradients,
        "hidden": found.hidden,
        "optimizer": found.optimizer,
        "messages": found.messages,
        "saving": found.saving,
        "decode": found.decode,
        "read": found.read,
        "step": seconds,
        "images_per_second": rate,
        "read_rate": rate / nodes * work.image_bytes * factor,
        "cores": {stored: rate / gpus * facts["worker_seconds"][stored] for stored in STORED},
        "hours": hours,
        "gpu_hours": hours * gpus,
        "binds": bottleneck(work, cluster, gpus, read_factor=factor, mfu=mfu),
    }


def _covered_row(facts: Facts, plan: Plan, gpus: int) -> Row | None:
    """At the batch whose traffic is hidden."""
    work = workload(facts, plan)
    batch = covering_batch(work, CLUSTERS[0], gpus)
    return None if batch is None else _figures(facts, replace(work, batch=batch), CLUSTERS[0], gpus)


def _clusters_row(facts: Facts, plan: Plan, gpus: int) -> Row:
    rows = {one.name: _figures(facts, workload(facts, plan), one, gpus) for one in CLUSTERS}
    return {
        "gpus": gpus,
        "clusters": {name: {key: row[key] for key in ("step", "hours", "binds")} for name, row in rows.items()},
    }


def _rates_row(facts: Facts, plan: Plan, gpus: int) -> Row:
    hours = {mfu: _figures(facts, workload(facts, plan), CLUSTERS[0], gpus, mfu)["hours"] for mfu in MFUS}
    return {"gpus": gpus, "hours": {str(mfu): value for mfu, value in hours.items()}}


def _traffic_row(facts: Facts, plan: Plan, gpus: int) -> Row:
    work, cluster = workload(facts, plan), CLUSTERS[0]
    gradients, weights = 4 * work.trained, 4 * work.parameters
    ways = {"ddp": step(work, cluster, gpus), "fsdp": step(work, cluster, gpus, sharded=True)}
    return {
        "gpus": gpus,
        "backward": ways["ddp"].compute * 2 / 3,
        "ddp": {
            "bytes": all_reduce_bytes(gradients, gpus),
            **all_reduce(gradients, cluster, gpus)._asdict(),
            "exposed": ways["ddp"].gradients,
        },
        "fsdp": {
            "bytes": 2 * gather_bytes(weights, gpus) + gather_bytes(gradients, gpus),
            "latency": 3 * gather(weights, cluster, gpus, calls=work.units).latency,
            "seconds": ways["fsdp"].hidden + ways["fsdp"].gradients,
            "exposed": ways["fsdp"].gradients,
        },
    }


def _reading_row(facts: Facts, plan: Plan, gpus: int) -> Row:
    order, work = facts["order"], workload(facts, plan)
    row = _figures(facts, replace(work, message_seconds=0.0), CLUSTERS[0], gpus)
    _, local = CLUSTERS[0].place(gpus)
    by_block = row["images_per_second"] * order["factor"][str(gpus)] / order["images_a_block"]
    return {
        "gpus": gpus,
        "lanes": order["lanes"] / gpus * order["factor"][str(gpus)],
        "factor": order["factor"][str(gpus)],
        "counted": order["counted"][str(gpus)],
        "cache_a_rank": order["cache_bytes"][str(gpus)],
        "cache_a_node": order["cache_bytes"][str(gpus)] * local,
        "requests": by_block,
        "requests_singly": row["images_per_second"],
        "prefixes": by_block / STORE_REQUESTS,
    }


ROWS: dict[str, Callable[[Facts, Plan, int], Row | None]] = {
    "steps": _step_row,
    "covered": _covered_row,
    "clusters": _clusters_row,
    "rates": _rates_row,
    "traffic": _traffic_row,
    "reading": _reading_row,
    "failures": failure_row,
    "intervals": interval_row,
    "loader": loader_row,
}
"""What makes a row of each table."""


def checks(facts: Facts) -> list[Row]:
    """Formulas beside what was counted or recorded."""
    flops, wire = facts["flops_check"], facts["measured"]["wire"]
    rows: list[Row] = [
        {
            "what": "GFLOP of training ViT-B/16 on an image",
            "formula": flops["formula"] / 1e9,
            "found": flops["recorded"] / 1e9,
        }
    ]
    for world, found in wire.items():
        count = int(world)
        share = gather_bytes(1.0, count)
        rows += [
            {
                "what": f"all-reduce, bytes sent over its size, {world} processes",
                "formula": 2 * share,
                "found": found["all_reduce"],
            },
            {
                "what": f"DistributedDataParallel, over its gradients, {world} processes",
                "formula": 2 * share,
                "found": found["ddp"],
            },
            {
                "what": f"--shard-parameters, forward, over its weights, {world} processes",
                "formula": share,
                "found": found["fsdp_forward"],
            },
        ]
    order = facts["order"]
    worst = max(order["factor"], key=lambda world: order["factor"][world])
    rows.append(
        {
            "what": f"ranks that read a block, world of {int(worst):,}",
            "formula": order["factor"][worst],
            "found": order["counted"][worst],
        }
    )
    return rows


def _goodput_checks(failures: list[Row]) -> list[Row]:
    """Of the largest world and the highest rate: the closed form, and the simulation."""
    row = failures[-1]
    name, worst = min(row["rates"].items(), key=lambda rate: rate[1]["between_hours"])
    what = f"goodput of {row['gpus']:,} GPUs, {name}: closed form, and simulated"
    return [{"what": what, "formula": worst["closed_form"], "found": worst["goodput"]}]
