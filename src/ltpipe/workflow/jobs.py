"""What the rules declare of their jobs: input files, settings, threads, memory and time.

Functions whose first argument is `wildcards` are for Snakemake to call, with those of its own arguments that they name.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from ltpipe.data import images
from ltpipe.data.rows import LAST_SUFFIXES
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import check_writable
from ltpipe.runtime.sources import Source
from ltpipe.scoring.criterion import scored_criterion
from ltpipe.workflow import grid, refinement, resources
from ltpipe.workflow.closure import module_closure
from ltpipe.workflow.code import SCHEMA
from ltpipe.workflow.commands import Named, Param
from ltpipe.workflow.config import Config, check_config, moved
from ltpipe.workflow.configfile import read_config
from ltpipe.workflow.rules import level_mask_of, prunes_trained, rewinds_weights
from ltpipe.workflow.settings import Settings
from ltpipe.workflow.study import as_text


@contextmanager
def ending_in_one_line() -> Iterator[None]:
    """Ends the run with one line where the user is to mend something; a WorkflowError would add three of our files."""
    try:
        yield
    except UserError as error:
        sys.exit(f"error: {error}")


@dataclass(frozen=True, eq=False)
class Jobs:
    """The jobs of a study.

    Attributes:
        config: checked, with all defaults.
        workflow: Snakemake's.
    """

    config: Config
    workflow: Any

    @classmethod
    def of(cls, config: Config, folder: Path, workflow: Any) -> "Jobs":
        """Those of a configuration as Snakemake read it; ends the run with one line if it cannot be run.

        Args:
            config: not checked.
            folder: that its sources are relative to.
            workflow: Snakemake's.
        """
        with ending_in_one_line():
            check_writable(Path("results"))  # snakemake would say it less clearly, or not in one line
            return cls(check_config(config, read_config(SCHEMA), folder), workflow)

    @cached_property
    def plan(self) -> resources.Plan:
        """What `ltpipe plan` has found out, where it has. No input of any job: a new plan must not rerun anything."""
        with ending_in_one_line():
            return resources.read_plan(Path(grid.PLAN, "plan.json"), self.config)

    def outdated(self) -> list[str]:
        """Warnings that the plan is not for this configuration."""
        return [
            f"{grid.PLAN}/plan.json does not match the configuration of model {model} ({', '.join(sections)} "
            "changed): its jobs request resources estimated from file sizes; run make plan to update it"
            for model, sections in self.plan.outdated.items()
        ]

    def study_text(self, folder: str) -> str:
        """The study as YAML, for a file in a folder: sources are relative to it."""
        return as_text(moved(self.config, Path(), Path(folder)))

    # Params

    def settings(self, rule: str, **texts: str) -> Param:
        """The one param that Snakemake records of a rule, which is all that a job is told, with the code that it runs.

        A dict, since of several params Snakemake compares the set of their values: their names, order and number are
        lost. What else stands under `params` is made of input and output, and such params are not recorded.

        Args:
            rule: a name in `RULES`.
            texts: that the rule is told besides.
        """
        settings = self._settings
        return lambda wildcards: {**settings.of(rule, dict(wildcards.items())), **texts}

    @cached_property
    def _settings(self) -> Settings:
        return Settings(self.config)

    # Threads, memory, time

    @property
    def on_cluster(self) -> bool:
        """Whether jobs run on other machines than this, or this is such a job. Not known before there are jobs."""
        return self.workflow.non_local_exec or self.workflow.remote_exec

    def threads(self, wildcards: Named) -> int:  # noqa: ARG002
        """Processors that the scheduler sets aside for a job that computes.

        On a cluster `auto` is --max-threads, which jobs are told: how many processors their node has is not for them.
        """
        if self.config["threads"] != "auto":
            return self.config["threads"]
        settings = self.workflow.resource_settings
        return (settings.max_threads if self.on_cluster else settings.cores) or 1

    def compute_threads(self, wildcards: Named) -> int:
        """Threads that such a job starts, 0 for all it may use. A resource, since it must not rerun anything."""
        return 0 if self.config["threads"] == "auto" and not self.on_cluster else self.threads(wildcards)

    def training_threads(self, wildcards: Named) -> int:
        """Processors of a job of a training."""
        compute = self._study(wildcards)["compute"]
        return compute["threads"] * compute["processes"]

    def save_every(self, wildcards: Named) -> int:
        """Iterations between two saved states of a training. A resource, since it changes no result."""
        return self._study(wildcards)["compute"]["save_every"]

    def needs(self, rule: str) -> dict[str, Any]:
        """The resources of a rule: `mem_mb`, `runtime` (minutes), and devices where it computes on some."""

        # Files that are not there yet have a size when the job is submitted.
        def memory(wildcards: Named, input: Named, attempt: int) -> int:
            planned = resources.planned_mb(self.plan, rule, wildcards)
            size = 0 if planned else _read_mb(input)
            return resources.memory_mb(rule, planned, size, self._gpus(rule, wildcards), attempt)

        def runtime(wildcards: Named, input: Named, attempt: int, threads: int) -> int:
            gpus = self._gpus(rule, wildcards)
            return resources.minutes(self.config, rule, wildcards, _read_mb(input), gpus, threads, attempt)

        needs: dict[str, Any] = {"mem_mb": memory, "runtime": runtime}
        match resources.STAGES[rule].device:
            case "evaluate":
                # GiB that an evaluation's tensors may take, 0 for what is free: it changes no result.
                allowed = self.config["evaluate"]["device_memory"]
                needs |= {"gpu": self._evaluation_gpus, "device_memory": "0" if allowed == "auto" else str(allowed)}
            case "imp":
                needs |= {"gpu": self._training_gpus}
        return needs

    def _gpus(self, rule: str, wildcards: Named) -> int:
        match resources.STAGES[rule].device:
            case "evaluate":
                return self._evaluation_gpus
            case "imp":
                return self._training_gpus(wildcards)
        return 0

    @property
    def _evaluation_gpus(self) -> int:
        evaluate = self.config["evaluate"]
        return int({"cpu": 0, "auto-shard": evaluate["devices"]}.get(evaluate["device"], 1))

    def _training_gpus(self, wildcards: Named) -> int:
        compute = self._study(wildcards)["compute"]
        return 0 if compute["device"] == "cpu" else compute["processes"]

    # Input files

    def model_files(self, wildcards: Named) -> list[str]:
        """The files that a model comes from, and its tokenizer if that lies elsewhere."""
        model = self.config["models"][wildcards.model]
        sources = [
            Source(model[key], f"models.{wildcards.model}.{key}") for key in ("source", "tokenizer") if model[key]
        ]
        return [file for source in sources for file in _files_of(source, ".safetensors", ".json")]

    def text_files(self, wildcards: Named) -> list[str]:
        """The files that a text comes from."""
        source = self.config["data"][wildcards.data]["source"]
        return _files_of(Source(source, f"data.{wildcards.data}.source"), *LAST_SUFFIXES)

    def task_files(self, wildcards: Named) -> list[str]:
        """The files that the examples of a task come from, for tasks that say so."""
        source = self._study(wildcards)["task"].get("source")
        key = f"imp.{wildcards.study}.task.source"
        return _files_of(Source(source, key), *images.SUFFIXES, *LAST_SUFFIXES) if source else []

    def trainer_files(self, wildcards: Named) -> list[str]:
        """The files of a user's training loop, if they lie in the working folder."""
        name = (self._study(wildcards)["train"]["trainer_fn"] or "").partition(":")[0]
        return [str(path) for path in module_closure(name)] if name else []

    def pretrained(self, wildcards: Named) -> list[str]:
        """The model whose checkpoint training begins with, for tasks that begin with one."""
        model = self._study(wildcards)["task"].get("pretrained")
        return [model] if model else []

    def calibration(self, wildcards: Named) -> list[str]:
        """The calibration sequences of a criterion that needs some."""
        needed = scored_criterion(wildcards.criterion).needs_data
        return [grid.CALIBRATION.format(model=wildcards.model, data=self.config["score"]["data"])] if needed else []

    def scores(self, wildcards: Named) -> list[str]:
        """The scores that a criterion ranks by; none where it ranks the weights themselves."""
        return [grid.SCORES] if grid.has_scores(self.config, wildcards.criterion) else []

    def parts(self, wildcards: Named) -> list[str]:
        """What a hybrid adds up: score files, and the names of criteria that have none."""
        return [
            grid.SCORES.format(model=wildcards.model, criterion=part) if grid.has_scores(self.config, part) else part
            for part in self.config["score"]["hybrids"][wildcards.criterion]
        ]

    def part_files(self, wildcards: Named) -> list[str]:
        """The score files of a hybrid's parts."""
        return [part for part in self.parts(wildcards) if "/" in part]

    @property
    def top_tokens(self) -> dict[str, str]:
        """The file of a dense model's top tokens, by name; none where tickets are not compared with them."""
        return {"top_tokens": grid.TOP_TOKENS} if self.config["evaluate"]["top_k"] else {}

    def tickets_after(self, model: str, number: int) -> list[grid.Ticket]:
        """The tickets of a model that are known of after so many rounds of refinement, those of the grid with none.

        Before that round has been, those that are known now: a checkpoint has what reads it asked again. It is read
        here, not by `checkpoints.refinement.get`: of a job that waits for a checkpoint Snakemake looks at no param, so
        that results without refinement would stay as they are.
        """
        if not number:
            return grid.tickets(self.config, model)
        with ending_in_one_line():
            return refinement.refined(self.config, model, Path(grid.REFINEMENT.format(model=model, round=number)))

    def known_tickets(self, wildcards: Named) -> list[str]:
        """The tickets that a round of refinement looks at."""
        tickets = self.tickets_after(wildcards.model, int(wildcards.round) - 1)
        return [ticket.named(grid.TICKET) for ticket in tickets]

    def round_before(self, wildcards: Named) -> list[str]:
        """What the round before has found; nothing before the first."""
        return _round(wildcards.model, int(wildcards.round) - 1)

    def last_round(self, wildcards: Named) -> list[str]:
        """What the last round of refinement has found, where there is one."""
        return _round(wildcards.model, refinement.rounds(self.config))

    def every_ticket(self, wildcards: Named) -> list[str]:
        """All tickets of a model."""
        return [ticket.named(grid.TICKET) for ticket in self._every(wildcards)]

    def every_mask(self, wildcards: Named) -> list[str]:
        """All masks of a model."""
        return grid.masks(self._every(wildcards))

    def _every(self, wildcards: Named) -> list[grid.Ticket]:
        return self.tickets_after(wildcards.model, refinement.rounds(self.config))

    def ranked_state(self, wildcards: Named) -> str:
        """What a level ranks: the trained weights of the level before, or those that training starts from."""
        if prunes_trained(self.config, wildcards):
            return _ticket_before(wildcards)
        return grid.POINT.format(study=wildcards.study, replicate=wildcards.replicate)

    def ranked_mask(self, wildcards: Named) -> list[str]:
        """The mask of the level before, where the state that is ranked has none."""
        level = int(wildcards.level) - 1
        if level == 0 or prunes_trained(self.config, wildcards):
            return []
        return [grid.LEVEL_MASK.format(study=wildcards.study, replicate=wildcards.replicate, level=level)]

    def branch_mask(self, wildcards: Named) -> list[str]:
        """The mask of a level, or that of the study that it is transplanted from; level 0 has none."""
        mask = level_mask_of(self.config, wildcards)
        return [grid.LEVEL_MASK.format(**mask)] if mask else []

    def branch_trained(self, wildcards: Named) -> list[str]:
        """The ticket of the level before, where its weights are kept."""
        return [] if rewinds_weights(self.config, wildcards) else [_ticket_before(wildcards)]

    def branch_teacher(self, wildcards: Named) -> list[str]:
        """The trained dense network, where a branch is distilled from it."""
        return [_ticket_at(wildcards, 0)] if wildcards.branch == "distilled" else []

    # Words of commands

    def launch(self, wildcards: Named, input: Named) -> str:  # noqa: ARG002
        """A param: the command that runs a training's script; several processes share every batch."""
        processes = self._study(wildcards)["compute"]["processes"]
        several = f" -m torch.distributed.run --standalone --nproc-per-node {processes}"
        return "python" + (several if processes > 1 else "")

    def _study(self, wildcards: Named) -> Config:
        return self.config["imp"][wildcards.study]


def any_of(names: Iterable[str]) -> str:
    """Regular expression of one of some names, or of nothing if there are none."""
    return "|".join(map(re.escape, names)) or "(?!)"


def _round(model: str, number: int) -> list[str]:
    return [grid.REFINEMENT.format(model=model, round=number)] if number else []


def _ticket_at(wildcards: Named, level: int) -> str:
    return grid.TRAINED.format(study=wildcards.study, replicate=wildcards.replicate, level=level, branch="ticket")


def _ticket_before(wildcards: Named) -> str:
    return _ticket_at(wildcards, int(wildcards.level) - 1)


def _files_of(source: Source, *suffixes: str) -> list[str]:
    """The files of a source as inputs."""
    with ending_in_one_line():
        return source.files(*suffixes)


def _read_mb(files: Iterable[str]) -> float:
    """Size of what a job reads, MB. `input.size_mb` says the same, and makes a large dry run half as slow again."""
    return sum(map(_size, files)) / 2**20


@cache
def _size(path: str) -> int:
    return Path(path).stat().st_size
