"""Which parameter learns how fast and decays, layer by layer: what `--show-groups` prints."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import nn

from data_pipeline.text_table import text_table
from pretrain.config import OptimizerConfig
from pretrain.layer_groups import has_layers, layers_of, names_of_layers
from pretrain.optimizer import exempt_parameters, parameter_groups, peak_learning_rate
from pretrain.supervised_config import SupervisedConfig

_HEADING = ("layer", "parameters of", "lr scale", "peak lr", "weight decay", "without", "frozen")
_WIDEST = 48


@dataclass
class _Row:
    """Sums over a layer: numbers of parameters, and the scale of those that train."""

    scale: float | None = None
    decaying: int = 0
    exempt: int = 0
    frozen: int = 0


def groups_of_run(model: nn.Module, config: SupervisedConfig) -> str:
    """The table of the model that a supervised run trains."""
    return group_table(
        model,
        config.optimizer,
        batch_size=config.batch_size,
        exempt=exempt_parameters(model),
        layer_decay=config.layer_decay,
    )


def group_table(
    model: nn.Module,
    config: OptimizerConfig,
    *,
    batch_size: int,
    exempt: Collection[str] = (),
    layer_decay: float | None = None,
) -> str:
    """A row for each layer from the input to the head, at most 120 columns wide, and what they have in common.

    It is read off the groups that `create_optimizer` makes of the same arguments; `batch_size` is that of an optimizer
    step. Without layer decay a model whose layers are not known has a row for each of its parts.

    Raises:
        ValueError: layer decay of a model whose layers are not known, or a minimum above the peak learning rate.
    """
    groups = parameter_groups(model, config.weight_decay, exempt=exempt, layer_decay=layer_decay)
    layers = _layers(model, needed=layer_decay is not None)
    rows = [_Row() for _ in range(max(layers.values()) + 1)]
    trained: dict[str, dict[str, Any]] = {name: group for group in groups for name, _ in group["params"]}
    for name, parameter in model.named_parameters():
        row, group = rows[layers[name]], trained.get(name)
        if group is None:
            row.frozen += parameter.numel()
            continue
        row.scale = group.get("lr_scale", 1.0)
        if group["weight_decay"] > 0:
            row.decaying += parameter.numel()
        else:
            row.exempt += parameter.numel()
    peak = peak_learning_rate(config, batch_size)
    return "\n".join([_table(rows, names_of_layers(layers), peak), *_sentences(rows, config, batch_size, layer_decay)])


def _layers(model: nn.Module, *, needed: bool) -> dict[str, int]:
    if needed or has_layers(model):
        return layers_of(model)[0]
    parts = list(dict.fromkeys(name.partition(".")[0] for name, _ in model.named_parameters()))
    return {name: parts.index(name.partition(".")[0]) for name, _ in model.named_parameters()}


def _table(rows: list[_Row], names: list[list[str]], peak: float) -> str:
    return text_table(
        _HEADING,
        [
            (
                number,
                _shortened(names[number]),
                "-" if row.scale is None else f"{row.scale:.6f}",
                "-" if row.scale is None else f"{peak * row.scale:.3e}",
                row.decaying,
                row.exempt,
                row.frozen,
            )
            for number, row in enumerate(rows)
        ],
    )


def _shortened(names: list[str]) -> str:
    for shown in range(len(names), 0, -1):
        left_out = len(names) - shown
        text = ", ".join(names[:shown]) + (f" and {left_out} more" if left_out else "")
        if len(text) <= _WIDEST:
            return text
    return names[0][: _WIDEST - 3] + "..."


def _sentences(rows: list[_Row], config: OptimizerConfig, batch_size: int, layer_decay: float | None) -> list[str]:
    peak = peak_learning_rate(config, batch_size)
    decaying, exempt, frozen = (sum(getattr(row, kind) for row in rows) for kind in ("decaying", "exempt", "frozen"))
    slower = "the same for every layer" if layer_decay is None else f"x {layer_decay:g} for each layer before the last"
    return [
        f"{decaying + exempt + frozen:,} parameters: {decaying:,} with weight decay {config.weight_decay:g}, "
        f"{exempt:,} without, {frozen:,} frozen",
        f"{config.algorithm}: peak learning rate {peak:.3e} = {config.base_lr:g} x batch {batch_size} / 256, {slower}",
    ]
