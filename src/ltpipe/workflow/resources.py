"""Main memory and minutes that a job requests from a scheduler. On a workstation they limit nothing.

Memory comes from the study's plan (`ltpipe plan`) if there is one, otherwise from the sizes of a job's input files.
Requests grow with every attempt.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

from ltpipe.runtime.errors import DamagedFileError, UserError
from ltpipe.runtime.labels import recovery_of
from ltpipe.workflow import grid
from ltpipe.workflow.grid import Config
from ltpipe.workflow.plan import StudyPlan

GROWTH = 1.5
"""Factor by which a job's requests grow with each retry."""

MARGIN = 1.2
"""Factor on planned memory, for the allocator's gaps and the libraries of another machine."""

SNAKEMAKE_MB = 400
"""Memory of the two Snakemake processes that a job of the SLURM executor runs beside the stage."""

PYTHON_MB = 600
"""Memory of a stage's Python with its libraries, if it is not planned."""

CUDA_MB = 2000
"""Memory of the CUDA libraries and context, for each accelerator. Assumed, not measured."""

READ_MB_A_MINUTE = 3000
"""Reading speed for input files from a busy shared file system."""

ACCELERATOR_FLOPS, THREAD_FLOPS = 5e12, 1e10
"""Floating-point operations per second that even a slow accelerator and a slow CPU thread reach."""

ITERATIONS_A_MINUTE = 60
"""Speed of a training, whatever it trains."""


@dataclass(frozen=True)
class Stage:
    """How to estimate a rule's needs before it runs.

    Attributes:
        planned: the stage's name in the plan, with wildcards; empty if it is not planned.
        times_input: main memory as a multiple of the size of its input, if it is not planned.
        least_mb: least main memory, if it is not planned.
        minutes: time in addition to reading the input and computing.
        section: section of the configuration with the number of tokens that pass through the model; empty for none.
        passes: passes over each token; a backward pass counts as two.
        device: what says its device: `evaluate`, or the `training` or recovery itself; empty for the CPU.
        trains: whether it runs the iterations of a training.
    """

    planned: str = ""
    times_input: float = 2
    least_mb: int = 0
    minutes: int = 10
    section: str = ""
    passes: int = 1
    device: str = ""
    trains: bool = False


_TRAINING = Stage(times_input=12, least_mb=2000, minutes=30, device="training", trains=True)
# The input has one copy of the weights. A training holds the live weights, gradients, two moments, the best weights,
# the initial weights, and copies of these to write.

STAGES = {
    "checkpoint": Stage("checkpoint", least_mb=16_000, minutes=120),  # the size of a model on the Hub is unknown
    "sequences": Stage("sequences", 4, 2000, 60),
    "calibration": Stage("calibration", 4, 2000, 60),
    "score": Stage("score {criterion}", 3, section="score", passes=3, device="evaluate"),
    "hybrid": Stage("hybrid"),
    "histogram": Stage("histogram"),
    "mask": Stage("mask"),
    "solve": Stage("solve {criterion}", 3, section="score", passes=4, device="evaluate"),
    "baseline": Stage("evaluation", section="evaluate", device="evaluate"),
    "recovery_text": Stage("recovery sequences", 4, 2000, 60),
    "recover": Stage("recover {recovery}", 12, 2000, 30, section="recover", passes=4, device="training"),
    "ticket": Stage("evaluation", section="evaluate", device="evaluate"),
    "task_requests": Stage(least_mb=4000, minutes=60),
    "dense_responses": Stage(times_input=3, least_mb=2000, minutes=240, device="evaluate"),
    "ticket_responses": Stage(times_input=3, least_mb=2000, minutes=240, device="evaluate"),
    "task_results": Stage(least_mb=4000, minutes=60),
    "perturbed_dense": Stage("evaluation, {perturbation}", section="evaluate", device="evaluate"),
    "perturbed_ticket": Stage("evaluation, {perturbation}", section="evaluate", device="evaluate"),
    "simulation": Stage(minutes=60, section="evaluate", passes=10, device="evaluate"),
    "overlap": Stage(minutes=30),
    "validation": Stage(minutes=30),
    "tables": Stage(minutes=30),
    "refinement": Stage(),
    "smaller": Stage(),
    "report": Stage(least_mb=2000, minutes=30),
    "plan": Stage(least_mb=2000),
    "task": Stage(least_mb=4000, minutes=60),
    "rewind_point": _TRAINING,
    "training": _TRAINING,
    "early_bird": _TRAINING,
    "level_mask": Stage(times_input=4, least_mb=2000, minutes=30),
    "connectivity": Stage(times_input=4, least_mb=2000, minutes=30, device="training"),
}
"""Every rule that runs as a job."""


@dataclass(frozen=True)
class Plan:
    """The part of a study's plan that fits the configuration.

    Attributes:
        host: bytes of main memory, by model and stage.
        outdated: models whose settings have changed since the plan was made, with the changed sections.
    """

    host: Mapping[tuple[str, str], int] = field(default_factory=dict)
    outdated: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def memory_settings(config: Config, model: str) -> dict[str, Any]:
    """Return the settings that determine the memory of a model's stages, by section."""
    return {
        "models": config["models"][model],
        "evaluate": _without(config["evaluate"], "data"),
        "score": _without(config["score"], "data"),
        "criteria": sorted({*config["grid"]["criteria"], *grid.scored_criteria(config)}),
        "scopes": sorted(config["grid"]["scopes"]),
        "perturbations": sorted(config["robustness"]["perturbations"]),
        "recover": config["recover"],
    }


def read_plan(path: Path, config: Config) -> Plan:
    """Return the plan in a file; an empty one if the file is missing or the study has no grid.

    The entries of a model whose settings have changed since are ignored.

    Raises:
        UserError: the file is not a plan of this version.
    """
    if not config["grid"] or not path.is_file():
        return Plan()
    try:
        plan = StudyPlan.read(path)
    except DamagedFileError:
        raise UserError(f"{path}: not a plan of this version of ltpipe; delete it, or run make plan") from None
    host: dict[tuple[str, str], int] = {}
    for stage in plan.stages:
        place = stage.model, stage.stage
        host[place] = max(host.get(place, 0), stage.host)
    outdated = {}
    for model in config["models"]:
        now, then = memory_settings(config, model), plan.settings.get(model, {})
        changed = tuple(section for section in now if now[section] != then.get(section))
        if changed:
            outdated[model] = changed
    return Plan({place: size for place, size in host.items() if place[0] not in outdated}, outdated)


def planned_mb(plan: Plan, rule: str, axes: Mapping[str, str]) -> float | None:
    """Return the main memory of a job's stage according to the plan, MB; None if it is not planned."""
    names = {"recovery": recovery_of(axes.get("criterion", "")), **axes}
    size = plan.host.get((axes.get("model", ""), STAGES[rule].planned.format(**names)))
    return None if size is None else size / 2**20


def memory_mb(rule: str, planned: float | None, input_mb: float, gpus: int, attempt: int) -> int:
    """Return the main memory that a job requests, MB.

    Args:
        rule: rule of the job.
        planned: planned main memory of its stage, MB; None if it is not planned.
        input_mb: size of its input files, without code; ignored if it is planned.
        gpus: number of its accelerators.
        attempt: number of this attempt, from 1.
    """
    stage = STAGES[rule]
    own = max(stage.least_mb, PYTHON_MB + stage.times_input * input_mb) if planned is None else planned * MARGIN
    return ceil((SNAKEMAKE_MB + own + CUDA_MB * gpus) * GROWTH ** (attempt - 1))


def _size(config: Config, section: str, axes: Mapping[str, str]) -> tuple[int, int]:
    """Return the number and length of the sequences that a job reads."""
    if section == "recover":
        recovery = config["recover"][recovery_of(axes["criterion"])]
        return ceil(recovery["tokens"] / recovery["sequence_length"]), recovery["sequence_length"]
    if section != "score":
        return grid.evaluated_size(config, axes["data"])
    text = grid.calibration_text(config, axes["criterion"])
    return grid.calibration_size(config, text) if text else (1, 2)


def minutes(
    config: Config, rule: str, axes: Mapping[str, str], input_mb: float, gpus: int, threads: int, attempt: int
) -> int:
    """Return the minutes that a job requests, given the arguments of `memory_mb`, its wildcards and its threads."""
    stage = STAGES[rule]
    needed = stage.minutes + input_mb / READ_MB_A_MINUTE
    if stage.section:
        count, length = _size(config, stage.section, axes)
        operations = stage.passes * count * length * input_mb * 2**20  # two per weight of two bytes
        needed += operations / (60 * (gpus * ACCELERATOR_FLOPS or threads * THREAD_FLOPS))
    if stage.trains:
        needed += config["imp"][axes["training"]]["train"]["iterations"] / ITERATIONS_A_MINUTE
    return ceil(needed * GROWTH ** (attempt - 1))


def _without(section: Config, key: str) -> Config:
    return {name: value for name, value in section.items() if name != key}
