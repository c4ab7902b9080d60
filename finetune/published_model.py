"""What of a run is published: a classifier, an encoder, or a masked autoencoder with its decoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from finetune.finished_run import FinishedRun
from finetune.proof_inputs import masking_noise
from finetune.stock import AT_ONCE
from pretrain.layout_writing import kind_of
from pretrain.mae_config import MaeConfig
from pretrain.masked_autoencoder import MaskedAutoencoder

Kind = Literal["encoder", "autoencoder", "classifier"]
Compared = Literal["logits", "tokens", "prediction"]


@dataclass(frozen=True)
class PublishedModel:
    """A model with the weights of a run's checkpoint, ready to compute; all else follows from it."""

    model: nn.Module

    @property
    def kind(self) -> Kind:
        kind = kind_of(self.model)
        return "classifier" if kind == "distilled" else kind

    @property
    def compared(self) -> Compared:
        """What a library is compared by: logits, all tokens after the final norm, or all patches predicted."""
        of: dict[Kind, Compared] = {"classifier": "logits", "encoder": "tokens", "autoencoder": "prediction"}
        return of[self.kind]

    def inputs(self, images: Float[Tensor, "n c h w"]) -> dict[str, Tensor]:
        """The images and, for an autoencoder, which of their patches are hidden."""
        if not isinstance(self.model, MaskedAutoencoder):
            return {"images": images}
        return {"images": images, "noise": masking_noise(len(images), self.model.patches)}

    @torch.inference_mode()
    def compute(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name, as `stock.py` gives them."""
        parts: dict[str, list[Tensor]] = {}
        for few in zip(*(values.split(AT_ONCE) for values in inputs.values()), strict=True):
            for name, values in self._compute(*few).items():
                parts.setdefault(name, []).append(values)
        return {name: torch.cat(pieces) for name, pieces in parts.items()}

    def _compute(self, images: Tensor, *noise: Tensor) -> dict[str, Tensor]:
        if isinstance(self.model, MaskedAutoencoder):
            found = self.model.reconstruct(images, *noise)
            return {"prediction": found.prediction, "mask": found.mask}
        if self.kind == "classifier":
            return {"logits": self.model(images)}
        compute = self.model.forward_features
        assert callable(compute)
        return {"tokens": compute(images)}


def choose_model(run: FinishedRun, *, decoder: bool) -> PublishedModel:
    """The run's model from its checkpoint; with `decoder` a masked autoencoder whole.

    Raises:
        ValueError: a decoder is asked of a run that has none, or the checkpoint is of another model.
    """
    if not decoder:
        return PublishedModel(run.rebuild())
    if isinstance(run.config, MaeConfig):
        return PublishedModel(run.rebuild_autoencoder())
    raise ValueError(
        f"--decoder: only a masked autoencoder has one, and {run.folder.path} is no run of pretrain/mae.py; leave "
        "--decoder out"
    )
