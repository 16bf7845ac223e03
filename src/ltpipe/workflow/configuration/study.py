"""A whole configuration."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from ltpipe.runtime.records import Positive
from ltpipe.workflow.configuration.oneshot import (
    EvaluateSection,
    GridSection,
    ModelSection,
    RobustnessSection,
    ScoreSection,
    SimulationSection,
    TextSection,
)
from ltpipe.workflow.configuration.recovery import RecoverySection
from ltpipe.workflow.configuration.section import Name, Section
from ltpipe.workflow.configuration.training import TrainingSection


def _no_file_of_the_report(name: str) -> str:
    if name == "SHA256SUMS":
        raise ValueError(f"'{name}' is a file of results/report; choose another name")
    return name


StudyName = Annotated[
    str,
    StringConstraints(max_length=100, pattern="^[A-Za-z0-9][A-Za-z0-9_-]*$"),
    AfterValidator(_no_file_of_the_report),
]


class StudySection(Section):
    """The models, texts and tickets of a study."""

    name: StudyName | None = None
    """name of the study, of letters, digits, '_' and '-', at most 100: its report is results/report/NAME, which studies
    with other names leave alone; null for results/report
    """
    models: dict[Name, ModelSection] = {}
    """named models, at least one for a grid"""
    data: dict[Name, TextSection] = {}
    """named texts, at least one for a grid"""
    grid: GridSection | None = None
    score: ScoreSection = Field(default_factory=ScoreSection)
    evaluate: EvaluateSection = EvaluateSection()
    recover: dict[Name, RecoverySection] = {}
    """named ways to train the grid's tickets with their masks held; a ticket of wanda that the entry lora trained
    has the criterion wanda+lora (docs/recovery.md)
    """
    simulation: SimulationSection | None = None
    robustness: RobustnessSection = RobustnessSection()
    threads: Positive | Literal["auto"] = "auto"
    """CPU threads of a job, an integer of at least 1, or auto (all that it may use)"""
    imp: dict[Name, TrainingSection] = {}
    """named trainings of iterative magnitude pruning: train, prune a fraction of what remains, rewind, train again"""
