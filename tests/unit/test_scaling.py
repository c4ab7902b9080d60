"""Scaling on paper: formulas against what is counted, simulations against what is known, and the document they fill."""

import dataclasses
import json
import sys
import threading
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import scaling_facts
import scaling_failures
import scaling_queue
import scaling_tables
from scaling import Options
from scaling_document import replace_tables
from scaling_failures import Saving
from scaling_model import PARTS, Step, Workload, bottleneck, covering_batch, step
from scaling_plan import Plan
from scaling_queue import Loader
from scaling_results import ROWS, rows
from scaling_setting import CLUSTERS, COLLECTIVE_SHARE, FAILURE_RATES, H100, Cluster
from scaling_traffic import all_reduce, all_reduce_bytes, buckets, gather, gather_bytes
from scaling_wire import sent

from data_pipeline import workers
from data_pipeline.blocks import fits_cache
from data_pipeline.manifest import Shard, Split
from data_pipeline.order import Order, block_bounds
from data_pipeline.order import Plan as OrderPlan
from pretrain.config import DecoderConfig, EncoderConfig
from pretrain.mae_config import MaeConfig

ROOT = Path(__file__).parents[2]
KEPT = json.loads((ROOT / "benchmarks/scaling.json").read_text())
CLUSTER = Cluster("test", H100, network_rate=1e9, storage_rate=1e9, cores=40, source="made up")
WORK = Workload(
    flops=1e11,
    trained=300_000_000,
    parameters=300_000_000,
    units=10,
    checkpoint_bytes=4_000_000_000,
    checkpoint_steps=1000,
    batch=4096,
    positions=1e9,
    image_bytes=1e5,
    image_seconds=1e-3,
    message_seconds=1e-5,
    write_rate=1e9,
)
SAVING = Saving(stall=2.0, write=10.0, restart=60.0)


def simulated(interval: float, between: float, saving: Saving = SAVING, work: float = 1e6) -> scaling_failures.Outcome:
    luck = np.random.default_rng(0)
    return scaling_failures.simulate(work, interval, between, saving, runs=50, generator=luck)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_gloo_sends_as_many_bytes_as_the_formula_of_a_ring_says(world: int):
    """All ranks are threads of this process, whose connections the kernel counts together."""
    store, size = distributed.HashStore(), 1_200_000
    at_rest, results_ = threading.Barrier(world + 1, timeout=30), []

    def rank(number: int) -> None:
        group = distributed.ProcessGroupGloo(store, number, world, timedelta(seconds=30))
        tensor = torch.full((size // 4,), float(number))
        at_rest.wait()
        at_rest.wait()
        group.allreduce([tensor]).wait()
        results_.append(tensor[0].item())
        at_rest.wait()
        at_rest.wait()

    threads = [threading.Thread(target=rank, args=(number,), daemon=True) for number in range(world)]
    for thread in threads:
        thread.start()
    at_rest.wait()
    connections, before = sent()
    at_rest.wait()
    at_rest.wait()
    found = sent()[1] - before
    at_rest.wait()
    for thread in threads:
        thread.join(30)
    assert results_ == [sum(range(world))] * world
    assert connections >= world * (world - 1)
    assert found / world == pytest.approx(all_reduce_bytes(size, world), rel=2e-3)


def test_traffic_of_one_node_and_of_several():
    size = 1e9
    alone, inside, outside = (all_reduce(size, CLUSTER, gpus) for gpus in (1, 8, 16))
    assert alone == (0, 0, 0)
    assert inside.between == 0
    assert inside.inside == pytest.approx(2 * 7 / 8 * size / (450e9 * COLLECTIVE_SHARE))
    assert outside.inside == pytest.approx(inside.inside)
    assert outside.between == pytest.approx(size / (1e9 * COLLECTIVE_SHARE))  # 2 x 1/2: two nodes
    assert outside.latency > inside.latency > 0
    # A whole all-reduce is a reduce-scatter and an all-gather.
    one_way = gather(size, CLUSTER, 16, calls=1)
    assert 2 * (one_way.inside + one_way.between) == pytest.approx(outside.inside + outside.between)
    assert buckets(25 * 2**20 + 1) == 2
    assert gather_bytes(8.0, 4) == 6


def test_a_step_by_hand():
    found = step(WORK, CLUSTER, 8, mfu=0.5)
    assert found.compute == pytest.approx(512 * 1e11 / (989.4e12 * 0.5))
    assert found.optimizer == pytest.approx(32 * 3e8 / 3.35e12)
    assert found.decode == pytest.approx(512 * 1e-3 / 4)  # 40 cores, 8 GPUs: 4 loader processes each
    assert found.read == pytest.approx(4096 * 1e5 / 1e9)
    assert found.messages == pytest.approx(14e-5)
    assert found.total == pytest.approx(found.read + found.saving)
    assert found.saving == pytest.approx(4e9 / 64e9 / 1000)
    assert bottleneck(WORK, CLUSTER, 8, mfu=0.5) == "read"


def test_traffic_is_hidden_by_the_backward_pass_but_for_its_end():
    one = all_reduce(4 * WORK.trained, CLUSTER, 16).total
    slow = dataclasses.replace(WORK, batch=16 * 65_536)
    assert step(slow, CLUSTER, 16).gradients == pytest.approx(one / buckets(4 * WORK.trained))
    quick = dataclasses.replace(WORK, batch=16)
    found = step(quick, CLUSTER, 16)
    assert found.gradients == pytest.approx(one - found.compute * 2 / 3)
    assert found.gradients + found.hidden == pytest.approx(one)


def test_sharded_parameters_are_sent_one_and_a_half_times_as_much():
    quick = dataclasses.replace(WORK, batch=8, flops=1.0)
    whole, shared = step(quick, CLUSTER, 8), step(quick, CLUSTER, 8, sharded=True)
    bandwidth = all_reduce(4 * WORK.trained, CLUSTER, 8).inside
    latency = 3 * gather(4 * WORK.trained, CLUSTER, 8, calls=10).latency
    assert shared.gradients + shared.hidden == pytest.approx(1.5 * bandwidth + latency)
    assert shared.optimizer == pytest.approx(whole.optimizer / 8)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"flops": 1e13}, "compute"),
        ({"trained": 30_000_000_000}, "gradients"),
        ({"image_seconds": 1.0}, "decode"),
        ({"image_bytes": 1e7}, "read"),
        ({"message_seconds": 1.0}, "messages"),
        ({"write_rate": 1e4}, "saving"),
    ],
)
def test_what_is_made_slow_binds(change: dict, part: str):
    assert bottleneck(dataclasses.replace(WORK, **change), CLUSTER, 16) == part


def test_without_its_bottleneck_a_step_is_shorter():
    for gpus in (8, 64, 1024):
        name = bottleneck(WORK, CLUSTERS[0], gpus)
        assert name in PARTS
        assert step(WORK, CLUSTERS[0], gpus, without=name).total < step(WORK, CLUSTERS[0], gpus).total


def test_checkpoints_that_take_longer_than_the_steps_between_hold_these_up():
    slow = dataclasses.replace(WORK, write_rate=1e6)
    found = step(slow, CLUSTER, 8)
    assert found.total * WORK.checkpoint_steps == pytest.approx(4000 + 4e9 / 64e9)


def test_the_covering_batch_is_the_smallest_double_that_hides_the_traffic():
    batch = covering_batch(WORK, CLUSTERS[0], 256)
    assert batch is not None
    enough, less = (step(dataclasses.replace(WORK, batch=one), CLUSTERS[0], 256) for one in (batch, batch // 2))
    assert enough.gradients <= 0.1 * enough.compute
    assert less.gradients > 0.1 * less.compute


def test_worlds_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"^--gpus 12: expected at most 8, or a multiple of it"):
        step(dataclasses.replace(WORK, batch=48), CLUSTER, 12)
    with pytest.raises(
        ValueError, match=r"^--batch-size 4096 is not divisible by 24 processes, which --gpus asks for$"
    ):
        step(WORK, CLUSTER, 24)


@pytest.mark.parametrize(("between", "minutes"), [(24 * 60, 117), (6 * 60, 57), (15, 9.1)])
def test_intervals_are_those_that_daly_published(between: float, minutes: float):
    """His figures 3 to 5: checkpoints of five minutes."""
    assert scaling_failures.daly(5.0, between) == pytest.approx(minutes, rel=0.01)
    assert scaling_failures.young(5.0, between) == pytest.approx((10 * between) ** 0.5)


@pytest.mark.parametrize("between", [500.0, 5_000.0, 50_000.0])
def test_simulated_failures_cost_what_the_closed_form_says(between: float):
    found = simulated(300.0, between)
    assert found.goodput == pytest.approx(scaling_failures.expected_goodput(300.0, between, SAVING), rel=0.02)
    assert found.failures > 10


def test_of_a_rare_failure_half_an_interval_and_the_writing_are_lost():
    found = simulated(300.0, 100_000.0, work=3e7)
    assert found.lost == pytest.approx(150 + SAVING.write, rel=0.05)


def test_without_failures_only_stalls_cost():
    found = simulated(100.0, 1e15, work=1e5)
    assert found.failures == 0
    assert found.goodput == pytest.approx(100 / 102)
    assert found.lost == 0


def test_a_checkpoint_waits_for_the_one_before_to_be_written():
    found = simulated(5.0, 1e15, dataclasses.replace(SAVING, write=20.0), work=1e4)
    assert found.goodput == pytest.approx(5 / 22, rel=1e-3)


def test_luck_is_the_seeds_alone():
    assert simulated(300.0, 5_000.0) == simulated(300.0, 5_000.0)


def test_the_best_simulated_interval_is_about_the_formulas():
    intervals = np.geomspace(20, 2_000, 25).tolist()
    best, goodput = scaling_failures.best_interval(1e6, 10_000.0, SAVING, intervals, runs=100, seed=0)
    rule = scaling_failures.daly(SAVING.stall, 10_000.0)
    assert rule / 1.6 < best < rule * 1.6
    assert goodput == pytest.approx(scaling_failures.expected_goodput(rule, 10_000.0, SAVING), rel=0.01)


def test_tasks_are_cut_as_the_loader_cuts_them():
    assert scaling_queue.FEWEST_ROWS == workers._FEWEST_ROWS
    assert scaling_queue.MOST_ROWS == workers._MOST_ROWS
    assert scaling_queue.TASKS_A_WORKER == workers._TASKS_A_WORKER
    assert [scaling_queue.task_rows(rows, 13) for rows in (4, 512, 100_000)] == [8, 10, 64]


@pytest.mark.parametrize(("count", "waited"), [(3, 1 - 3 / 4), (4, 0.0)])
def test_equal_images_wait_only_where_workers_are_too_few(count: int, waited: float):
    """64 images of 1 ms in a step of 16 ms: four workers."""
    loader = Loader(ranks=2, rows=64, workers=count, step_seconds=0.016001)
    found = scaling_queue.simulate(loader, np.array([1e-3]), steps=400, generator=np.random.default_rng(0))
    assert found.time == pytest.approx(waited, abs=0.02)


def test_unequal_images_on_many_ranks_wait_for_the_unluckiest():
    spread = np.array([0.1e-3, 0.4e-3, 0.5e-3, 3e-3])  # mean 1 ms
    few, many = (
        scaling_queue.simulate(
            Loader(ranks=ranks, rows=8, workers=4, step_seconds=2.1e-3, slots=1),
            spread,
            steps=300,
            generator=np.random.default_rng(0),
        )
        for ranks in (1, 32)
    )
    assert many.steps > few.steps
    assert many.time > few.time > 0


def test_a_slow_rank_holds_up_all_and_more_workers_mend_it():
    loader = Loader(ranks=4, rows=64, workers=5, step_seconds=0.016, slowness=1.5)
    images = np.array([1e-3])
    found = scaling_queue.simulate(loader, images, steps=200, generator=np.random.default_rng(0))
    assert found.time == pytest.approx(1 - 0.016 / (64e-3 * 1.5 / 5), abs=0.05)
    assert scaling_queue.fewest_workers(loader, images, steps=100, seed=0) >= 6
    assert scaling_queue.fewest_workers(dataclasses.replace(loader, slowness=1.0), images, steps=100, seed=0) <= 5


@pytest.mark.parametrize(("world", "factor"), [(4, 1), (6, 1), (5, 5), (16, 2), (7, 7)])
def test_blocks_are_read_as_often_as_the_formula_says(world: int, factor: int):
    """Counted over a whole epoch of the real order, whose 24 lanes 4 and 6 divide."""
    plan, samples = OrderPlan(lanes=24, block_bytes=40_000), np.full(20, 480, np.int64)
    order = Order(samples, samples * 1000, fingerprint="0" * 64, plan=plan, seed=0)
    bounds = block_bounds(samples, samples * 1000, plan)
    positions = np.arange(order.epoch_positions, dtype=np.int64)
    found = scaling_facts.read_counts(order, bounds, positions, (world,))[world]
    borders = (plan.lanes - 1) / order.blocks  # a block that the border of two lanes cuts is read for both
    assert factor <= found <= factor * (1 + borders)


def test_the_cache_is_what_whole_blocks_ask_for():
    samples = np.full(10, 1000, np.int64)
    shards = tuple(Shard(f"{number}.tar", 1000, 8_000_000, "", "", "") for number in range(10))
    plan = OrderPlan(lanes=24, block_bytes=100_000)
    blocks = len(block_bounds(samples, samples * 8000, plan)) - 1
    for world in (4, 5):
        needed = scaling_facts.cache_bytes(24, world, 80_000_000 / blocks)
        split = Split("jpg", shards)
        assert fits_cache([split], plan, world, int(needed * 1.001))
        assert not fits_cache([split], plan, world, int(needed * 0.999))


def test_a_model_is_counted_as_it_would_be_saved(tmp_path: Path):
    from pretrain.checkpoint import save_checkpoint
    from pretrain.optimizer import create_optimizer
    from pretrain.snapshot import optimizer_tensors

    config = MaeConfig(
        encoder=EncoderConfig("vit_tiny_patch16_224", (32, 32), (8, 8), width=64, depth=2, heads=4),
        decoder=DecoderConfig(width=64, depth=1, heads=4),
        epochs=100.0,
        batch_size=8,
    )
    facts = scaling_facts.model_facts(config)
    model = scaling_facts.build(config)
    model.initialize(torch.Generator().manual_seed(0))
    optimizer = create_optimizer(model, config.optimizer)
    model(torch.zeros(1, 3, 32, 32), torch.rand(1, 16)).loss.backward()
    optimizer.step()
    path = save_checkpoint(tmp_path, model.state_dict(), optimizer_tensors(optimizer), {"step": 1}, None)
    saved = sum(file.stat().st_size for file in path.iterdir())
    assert facts["units"] == 4  # three blocks, and the rest
    assert facts["checkpoint_bytes"] <= saved < facts["checkpoint_bytes"] + 30_000  # headers, state and checksums


def test_the_step_flops_are_those_that_a_benchmark_recorded():
    rows = [row for row in KEPT["results"]["checks"] if row["what"].startswith("GFLOP")]
    recorded = json.loads((ROOT / scaling_facts.MAE_STEP).read_text())["results"][0]["flops_an_image"]
    assert [row["formula"] for row in rows] == [recorded / 1e9]


def test_the_document_shows_what_the_program_wrote():
    path = ROOT / "docs/scaling.md"
    text = path.read_text()
    assert replace_tables(text, scaling_tables.tables(KEPT["results"], KEPT), "docs/scaling.md") == text


def numbers(value: object, path: str = "") -> dict[str, object]:
    """What a JSON value holds, by its place."""
    if isinstance(value, dict):
        return {key: one for name, part in value.items() for key, one in numbers(part, f"{path}.{name}").items()}
    return {path: value}


@pytest.mark.parametrize("name", [name for name in ROWS if name not in ("intervals", "loader")])
def test_what_was_kept_is_what_the_facts_give_today(name: str):
    """In the smallest and the largest world; the simulations are seeded."""
    plan = Plan(**{**KEPT["plan"], "gpus": (min(KEPT["plan"]["gpus"]), max(KEPT["plan"]["gpus"]))})
    kept = [row for row in KEPT["results"][name] if row["gpus"] in plan.gpus]
    for found, row in zip(rows(name, KEPT["facts"], plan), kept, strict=True):
        for place, value in numbers(row).items():
            assert numbers(found)[place] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-6)), place


def test_tables_are_put_between_their_marks():
    text = "a\n<!-- table: one -->\nold\n<!-- end of table -->\nb\n"
    assert replace_tables(text, {"one": "new"}, "x.md") == text.replace("old", "new")
    with pytest.raises(ValueError, match=r"^x\.md: has marks of the tables one; expected one two; write"):
        replace_tables(text, {"one": "", "two": ""}, "x.md")
    with pytest.raises(ValueError, match=r"^x\.md: `<!-- table: one -->` has no `<!-- end of table -->` after it$"):
        replace_tables("<!-- table: one -->\n", {"one": ""}, "x.md")


def test_numbers_have_units_that_can_be_read():
    assert [scaling_tables.seconds(value) for value in (0.0004, 0.123, 5.26, 300.0, 7300.0)] == [
        "0.4 ms",
        "123 ms",
        "5.3 s",
        "5.0 min",
        "2.0 h",
    ]


def test_every_part_can_be_named_and_mended():
    assert set(PARTS) == {field.name for field in dataclasses.fields(Step)} - {"hidden"}
    assert set(scaling_tables.CHANGES) == set(PARTS) == set(scaling_tables._NAMES)
    assert all(one.source for one in (*CLUSTERS, *FAILURE_RATES, H100))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": "vit"}, "^--recipe vit: expected one of digits "),
        ({"gpus": (8, 0)}, "^--gpus 8 0: expected numbers of at least 1$"),
        ({"batch_size": -1}, "^--batch-size is -1, expected at least 0$"),
        ({"images": 10, "shards": 3}, "^--images 10 do not fill --shards 3 equally; expected a multiple$"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Options(**options)
