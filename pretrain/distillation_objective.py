"""What a step of distillation computes: what a step on labels does, and what a teacher says of the same pixels."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from data_pipeline.stream import Batch
from pretrain.classification_objective import Supervision
from pretrain.distillation_config import DistillationConfig
from pretrain.distillation_loss import combine, distillation_losses
from pretrain.students import two_logits
from pretrain.training import Objective


@dataclass(frozen=True)
class Tuition:
    """Labels and a teacher.

    taught: the teacher's logits (b, classes), on the device, of a batch and its pixels (b, c, h, w) as the student sees
    them, mixed and erased.
    """

    supervision: Supervision
    config: DistillationConfig
    taught: Callable[[Batch, Tensor], Tensor]

    @property
    def objective(self) -> Objective:
        """For `fit`."""
        return Objective(self.inputs, self.loss)

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """As of supervision, and the teacher's logits (b, classes) last."""
        own = self.supervision.inputs(batch)
        return (*own, self.taught(batch, own[0]))

    def loss(self, shared: nn.Module, images: Tensor, *others: Tensor) -> tuple[Float[Tensor, " b"], dict[str, Tensor]]:
        """The loss of each image, of which the teacher's part is logged, and how often both choose the same class;
        `others` as `inputs` gives them.
        """
        targets, known, noise, taught = others
        self.supervision.paths.noise.values = noise
        by_label, by_teacher = two_logits(shared, images)
        base = self.supervision.losses(by_label, targets, known)
        distilled = distillation_losses(by_teacher, taught, self.config)
        agreed = (by_teacher.detach().argmax(dim=1) == taught.argmax(dim=1)).float()
        logged = {"teacher_loss": distilled.detach().mean(), "agreement": agreed.mean()}
        return combine(base, known, distilled, self.config.alpha), logged
