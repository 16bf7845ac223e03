"""The grid of tickets that a configuration spans, and the name of every artefact."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from decimal import Decimal
from itertools import product
from typing import Any

from ltpipe.evaluation.perturbation import stochastic
from ltpipe.pruning.scopes import own_sparsity
from ltpipe.pruning.scores import CRITERIA
from ltpipe.scoring.criterion import criterion_names, scored_criterion

NO_SEED = "none"

UNKNOWN_COUNT = 1024
"""Sequences to plan for where the configuration takes all that a text gives."""

CHECKPOINT = "results/checkpoints/{model}"
SEQUENCES = "results/sequences/{model}/{data}.safetensors"
CALIBRATION = "results/calibration/{model}/{data}.safetensors"
SCORES = "results/scores/{model}/{criterion}.safetensors"
HISTOGRAM = "results/histograms/{model}/{criterion}/seed-{seed}.safetensors"
MASK = "results/masks/{model}/{criterion}/{scope}/seed-{seed}/{sparsity}.safetensors"
SMALLER = "results/smaller/{model}/{criterion}/{scope}/seed-{seed}/{sparsity}"
BASELINE = "results/baselines/{model}/{data}.json"
TICKET = "results/tickets/{model}/{data}/{criterion}/{scope}/seed-{seed}/{sparsity}.json"
TOP_TOKENS = "results/baselines/{model}/{data}.top.safetensors"
_PERTURBED = "results/robustness/{model}/{data}/{perturbation}/seed-{perturbation_seed}"
PERTURBED_DENSE = f"{_PERTURBED}/dense.json"
PERTURBED_TICKET = f"{_PERTURBED}/{{criterion}}/{{scope}}/seed-{{seed}}/{{sparsity}}.json"
OVERLAP = "results/analysis/overlap/{model}"
VALIDATION = "results/analysis/validation/{model}.csv"
SIMULATION = "results/simulations/{model}/{data}"
_STUDY = "results/imp/{study}"
TASK = f"{_STUDY}/task.safetensors"
_REPLICATE = f"{_STUDY}/replicate-{{replicate}}"
POINT = f"{_REPLICATE}/point.safetensors"
_LEVEL = f"{_REPLICATE}/level-{{level}}"
LEVEL_MASK = f"{_LEVEL}/mask.safetensors"
TRAINED = f"{_LEVEL}/{{branch}}.safetensors"
RECORD = f"{_LEVEL}/{{branch}}.json"
CONNECTIVITY = f"{_LEVEL}/connectivity-{{order}}.json"
EARLY_BIRD = f"{_REPLICATE}/early-bird/{{sparsity}}"
REPORT = "results/report"
PLAN = "results/plan"
"""Artefact names, with the grid's axes as wildcards."""


@dataclass(frozen=True)
class Ticket:
    """One cell of the grid, each axis as the text that stands in artefact names."""

    model: str
    data: str
    criterion: str
    scope: str
    seed: str
    sparsity: str

    def named(self, pattern: str, **axes: str) -> str:
        """The cell's artefact of the given pattern, with the values of axes that are not the cell's."""
        return pattern.format(**asdict(self), **axes)


def canonical_decimal(sparsity: float) -> str:
    """A sparsity as the shortest plain decimal: 0.5 and 0.50 are one sparsity and one file name."""
    return format((Decimal(repr(sparsity)) + 0).normalize(), "f")  # + 0: of -0.0 too


def evaluated_texts(config: dict[str, Any]) -> list[str]:
    """Names of the texts to evaluate on; where none are named, all but the calibration text."""
    return sorted(config["evaluate"]["data"] or set(config["data"]) - {config["score"]["data"]})


def evaluated_sequences(config: dict[str, Any], text: str) -> int | str:
    """How many sequences of a text are evaluated; all windows of one under the protocol of the literature."""
    return "all" if config["data"][text]["protocol"] == "wikitext2" else config["evaluate"]["num_sequences"]


def evaluated_size(config: dict[str, Any], text: str) -> tuple[int, int]:
    """Number and length of the sequences of an evaluated text, as far as they are known."""
    return _known(evaluated_sequences(config, text)), config["evaluate"]["sequence_length"]


def calibration_size(config: dict[str, Any]) -> tuple[int, int]:
    """Number and length of the calibration sequences, as far as they are known."""
    return _known(config["score"]["num_sequences"]), config["score"]["sequence_length"]


def _known(count: int | str) -> int:
    return UNKNOWN_COUNT if count == "all" else int(count)


def has_scores(config: dict[str, Any], criterion: str) -> bool:
    """Whether a criterion has a score file."""
    return criterion in config["score"]["hybrids"] or criterion in criterion_names()


def scored_criteria(config: dict[str, Any]) -> list[str]:
    """Criteria of the grid that have a score stage, with those that only hybrids are made of."""
    hybrids = config["score"]["hybrids"]
    wanted = set(config["grid"]["criteria"]) if config["grid"] else set()
    parts = {part for name in wanted & hybrids.keys() for part in hybrids[name]}
    return sorted((wanted | parts) & set(criterion_names()))


def needs_calibration(config: dict[str, Any]) -> list[str]:
    """Criteria of the grid that need calibration data."""
    return [name for name in scored_criteria(config) if scored_criterion(name).needs_data]


def baselines(config: dict[str, Any]) -> list[str]:
    """Names of all baseline metrics, in the order of their names."""
    return [BASELINE.format(model=model, data=data) for model, data in _dense(config)]


def models(config: dict[str, Any], pattern: str) -> list[str]:
    """Names of an artefact that each model of the grid has one of, in the order of their names."""
    return [pattern.format(model=model) for model in sorted(config["models"]) if config["grid"]]


def masks(config: dict[str, Any], model: str) -> list[str]:
    """Names of all masks of a model, in the order of the tickets."""
    return list(dict.fromkeys(ticket.named(MASK) for ticket in tickets(config) if ticket.model == model))


def tickets(config: dict[str, Any]) -> list[Ticket]:
    """Every ticket of the grid, in an order that does not depend on the order of the lists.

    A criterion that is not stochastic gives one ticket for all seeds, a scope with a sparsity of its own one for all
    sparsities.
    """
    return sorted(
        set(_cells(config)),
        key=lambda ticket: (*list(asdict(ticket).values())[:-1], Decimal(ticket.sparsity)),
    )


def simulations(config: dict[str, Any]) -> list[str]:
    """Names of all simulations of iterative pruning, in the order of their names."""
    if config["simulation"] is None:
        return []
    return [f"{SIMULATION}.json".format(model=model, data=data) for model, data in _dense(config)]


def perturbations(config: dict[str, Any]) -> list[dict[str, str]]:
    """Every perturbation with each of its seeds, as values of their two axes; rounding has no seed."""
    robustness = config["robustness"]
    return [
        {"perturbation": name, "perturbation_seed": str(seed)}
        for name in sorted(robustness["perturbations"])
        for seed in (sorted(robustness["seeds"]) if stochastic(name) else [NO_SEED])
    ]


def perturbed(config: dict[str, Any]) -> list[str]:
    """Names of the metrics of all perturbed models, the dense one and each ticket, in an order as that of `tickets`."""
    dense = _dense(config)
    cells, axes = tickets(config), perturbations(config)
    return [
        *(PERTURBED_DENSE.format(model=model, data=data, **axis) for model, data in dense for axis in axes),
        *(ticket.named(PERTURBED_TICKET, **axis) for ticket in cells for axis in axes),
    ]


def _dense(config: dict[str, Any]) -> list[tuple[str, str]]:
    """The models of the grid, with each text that they are evaluated on."""
    return list(product(sorted(config["models"]), evaluated_texts(config))) if config["grid"] else []


def _cells(config: dict[str, Any]) -> Iterator[Ticket]:
    grid = config["grid"]
    if grid is None:
        return
    for model, data, criterion, scope in product(
        config["models"], evaluated_texts(config), grid["criteria"], grid["scopes"]
    ):
        seeds = grid["seeds"] if criterion in CRITERIA and CRITERIA[criterion].stochastic else [NO_SEED]
        own = own_sparsity(scope)
        for seed, sparsity in product(seeds, grid["sparsities"] if own is None else [own]):
            yield Ticket(model, data, criterion, scope, str(seed), canonical_decimal(sparsity))
