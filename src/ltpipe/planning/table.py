"""A plan for readers: a table of stages, and one line that says whether it fits."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ltpipe.planning.stages import StagePlan, fits
from ltpipe.runtime.fake_device import Peak
from ltpipe.runtime.records import typed
from ltpipe.workflow.config import Config
from ltpipe.workflow.plan import StudyPlan
from ltpipe.workflow.resources import memory_settings


def write_plan(plan: Sequence[StagePlan], config: Config, path: Path) -> None:
    """Write a study's plan as JSON, sizes in bytes, with the settings that it depends on."""
    settings = {model: memory_settings(config, model) for model in config["models"] if config["grid"]}
    stages = [asdict(stage) for stage in plan]
    typed(StudyPlan, {"fits": fits(plan), "settings": settings, "stages": stages}, path, StudyPlan.KIND).write(path)


def print_plan(plan: Sequence[StagePlan]) -> None:
    """Print a plan on standard output: the stages of each model and training, what fills the device, the verdict."""
    console = Console()
    for model, stages in groupby(plan, key=attrgetter("model")):
        listed = list(stages)
        console.print(stages_table(model, listed))
        for stage in listed:
            if stage.device.total:
                console.print(Text(f"{_name(stage)}: {_parts(stage.device)} MiB"), soft_wrap=True)
            if stage.unforeseen:
                console.print(Text(f"{_name(stage)}: the device is not planned: {stage.unforeseen}"), soft_wrap=True)
        console.print()
    console.print(Text("MiB; device: tensors at their peak; host: private main memory; disk: all that the jobs write"))
    console.print(Text(verdict(plan)), soft_wrap=True)


def stages_table(model: str, plan: Sequence[StagePlan]) -> Table:
    """Return a table with one row per stage of a model or training, memory and disk in MiB (2^20 bytes)."""
    table = Table(title=Text(model), box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("stage", overflow="fold")
    trained = any(stage.iterations for stage in plan)
    last = ("iterations", "examples") if trained else ("together", "a block", "logits")
    for heading in ("jobs", "device", "host", "disk", *last):
        table.add_column(heading, justify="right", no_wrap=True)
    for stage in plan:
        sizes = stage.sizes
        table.add_row(
            Text(_name(stage)),
            str(stage.jobs),
            Text(_mib(stage.device.total), style="red" if stage.problem else ""),
            _mib(stage.host),
            _mib(stage.disk),
            *(map(str, (sizes.super_batch, sizes.micro_batch, sizes.chunk)) if sizes else ()),
            *((f"{stage.iterations:,}", f"{stage.examples:,}") if stage.iterations else ()),
        )
    return table


def verdict(plan: Sequence[StagePlan]) -> str:
    """Return one line that says whether the study can run, and if not, why."""
    peak = max(stage.device.total for stage in plan) / 2**30
    host = max(stage.host for stage in plan) / 2**30
    disk = sum(stage.disk for stage in plan) / 2**30
    needs = f"{peak:.2f} GiB of device memory, {host:.2f} GiB of main memory, {disk:.2f} GiB of disk"
    if fits(plan):
        return f"fits: needs {needs}"
    stage = next(stage for stage in plan if stage.problem)
    return f"does not fit: {stage.model}, {stage.stage}: {stage.problem}"


def _name(stage: StagePlan) -> str:
    return " ".join(filter(None, (stage.stage, stage.data)))


def _parts(peak: Peak) -> str:
    """Return what fills the device, the largest part first."""
    largest = sorted(peak.parts.items(), key=lambda part: -part[1])
    return " + ".join(f"{size / 2**20:,.1f} {label}" for label, size in largest if size >= 2**20 / 20)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f}" if size else ""
