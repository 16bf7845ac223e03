"""What the plan says of one stage."""

from collections.abc import Sequence
from dataclasses import dataclass

from ltpipe.evaluation.plan import BatchSizes
from ltpipe.runtime.simulation import Peak


@dataclass(frozen=True)
class StagePlan:
    """What one stage takes for one model or study, and for one text where it reads one.

    Attributes:
        stage, model, data: which; `model` is the name of a study of trainings too.
        jobs: how many of them the study has.
        sizes: batch sizes of an evaluation.
        device: peak of tensors on the device, bytes by kind; nothing for stages that use none.
        host: private main memory of the process at its peak, bytes; pages of mapped files come on top, but only as
            far as there is room.
        disk: bytes of all that the jobs write.
        problem: why it cannot run; empty if it can.
        unforeseen: why the device is not planned; empty where it is.
        operations: floating-point operations of all the jobs on the device, about: 2 a parameter and token forward,
            8 for scores from gradients, whose walk back runs each block forward once more. Attention between
            positions is not in it. Of trainings they are counted, one operation after the other.
        iterations: optimizer steps of all the jobs.
        examples: that all the jobs train on, each as often as it is.
    """

    stage: str
    model: str
    data: str | None
    jobs: int
    device: Peak
    host: int
    disk: int
    sizes: BatchSizes | None = None
    problem: str = ""
    unforeseen: str = ""
    operations: int = 0
    iterations: int = 0
    examples: int = 0


def fits(plan: Sequence[StagePlan]) -> bool:
    """Whether every stage can run."""
    return not any(stage.problem for stage in plan)
