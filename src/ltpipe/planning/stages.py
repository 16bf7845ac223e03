"""The plan of one stage."""

from collections.abc import Sequence
from dataclasses import dataclass

from ltpipe.evaluation.plan import BatchSizes
from ltpipe.runtime.fake_device import Peak


@dataclass(frozen=True)
class StagePlan:
    """What one stage needs for one model or training, and for one text if it reads one.

    Attributes:
        stage, model, data: names of the stage, of the model or training, and of the text.
        jobs: number of such jobs in the study.
        sizes: batch sizes of an evaluation.
        device: peak of tensors on the device, bytes by kind; empty for stages that use no device.
        host: peak private main memory of the process, bytes; pages of mapped files are extra, but only use memory
            that is free.
        disk: bytes that all the jobs write.
        problem: why the stage cannot run; empty if it can.
        unforeseen: why the device is not planned; empty if it is.
        operations: approximate floating-point operations of all the jobs on the device: 2 per parameter and token for
            a forward pass, 8 for scores from gradients, whose backward pass runs each block forward once more.
            Attention between positions is not included. For trainings, every operation is counted.
        iterations: optimizer steps of all the jobs.
        examples: examples that all the jobs train on, counting repeats.
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
    """Return whether every stage can run."""
    return not any(stage.problem for stage in plan)
