"""What a logged line tells of a run's speed."""

import torch

from pretrain.device_clock import DeviceClock
from pretrain.meter import Meter
from pretrain.world import World


def test_a_line_tells_of_how_many_processes_it_is_the_speed():
    world = World("fp32")
    meter = Meter(world, None, DeviceClock(world.device))
    meter.count(64)
    line = meter.line(1, 0.5, {"loss": torch.tensor(1.0)}, {}, waited=0.0, stalled=0.0)
    assert line["processes"] == world.size == 1
    assert line["images_per_second"] > 0
