"""LARS as probes train with it: against timm's own class, and against the formula on numbers worked by hand."""

import torch
from timm.optim.lars import Lars
from torch import nn

from finetune.linear_layer import LinearLayer, create_lars
from finetune.probe_config import LarsConfig


def build() -> LinearLayer:
    return LinearLayer(6, 3, std=0.5, generator=torch.Generator().manual_seed(0))


def train(model: LinearLayer, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    weights = []
    for step in range(20):
        generator = torch.Generator().manual_seed(step)
        values, labels = torch.randn(12, 6, generator=generator), torch.randint(3, (12,), generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = 0.5 * (1 + step % 3)
        nn.functional.cross_entropy(model(values), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    return weights


def test_every_step_is_timms():
    model, expected = build(), build()
    shared = {"momentum": 0.9, "trust_coeff": 0.001, "eps": 0.0}
    weights = {"params": [expected.head.weight], "always_adapt": True, **shared}
    biases = {"params": [expected.head.bias], "always_adapt": False, **shared}
    reference = Lars([weights, biases], lr=0.0)
    for ours, theirs in zip(train(model, create_lars(model, LarsConfig())), train(expected, reference), strict=True):
        assert torch.equal(ours, theirs)


def test_two_steps_worked_by_hand():
    """As released for MoCo v3 and MAE: momentum m, trust c, rate r.

    The weight [3, 4] has length 5. Its gradient [0, 2] has length 2, so that the first update is c 5 / 2 [0, 2] = .01
    x 2.5 [0, 2] = [0, .05]. At r = 2 the weight becomes [3, 3.9]. The bias has no trust ratio: 1 - 2 x .5 = 0.
    Then the gradient is [1, 0], and the weight's length sqrt(9 + 15.21) = 4.9203658: the update is .9 [0, .05] +
    [.049203658, 0], and at r = 1 the weight [2.950796342, 3.855]. The bias: .9 x .5 + .25 = .7, 0 - .7 = -.7.
    """
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 4.0]]))
        model.bias.copy_(torch.tensor([1.0]))
    optimizer = create_lars(model, LarsConfig(momentum=0.9, trust=0.01))
    steps = [
        (2.0, [[0.0, 2.0]], [0.5], [[3.0, 3.9]], [0.0]),
        (1.0, [[1.0, 0.0]], [0.25], [[2.950796342, 3.855]], [-0.7]),
    ]
    for rate, weight_gradient, bias_gradient, weight, bias in steps:
        for group in optimizer.param_groups:
            group["lr"] = rate
        model.weight.grad, model.bias.grad = torch.tensor(weight_gradient), torch.tensor(bias_gradient)
        optimizer.step()
        torch.testing.assert_close(model.weight.detach(), torch.tensor(weight), rtol=1e-7, atol=1e-6)
        torch.testing.assert_close(model.bias.detach(), torch.tensor(bias), rtol=1e-7, atol=1e-6)
