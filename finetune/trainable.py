"""Fine-tuning a part of a model: the other parameters stay as they are, and so do the batch norms among them."""

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from finetune.trainable_config import Trainable
from pretrain.layer_groups import layers_of, names_of_layers


def freeze(model: nn.Module, trainable: Trainable) -> str:
    """Let only a part of a timm model train, in place, and say in a sentence what that is.

    Parameters that are frozen already stay so. A batch norm none of whose parameters trains (of one without any, none
    of the module's around it) normalises by its running statistics and leaves them alone, whatever `model.train()`
    says.

    Raises:
        ValueError: more layers are asked for than there are, or no layers are known of such a model.
    """
    named = dict(model.named_parameters())
    total = sum(parameter.numel() for parameter in named.values())
    chosen, what = _chosen(model, trainable)
    for name, parameter in named.items():
        if name not in chosen:
            parameter.requires_grad_(False)
    trained = sum(parameter.numel() for parameter in named.values() if parameter.requires_grad)
    assert trained > 0
    if trained == total:
        return f"all {total:,} parameters train"
    held = sum(_hold(model, name, module) for name, module in model.named_modules() if isinstance(module, _NormBase))
    statistics = f"; {held} batch norms keep their running statistics" if held else ""
    return f"{trained:,} of {total:,} parameters train ({trained / total:.2%}): {what}{statistics}"


def _chosen(model: nn.Module, trainable: Trainable) -> tuple[set[str], str]:
    """Names of the parameters that are to train, and what they are."""
    if trainable.kind == "all":
        return {name for name, _ in model.named_parameters()}, "whatever was not frozen before"
    layers, count = layers_of(model, otherwise="pass --trainable all")
    between = count - 2  # neither what comes first nor the head
    if trainable.layers > between:
        raise ValueError(
            f"--trainable last:{trainable.layers}: {type(model).__name__} has {between} layers between its first "
            f"({', '.join(names_of_layers(layers)[0])}) and its head; pass at most last:{between}, or all"
        )
    first = count - 1 - trainable.layers
    names = names_of_layers(layers)
    chosen = {name for name, layer in layers.items() if layer >= first}
    head = ", ".join(names[-1])
    if trainable.kind == "norms":
        return chosen | _norms(model), f"every norm, and {head}"
    if trainable.kind == "bias":
        return chosen | {name for name in layers if name.endswith("bias")}, f"every bias, and {head}"
    return chosen, f"from {names[first][0]} on, with {head}" if trainable.kind == "last" else head


def _norms(model: nn.Module) -> set[str]:
    return {
        f"{name}.{own}"
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
        for own, parameter in module.named_parameters(recurse=False)
        if parameter.ndim <= 1
    }


def _hold(model: nn.Module, name: str, module: nn.Module) -> bool:
    """Whether a batch norm was put out of training for good."""
    around = module if list(module.parameters()) else model.get_submodule(name.rpartition(".")[0])
    if getattr(module, "running_mean", None) is None or any(some.requires_grad for some in around.parameters()):
        return False
    module.register_forward_pre_hook(_evaluate)
    return True


def _evaluate(module: nn.Module, _: object) -> None:
    module.training = False  # before each pass: `train()` of the whole model, as after an evaluation, sets it again
