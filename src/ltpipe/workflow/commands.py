"""Words of the rules' commands, and the params that give them.

Snakemake does not record params with an argument `input` or `output`; settings are the one that it does.
"""

from collections.abc import Callable
from typing import Any

from ltpipe.workflow import grid
from ltpipe.workflow.arguments import as_options, braced

Named = Any
"""Snakemake's list of which some have names: wildcards, input and output files."""
Param = Callable[..., Any]

TOLD = "LTPIPE_LOG={log:q} LTPIPE_MADE_WITH={params.settings[made_with]:q} "
"""Begins the command of every stage: where it writes its log to, and what its results are made with."""

WITH_DEVICES = 'python -P -S "$LTPIPE_PACKAGE/runtime/slots.py" {resources.gpu} -- '
"""Begins the command of a job that computes on devices: it gets some of its own (docs/gpus.md)."""

COMPUTING = "{params.settings[options]} --device-memory {resources.device_memory} --threads {resources.compute_threads}"
"""Options of a stage that walks a model."""

EVALUATION = (
    TOLD
    + WITH_DEVICES
    + 'python "$LTPIPE/scripts/evaluate.py" --checkpoint {params.folder} --sequences {input.sequences} {params.given}'
    + " --model {wildcards.model} --data {wildcards.data} "
    + COMPUTING
    + " --output {output.metrics}"
)
"""The command of every evaluation, with `evaluation_options` as the param `given`."""


def given(*names: str) -> Param:
    """A param: options of a command that are called as the input files that they name; none of files that are not."""
    return lambda wildcards, input: as_options({name: input.get(name) or None for name in names})  # noqa: ARG005


def listed(name: str) -> Param:
    """A param: the input files of that name as one shell command can take them, thousands of them too."""
    return lambda wildcards, input: braced(input.get(name, []))  # noqa: ARG005


def seed_option(wildcards: Named, output: Named) -> str:  # noqa: ARG001
    """A param: the option that says a criterion's seed; none where nothing is drawn."""
    return as_options({"seed": _seed(wildcards.seed)})


def evaluation_options(wildcards: Named, input: Named, output: Named) -> str:
    """A param: what an evaluation is given beside the dense model and a text, as far as its rule has it."""
    return as_options(
        {
            "mask": input.get("mask"),
            "baseline": input.get("baseline"),
            "top_tokens": input.get("top_tokens") or output.get("top_tokens") or None,
            "perturbation": wildcards.get("perturbation"),
            "perturbation_seed": _seed(wildcards.get("perturbation_seed", grid.NO_SEED)),
        }
    )


def _seed(seed: str) -> str | None:
    return None if seed == grid.NO_SEED else seed
