"""Parts of the rules' commands, and the params that supply them.

Snakemake does not record params that take an argument `input` or `output`; `settings` is the only one that it records.
"""

from collections.abc import Callable
from typing import Any

from ltpipe.runtime.labels import recovery_of
from ltpipe.workflow import grid
from ltpipe.workflow.arguments import as_options, braced

Named = Any
"""Snakemake's named lists: wildcards, input files and output files."""
Param = Callable[..., Any]

ENVIRONMENT = "LTPIPE_LOG={log:q} LTPIPE_MADE_WITH={params.settings[made_with]:q} "
"""Start of every stage's command: variables with its log file and with what its results are made with."""

WITH_DEVICES = 'python -P -S "$LTPIPE_PACKAGE/runtime/slots.py" {resources.gpu} -- '
"""Start of the command of a job that computes on devices, which gets its own devices (docs/gpus.md)."""

COMPUTING = "{params.settings[options]} --device-memory {resources.device_memory} --threads {resources.compute_threads}"
"""Options of a stage that runs a model."""

FORKED = 'python -P -S "$LTPIPE_PACKAGE/runtime/forked.py" '
"""Before a script: it runs in a fork of a process that has imported what scripts import."""

EVALUATION = (
    ENVIRONMENT
    + WITH_DEVICES
    + FORKED
    + '"$LTPIPE/scripts/evaluate.py" --checkpoint {params.folder} --sequences {input.sequences} {params.given}'
    + " --model {wildcards.model} --data {wildcards.data} --code {params.settings[code]} "
    + COMPUTING
    + " --output {output.metrics}"
)
"""The command of every evaluation, with `evaluation_options` as the param `given`."""

TOGETHER = " {params.together}"
"""Added for tickets that may share a pass."""


def given(*names: str) -> Param:
    """Return a param: options named after the input files that they pass; missing files have no option."""
    return lambda wildcards, input: as_options({name: input.get(name) or None for name in names})  # noqa: ARG005


def listed(name: str) -> Param:
    """Return a param: the input files of that name in a form that fits one shell command, even for thousands."""
    return lambda wildcards, input: braced(input.get(name, []))  # noqa: ARG005


def seed_option(wildcards: Named, output: Named) -> str:  # noqa: ARG001
    """Return a param: the option for a criterion's seed; empty if the criterion is deterministic."""
    return as_options({"seed": _seed(wildcards.seed)})


def recovery_option(wildcards: Named, output: Named) -> str:  # noqa: ARG001
    """Return a param: the option for the name of a recovery."""
    return as_options({"recovery": recovery_of(wildcards.criterion)})


def evaluation_options(wildcards: Named, input: Named, output: Named) -> str:
    """Return a param: an evaluation's options beyond the dense model and a text, as far as its rule has them."""
    return as_options(
        {
            "mask": input.get("mask"),
            "solution": input.get("solution") or None,
            "baseline": input.get("baseline"),
            "top_tokens": input.get("top_tokens") or output.get("top_tokens") or None,
            "perturbation": wildcards.get("perturbation"),
            "perturbation_seed": _seed(wildcards.get("perturbation_seed", grid.NO_SEED)),
        }
    )


def _seed(seed: str) -> str | None:
    return None if seed == grid.NO_SEED else seed
