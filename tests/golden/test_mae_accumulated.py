"""A batch that is run in pieces, however uneven, trains as the whole batch does."""

import pytest
import torch

from pretrain.step import Stepper
from pretrain.world import World

ROWS = 7


@pytest.mark.parametrize("normalize_targets", [False, True])
@pytest.mark.parametrize("cut", [(1, 6), (3, 3, 1), (2, 1, 4), (1, 1, 1, 1, 1, 1, 1)])
def test_gradients_of_any_uneven_cut_add_up_to_those_of_the_whole_batch(autoencoders, cut, normalize_targets):
    """Each piece by its share of the rows; the last and smallest counts like any other."""
    model = autoencoders.build(channels=2, normalize_targets=normalize_targets)
    images, noise = autoencoders.batch(model, ROWS)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    expected = torch.autograd.grad(model(images, noise).loss, trained)
    for some, draws in zip(images.split(cut), noise.split(cut), strict=True):
        (model(some, draws).loss * len(some) / ROWS).backward()
    torch.testing.assert_close([parameter.grad for parameter in trained], list(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("pieces", range(1, ROWS + 1))
def test_a_step_in_pieces_moves_every_weight_by_the_gradient_of_the_whole_batch(autoencoders, pieces):
    """Plain gradient descent at rate 1, of which a dropped row would be seen at once."""
    model = autoencoders.build(channels=2)
    images, noise = autoencoders.batch(model, ROWS)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    gradients = torch.autograd.grad(model(images, noise).loss, list(trained.values()))
    expected = [weights.detach() - gradient for weights, gradient in zip(trained.values(), gradients, strict=True)]

    def loss_of(shared, some, draws):
        output = shared(some, draws)
        return output.losses, {"masked_mse": output.loss}

    optimizer = torch.optim.SGD(trained.items(), lr=1.0)
    stepper = Stepper(World("fp32"), model, optimizer, loss_of, accumulate=pieces, clip_norm=None, scale=None)
    whole = model(images, noise).loss
    outcome = stepper.step((images, noise))
    torch.testing.assert_close(list(trained.values()), expected, rtol=1e-4, atol=1e-6)
    assert len(outcome.losses) == ROWS
    torch.testing.assert_close(outcome.logged["loss"], whole.detach())
    torch.testing.assert_close(outcome.logged["masked_mse"], whole.detach())
