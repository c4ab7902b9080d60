"""What a model holds beside its parameters and changes in its forward: the running statistics of batch norms."""

import torch
from jaxtyping import Bool
from torch import Tensor, nn


def kept_buffers(model: nn.Module) -> dict[str, Tensor]:
    """The buffers that a checkpoint holds, by name; others are constants that the model computes when it is built."""
    kept = model.state_dict(keep_vars=True).keys()
    return {name: buffer for name, buffer in model.named_buffers() if name in kept}


class BufferMemory:
    """Kept buffers as they were before a step, to be restored where it is skipped, without waiting for the device.

    The forward of a batch that is not finite has changed them by the time that anybody knows.
    """

    def __init__(self, model: nn.Module) -> None:
        self._by_type: dict[torch.dtype, list[Tensor]] = {}
        for buffer in kept_buffers(model).values():
            self._by_type.setdefault(buffer.dtype, []).append(buffer)
        self._before: dict[torch.dtype, Tensor] = {}

    @torch.no_grad()
    def remember(self) -> None:
        """Copy them as they are now."""
        self._before = {dtype: _in_line(buffers) for dtype, buffers in self._by_type.items()}

    @torch.no_grad()
    def restore(self, where: Bool[Tensor, ""]) -> None:
        """Let them be as they were remembered if this is true."""
        for dtype, buffers in self._by_type.items():
            chosen = torch.where(where, self._before[dtype], _in_line(buffers))
            pieces = chosen.split([buffer.numel() for buffer in buffers])
            shaped = [piece.view(buffer.shape) for piece, buffer in zip(pieces, buffers, strict=True)]
            torch._foreach_copy_(buffers, shaped)  # pyright: ignore[reportPrivateImportUsage]


def _in_line(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
