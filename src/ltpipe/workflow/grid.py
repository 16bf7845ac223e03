"""The grid of tickets that a configuration spans, and the name of every artefact."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import product
from typing import Any

from ltpipe.evaluation.perturbation import stochastic
from ltpipe.pruning.scopes import has_own_sparsity, is_allocated, scope_named
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.recovery.settings import CONTROL
from ltpipe.runtime.labels import labelled, name_of, pruned_by, recovered, recovery_of, settings_of
from ltpipe.scoring.criterion import criterion_names, is_stochastic, scored_criterion
from ltpipe.solving.solver import is_solver, solver_names

Config = dict[str, Any]
"""A checked configuration, with all defaults."""

NO_SEED = "none"

_MOST_TICKETS = 16
"""Tickets that share a pass if the configuration leaves their number open."""

UNKNOWN_COUNT = 1024
"""Number of sequences to plan for if the configuration takes all of a text."""

CHECKPOINT = "results/checkpoints/{model}"
SEQUENCES = "results/sequences/{model}/{data}.safetensors"
CALIBRATION = "results/calibration/{model}/{data}.safetensors"
SCORES = "results/scores/{model}/{criterion}.safetensors"
HISTOGRAM = "results/histograms/{model}/{criterion}/seed-{seed}.safetensors"
CELL = "{criterion}/{scope}/seed-{seed}"
MASK = f"results/masks/{{model}}/{CELL}/{{sparsity}}.safetensors"
SOLUTION = f"results/solutions/{{model}}/{CELL}/{{sparsity}}.safetensors"
RECOVERY_TEXT = "results/recovered/{model}/sequences/{data}/{recovery}.safetensors"
RECOVERED = f"results/recovered/{{model}}/tickets/{CELL}/{{sparsity}}.safetensors"
RECOVERY = f"results/recovered/{{model}}/tickets/{CELL}/{{sparsity}}.json"
SMALLER = "results/smaller/{model}/{criterion}/{scope}/seed-{seed}/{sparsity}"
BASELINE = "results/baselines/{model}/{data}.json"
TICKET = f"results/tickets/{{model}}/{{data}}/{CELL}/{{sparsity}}.json"
TICKET_AHEAD = f"results/ahead/{{model}}/{{data}}/{CELL}/{{sparsity}}.json"
TOP_TOKENS = "results/baselines/{model}/{data}.top.safetensors"
TASK_REQUESTS = "results/tasks/requests/{model}/{task}.safetensors"
DENSE_RESPONSES = "results/tasks/responses/{model}/{task}/dense.json"
TICKET_RESPONSES = f"results/tasks/responses/{{model}}/{{task}}/{CELL}/{{sparsity}}.json"
TASK_RESULTS = "results/tasks/results/{model}/{task}.json"
_PERTURBED = "results/robustness/{model}/{data}/{perturbation}/seed-{perturbation_seed}"
PERTURBED_DENSE = f"{_PERTURBED}/dense.json"
PERTURBED_TICKET = f"{_PERTURBED}/{{criterion}}/{{scope}}/seed-{{seed}}/{{sparsity}}.json"
OVERLAP = "results/analysis/overlap/{model}"
VALIDATION = "results/analysis/validation/{model}"
TABLES = "results/analysis/tables/{model}"
REFINEMENT = "results/analysis/refinement/{model}/{round}.json"
SIMULATION = "results/simulations/{model}/{data}"
_TRAINING = "results/imp/{training}"
TASK = f"{_TRAINING}/task.safetensors"
_REPLICATE = f"{_TRAINING}/replicate-{{replicate}}"
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
    """A ticket by its axes, each as text for artefact names."""

    model: str
    data: str
    criterion: str
    scope: str
    seed: str
    sparsity: str

    def named(self, pattern: str, **axes: str) -> str:
        """Return the name of its artefact of a pattern, with values for the pattern's other axes."""
        return pattern.format(**vars(self), **axes)

    def at(self, sparsity: Decimal) -> "Ticket":
        """Return the ticket with another sparsity."""
        return replace(self, sparsity=Sparsity.of(float(sparsity)).canonical)

    @property
    def pruned(self) -> "Ticket":
        """The ticket before its recovery, whose mask it has; itself if there was none."""
        return replace(self, criterion=pruned_by(self.criterion))

    @property
    def of_any_sparsity(self) -> "Ticket":
        """The same for all tickets that differ only in sparsity."""
        return replace(self, sparsity="")


def named_settings(section: Config) -> dict[str, Config]:
    """Settings of section score or evaluate by their names; the section itself, under "", if it names none."""
    return section["settings"] or {"": section}


def evaluated_texts(config: Config) -> list[str]:
    """Return the labels of the evaluated texts; by default all texts but those for calibration."""
    trained_on = {settings["data"] for settings in named_settings(config["score"]).values()}
    trained_on |= {recovery_text(config, name) for name in config["recover"]}
    texts = sorted(config["evaluate"]["data"] or set(config["data"]) - trained_on)
    return [labelled(text, settings) for text in texts for settings in sorted(named_settings(config["evaluate"]))]


def recovery_text(config: Config, recovery: str) -> str | None:
    """Return the name of the text that a recovery trains on; None if the configuration has none."""
    return config["recover"][recovery]["data"] or config["score"]["data"]


def evaluated_sequences(config: Config, text: str) -> int | str:
    """Return the number of evaluated sequences of a text; all under protocol wikitext2."""
    if config["data"][name_of(text)]["protocol"] == "wikitext2":
        return "all"
    return named_settings(config["evaluate"])[settings_of(text)]["num_sequences"]


def evaluated_size(config: Config, text: str) -> tuple[int, int]:
    """Return the number and length of the sequences of an evaluated text, as far as they are known."""
    length = named_settings(config["evaluate"])[settings_of(text)]["sequence_length"]
    return _known(evaluated_sequences(config, text)), length


def calibration_text(config: Config, criterion: str) -> str | None:
    """Return the label of the text that a solver or a criterion with a score stage is calibrated on; None for none."""
    if not needs_calibration(criterion):
        return None
    settings = settings_of(criterion)
    return labelled(named_settings(config["score"])[settings]["data"], settings)


def needs_calibration(criterion: str) -> bool:
    """Return whether a solver or a criterion with a score stage, by its name or label, reads calibration sequences."""
    return is_solver(criterion) or scored_criterion(criterion).needs_data


def calibration_texts(config: Config) -> list[str]:
    """Return the labels of all texts that criteria of the grid are calibrated on."""
    calibrated = [*scored_criteria(config), *solvers(config)]
    return sorted({text for name in calibrated if (text := calibration_text(config, name))})


def solvers(config: Config) -> list[str]:
    """Return the labels of the grid's criteria that are solvers."""
    return sorted(filter(is_solver, criteria(config)))


def allocating(solver: str) -> str:
    """Return the label of the criterion whose masks say how many weights each tensor of a solver's mask loses."""
    return labelled("wanda", settings_of(solver))


def allocations(config: Config) -> bool:
    """Return whether solvers of the grid need masks of `allocating`."""
    return bool(solvers(config)) and any(map(is_allocated, config["grid"]["scopes"]))


def calibration_size(config: Config, text: str) -> tuple[int, int]:
    """Return the number and length of the sequences of a calibration text, as far as they are known."""
    settings = named_settings(config["score"])[settings_of(text)]
    return _known(settings["num_sequences"]), settings["sequence_length"]


def _known(count: int | str) -> int:
    return UNKNOWN_COUNT if count == "all" else int(count)


def has_scores(config: Config, criterion: str) -> bool:
    """Return whether a criterion has a score file."""
    return name_of(criterion) in {*config["score"]["hybrids"], *criterion_names()}


def criteria(config: Config) -> list[str]:
    """Labels of the grid's criteria: those that need calibration data with each of the settings for scoring."""
    return [label for name in config["grid"]["criteria"] for label in _labels(config, name)] if config["grid"] else []


def parts(config: Config, hybrid: str) -> list[str]:
    """Return the labels of the criteria whose scores a hybrid adds up."""
    found = {part: _labels(config, part) for part in config["score"]["hybrids"][name_of(hybrid)]}
    return [part if labels == [part] else labelled(part, settings_of(hybrid)) for part, labels in found.items()]


def _labels(config: Config, criterion: str) -> list[str]:
    summed = config["score"]["hybrids"].get(criterion, [criterion])
    known = {*criterion_names(), *solver_names()}
    if not any(part in known and needs_calibration(part) for part in summed):
        return [criterion]
    return [labelled(criterion, settings) for settings in named_settings(config["score"])]


def scored_criteria(config: Config) -> list[str]:
    """Return the labels of the grid's criteria with a score stage, parts of hybrids included."""
    wanted = set(criteria(config))
    hybrids = [label for label in wanted if name_of(label) in config["score"]["hybrids"]]
    added = {part for hybrid in hybrids for part in parts(config, hybrid)}
    added |= {allocating(solver) for solver in solvers(config)} if allocations(config) else set()
    return sorted(label for label in wanted | added if name_of(label) in criterion_names())


def baselines(config: Config, model: str | None = None) -> list[str]:
    """Return the names of the baseline metrics of one model or of all, sorted."""
    return [BASELINE.format(model=name, data=data) for name, data in _dense(config, model)]


def models(config: Config, pattern: str) -> list[str]:
    """Return the names of an artefact of each model of the grid, sorted by model."""
    return [pattern.format(model=model) for model in sorted(config["models"]) if config["grid"]]


def masks(tickets: Iterable[Ticket]) -> list[str]:
    """Return the names of the masks that tickets were pruned with, in their order; several tickets may share one."""
    return list(dict.fromkeys(ticket.named(MASK) for ticket in tickets if not recovery_of(ticket.criterion)))


def tickets_per_pass(config: Config) -> int:
    """Return how many tickets may be evaluated in one pass."""
    most = config["evaluate"]["tickets_per_pass"]
    return _MOST_TICKETS if most == "auto" else int(most)


def tickets(config: Config, model: str | None = None) -> list[Ticket]:
    """Return every ticket of the grid, or of one model, in an order that does not depend on that of the lists.

    A criterion that is not stochastic gives one ticket for all seeds, a scope with a sparsity of its own one for all
    sparsities. Tickets that a recovery trains are there before and after it.
    """
    pruned = set(_cells(config, model))
    return ordered(pruned.union(*(recovered_tickets(config, name, pruned) for name in config["recover"])))


def ordered(tickets: set[Ticket]) -> list[Ticket]:
    """Sort tickets by their axes, sparsities as numbers."""
    return sorted(tickets, key=lambda ticket: (*list(vars(ticket).values())[:-1], Decimal(ticket.sparsity)))


def simulations(config: Config, model: str) -> list[str]:
    """Return the names of all simulations of iterative pruning of a model, sorted."""
    if config["simulation"] is None:
        return []
    return [f"{SIMULATION}.json".format(model=name, data=data) for name, data in _dense(config, model)]


def responses(tickets: Iterable[Ticket], model: str, task: str) -> list[str]:
    """Return the names of the responses of a dense model and its tickets to a task; texts have no part in them."""
    found = (ticket.named(TICKET_RESPONSES, task=task) for ticket in tickets)
    return [DENSE_RESPONSES.format(model=model, task=task), *dict.fromkeys(found)]


def task_results(config: Config, model: str) -> list[str]:
    """Return the names of the results of all tasks for a model, sorted."""
    return [TASK_RESULTS.format(model=model, task=task) for task in sorted(config["evaluate"]["tasks"])]


def perturbations(config: Config) -> list[dict[str, str]]:
    """Return every perturbation with each of its seeds, by axis; rounding has no seed."""
    robustness = config["robustness"]
    return [
        {"perturbation": name, "perturbation_seed": str(seed)}
        for name in sorted(robustness["perturbations"])
        for seed in (sorted(robustness["seeds"]) if stochastic(name) else [NO_SEED])
    ]


def perturbed(config: Config, model: str) -> list[str]:
    """Return the names of the metrics of all perturbed models, dense and tickets, sorted like `tickets`."""
    axes = perturbations(config)
    return [
        *(
            PERTURBED_DENSE.format(model=model, data=data, **axis)
            for model, data in _dense(config, model)
            for axis in axes
        ),
        *(ticket.named(PERTURBED_TICKET, **axis) for ticket in tickets(config, model) for axis in axes),
    ]


def _dense(config: Config, model: str | None) -> list[tuple[str, str]]:
    """Yield a model of the grid, or all of them, with each text that they are evaluated on."""
    return list(product(_models(config, model), evaluated_texts(config))) if config["grid"] else []


def recovered_tickets(config: Config, recovery: str, tickets: Iterable[Ticket]) -> set[Ticket]:
    """Return what a recovery makes of tickets, and of the dense model, which is a ticket that prunes nothing."""
    section = config["recover"][recovery]
    criteria, scopes, sparsities = (section[axis] for axis in ("criteria", "scopes", "sparsities"))
    wanted = {Sparsity.of(sparsity).canonical for sparsity in sparsities or ()}
    chosen = {
        ticket
        for ticket in tickets
        if (criteria is None or name_of(ticket.criterion) in criteria)
        and (scopes is None or ticket.scope in scopes)
        and (sparsities is None or ticket.sparsity in wanted or has_own_sparsity(ticket.scope))
    }
    if section["control"]:
        dense = {"criterion": CONTROL.criterion, "scope": CONTROL.scope, "seed": NO_SEED, "sparsity": CONTROL.sparsity}
        chosen |= {replace(ticket, **dense) for ticket in chosen}
    return {replace(ticket, criterion=recovered(ticket.criterion, recovery)) for ticket in chosen}


def _models(config: Config, model: str | None) -> list[str]:
    return sorted(config["models"]) if model is None else [model]


def _cells(config: Config, model: str | None) -> Iterator[Ticket]:
    grid = config["grid"]
    if grid is None:
        return
    for name, data, criterion, scope in product(
        _models(config, model), evaluated_texts(config), criteria(config), grid["scopes"]
    ):
        seeds = grid["seeds"] if is_stochastic(criterion) else [NO_SEED]
        own = scope_named(scope).own_sparsity
        for seed, sparsity in product(seeds, grid["sparsities"] if own is None else [own]):
            yield Ticket(name, data, criterion, scope, str(seed), Sparsity.of(sparsity).canonical)
