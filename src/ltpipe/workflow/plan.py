"""The plan of a study as a JSON file: what each stage needs, and the settings that this depends on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ltpipe.runtime.records import Count, Positive, Record, Word


@dataclass(frozen=True)
class PlannedPeak:
    """Peak of tensors on a device, bytes, in total and by kind."""

    total: Count
    parts: Mapping[str, Count]


@dataclass(frozen=True)
class PlannedSizes:
    """Batch sizes; see `ltpipe.evaluation.plan.BatchSizes`."""

    super_batch: Positive
    micro_batch: Positive
    chunk: Positive


@dataclass(frozen=True)
class PlannedStage:
    """What one stage needs; see `ltpipe.planning.stages.StagePlan`, which is computed with torch."""

    stage: Word
    model: Word
    data: Word | None
    jobs: Count
    device: PlannedPeak
    host: Count
    disk: Count
    sizes: PlannedSizes | None
    problem: str
    unforeseen: str
    operations: Count
    iterations: Count
    examples: Count


@dataclass(frozen=True)
class StudyPlan(Record):
    """What each stage of a study needs.

    Attributes:
        fits: whether every stage can run.
        settings: of each model, the settings that its memory depends on, by section.
        stages: the stages, in the order in which they are shown.
    """

    KIND: ClassVar[str] = "plan"

    fits: bool
    settings: Mapping[str, Mapping[str, Any]]
    stages: list[PlannedStage]
