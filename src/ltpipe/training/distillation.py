"""Learning from a teacher: soft targets and feature matching."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from ltpipe.runtime.errors import UserError
from ltpipe.training.levels import Tensors
from ltpipe.training.live import load_values
from ltpipe.training.loop import Loss
from ltpipe.training.task import Task


@dataclass(frozen=True)
class Teaching:
    """How much the teacher counts.

    Attributes:
        temperature: T, above 0, which softens the outputs of both models.
        soft: α, from 0 to 1, the soft targets' share of the loss.
        features: β, 0 or more, the weight of the distance between features.
    """

    temperature: float = 2.0
    soft: float = 0.5
    features: float = 0.0

    def __post_init__(self) -> None:
        """Reject values out of range."""
        if not (self.temperature > 0 and 0 <= self.soft <= 1 and self.features >= 0):
            raise UserError(
                f"distilled: temperature {self.temperature}, soft {self.soft}, features {self.features} is not "
                "allowed; use a temperature above 0, soft from 0 to 1 and features 0 or more"
            )


@dataclass(frozen=True)
class Distillation:
    """A teacher and how much it counts.

    The loss is (1 - α) CE(student, labels) + α T² KL(teacher_T ‖ student_T) + β MSE(features of both), where teacher_T
    and student_T are the softmax of logits / T. Soft targets follow Hinton et al. 2015 (1503.02531), section 2; T²
    preserves the size of the gradients. Features follow Romero et al. 2015 (1412.6550) and are the inputs to the output
    layer. Both models have the same architecture, so features need no projection.

    Attributes:
        teacher: weights and buffers by name.
        teaching: how much the teacher counts.
    """

    teacher: Tensors
    teaching: Teaching

    def loss(self, task: Task, device: torch.device) -> Loss:
        """Return the loss, with the teacher on `device` in evaluation mode."""
        temperature, share, distance = self.teaching.temperature, self.teaching.soft, self.teaching.features
        teacher = task.build(0)
        load_values(teacher, self.teacher)
        teacher.to(device).eval().requires_grad_(False)

        def distilled(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            with torch.no_grad(), _features(task, teacher) as wanted:
                wanted_logits = task.logits(teacher, inputs).float().flatten(0, -2)
            with _features(task, model) as found:
                logits = task.logits(model, inputs).float().flatten(0, -2)
            loss = taught_loss(logits, wanted_logits, labels.flatten(), temperature, share)
            if distance:
                loss = loss + distance * functional.mse_loss(found[0].float(), wanted[0].float())
            return loss

        return distilled


def taught_loss(
    logits: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, temperature: float, share: float
) -> torch.Tensor:
    """Return (1 - α) CE(logits, labels) + α T² KL(teacher_T ‖ student_T), nats per label (`Distillation`).

    Args:
        logits: the student's, float32 [labels, classes].
        teacher: the teacher's, the same shape.
        labels: int64 [labels].
        temperature: T.
        share: α.
    """
    hard = functional.cross_entropy(logits, labels)
    student = functional.log_softmax(logits / temperature, -1)
    wanted = (teacher / temperature).log_softmax(-1)
    soft = functional.kl_div(student, wanted, reduction="batchmean", log_target=True)
    return (1 - share) * hard + share * temperature**2 * soft


@contextmanager
def _features(task: Task, model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect the inputs to the output layer while the context is open."""
    seen: list[torch.Tensor] = []
    hook = task.output(getattr(model, "module", model)).register_forward_pre_hook(
        lambda _module, inputs: seen.append(inputs[0])
    )
    try:
        yield seen
    finally:
        hook.remove()
