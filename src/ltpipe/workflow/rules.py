"""The keys of the configuration that each rule depends on, one line each in `RULES`."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from ltpipe.pruning.scopes import is_allocated
from ltpipe.runtime.labels import name_of, pruned_by, recovery_of, settings_of
from ltpipe.scoring.criterion import criterion_names
from ltpipe.solving.solver import is_solver, solver_named, solver_names
from ltpipe.workflow import grid, refinement, trainings
from ltpipe.workflow.code import PLACES, allocation_modules, criterion_module, solver_module, task_module
from ltpipe.workflow.configuration import recovery
from ltpipe.workflow.keys import Axes, Config, Job, Key, Rule


def _from(*rules: str) -> Callable[[Config, Axes], Iterable[Job]]:
    return lambda _, axes: [(rule, axes) for rule in rules]


def _no_options(_: dict[str, Any]) -> dict[str, Any]:
    return {}


def _micro_batch(values: dict[str, Any]) -> dict[str, Any]:
    return {name: 0 if value == "auto" else value for name, value in values.items()}


_PRUNABLE = Key("models.{model}.prunable.*")
_TEXT = Key("data.{text}.*")
_COMPUTING = (
    Key("evaluate.precision"),
    Key("evaluate.micro_batch", options=_micro_batch, rounding=True),
    Key("evaluate.execution", rounding=True),
    Key("evaluate.device", rounding=True),
)
_HARNESS_TASK = Key("evaluate.tasks.{task}.*")
_TRAINING = (
    Key("imp.{training}.compute.device", rounding=True),
    Key("imp.{training}.compute.mixed_precision"),
    Key("imp.{training}.compute.threads", rounding=True),
)
_PROCESSES = Key("imp.{training}.compute.processes", options=_no_options)
_TRAIN = Key("imp.{training}.train.*")


def _of_settings(section: str, key: str, matters: Callable[[Config], bool] = lambda _: True) -> tuple[Key, Key]:
    """Return a key of a text's named settings and of the section, of which the one in effect matters to a job."""

    def when(named: bool) -> Callable[[Config, Axes], bool]:
        return lambda config, axes: (
            matters(config["data"][name_of(axes["data"])]) and bool(settings_of(axes["data"])) == named
        )

    return Key(f"{section}.{key}", when=when(False)), Key(f"{section}.settings.{{settings}}.{key}", when=when(True))


def _scores(config: Config, axes: Axes) -> list[Job]:
    """The scores that a criterion ranks by."""
    if name_of(axes["criterion"]) in config["score"]["hybrids"]:
        return [("hybrid", axes)]
    return [("score", axes)] if grid.has_scores(config, axes["criterion"]) else []


def _calibration(config: Config, axes: Axes) -> list[Job]:
    text = grid.calibration_text(config, axes["criterion"])
    return [("calibration", {**axes, "data": text})] if text else []


def _parts(config: Config, axes: Axes) -> list[Job]:
    """The scores that a hybrid adds up."""
    parts = grid.parts(config, axes["criterion"])
    return [("score", {**axes, "criterion": part}) for part in parts if grid.has_scores(config, part)]


def _options(values: dict[str, Any]) -> dict[str, Any]:
    """Options of a criterion or a scope."""
    (given,) = values.values()
    return {"options": given} if given else {}


def _scope_options(values: dict[str, Any]) -> dict[str, Any]:
    (given,) = values.values()
    return {"scope_options": given} if given else {}


def _mask_of(axes: Axes) -> str:
    """The rule that makes a ticket's mask."""
    return "solve" if is_solver(axes["criterion"]) else "mask"


def _ticket_of(axes: Axes) -> Job:
    """The job that makes a ticket: its mask, or its weights after a recovery."""
    return ("recover" if recovery_of(axes["criterion"]) else _mask_of(axes)), axes


def _evaluated(_: Config, axes: Axes) -> list[Job]:
    """What a ticket is evaluated from."""
    return [_ticket_of(axes), ("baseline", axes)]


def _trained_from(config: Config, axes: Axes) -> list[Job]:
    """The mask that a recovery holds, and the sequences that it trains on."""
    name = recovery_of(axes["criterion"])
    text = grid.recovery_text(config, name)
    assert text is not None  # as the configuration was checked
    pruned = {**axes, "criterion": pruned_by(axes["criterion"])}
    return [(_mask_of(pruned), pruned), ("recovery_text", {"model": axes["model"], "data": text, "recovery": name})]


def _recovery_text(values: dict[str, Any]) -> dict[str, Any]:
    return {"sequence_length": values["sequence_length"], "num_sequences": recovery.sequences_of(values)}


def _weights(values: dict[str, Any]) -> dict[str, Any]:
    return {"weights": [weight for parts in values.values() for _, weight in parts]}


def _task(values: dict[str, Any]) -> dict[str, Any]:
    """A task's kind, and its other options as JSON."""
    task = values["task"]
    options = {name: value for name, value in task.items() if name not in ("kind", "pretrained")}
    return {"task": task["kind"], "options": json.dumps(options)}


def _pretrained(config: Config, axes: Axes) -> list[Job]:
    model = config["imp"][axes["training"]]["task"].get("pretrained")
    return [("checkpoint", {"model": model})] if model else []


def _has_mode(_: Config, axes: Axes) -> bool:
    """Whether `rewind.mode` applies to a training; the others always start from the weights of the rewinding step."""
    return axes["level"] != "0" and not axes["branch"].startswith(("reinitialised-", "gradual"))


def rewinds_weights(config: Config, axes: Axes) -> bool:
    """Whether a run starts from the weights of the rewinding step."""
    return not _has_mode(config, axes) or config["imp"][axes["training"]]["rewind"]["mode"] == "weights"


def _branch(name: str) -> Key:
    return Key(f"imp.{{training}}.branches.{name}.*", when=lambda _, axes: axes["branch"] == name)


def level_mask_of(config: Config, axes: Axes) -> Axes | None:
    """Training, replicate and level of the mask that a run holds; level 0 has none."""
    if axes["level"] == "0":
        return None
    name = axes["branch"].removeprefix("transplanted-")
    if name == axes["branch"]:
        return axes
    replicate = trainings.donor(config, axes["training"], axes["replicate"], name)
    return {**axes, "training": name, "replicate": replicate}


def _ticket(axes: Axes, level: int) -> Job:
    return "training", {**axes, "level": str(level), "branch": "ticket"}


def prunes_trained(config: Config, axes: Axes) -> bool:
    """Whether a level ranks the weights that the previous level trained, not those that training starts from."""
    return config["imp"][axes["training"]]["prune"]["at"] == "end"


def _before(config: Config, axes: Axes) -> list[Job]:
    """What a level prunes. From level 2 on, all levels depend on the same settings."""
    level = min(int(axes["level"]), 2) - 1
    if prunes_trained(config, axes):
        return [("task", axes), _ticket(axes, level)]
    mask: list[Job] = [("level_mask", {**axes, "level": str(level)})] if level else []
    return [("task", axes), ("rewind_point", axes), *mask]


def _learned(config: Config, axes: Axes) -> list[Job]:
    """What a run starts from."""
    jobs: list[Job] = [("task", axes), ("rewind_point", axes)]
    if (mask := level_mask_of(config, axes)) is not None:
        jobs.append(("level_mask", mask))
    if not rewinds_weights(config, axes):
        jobs.append(_ticket(axes, min(int(axes["level"]), 2) - 1))
    return [*jobs, _ticket(axes, 0)] if axes["branch"] == "distilled" else jobs


def _line(_: Config, axes: Axes) -> list[Job]:
    """The two ends of a line."""
    return [("training", {**axes, "branch": branch}) for branch in ("ticket", f"order-{axes['order']}")]


def _simulated(_: Config, axes: Axes) -> list[Job]:
    counted = {"model": axes["model"], "criterion": "magnitude"}
    return [("checkpoint", axes), ("sequences", axes), ("histogram", counted)]


def _tickets(rule: str, config: Config, axes: Axes) -> list[Job]:
    """Jobs of a rule for all tickets of a model; their settings do not depend on seed or sparsity."""
    cells = {(cell.data, cell.criterion, cell.scope) for cell in grid.tickets(config, axes["model"])}
    names = ("data", "criterion", "scope")
    return [(rule, {"model": axes["model"], **dict(zip(names, cell, strict=True))}) for cell in sorted(cells)]


def _responses(config: Config, axes: Axes) -> list[Job]:
    """Responses of a model and all its tickets to a task."""
    tickets = _tickets("ticket_responses", config, axes)
    asked: list[Job] = [(rule, {**ticket, "task": axes["task"]}) for rule, ticket in tickets]
    return [("dense_responses", axes), *asked, *_refinement(config, axes)]


def _has_controls(config: Config, _: Axes) -> bool:
    return refinement.CONTROL in config["grid"]["criteria"]


def _controls(values: dict[str, Any]) -> dict[str, Any]:
    return {"controls": values["seeds"]}


def _masks(config: Config, axes: Axes) -> list[Job]:
    """Every mask of a model."""
    tickets = [found for _, found in _tickets("mask", config, axes) if not recovery_of(found["criterion"])]
    return [(_mask_of(found), found) for found in tickets] + _refinement(config, axes)


def _refinement(config: Config, axes: Axes) -> list[Job]:
    """The last round of refinement, which lists the tickets beyond the grid."""
    return [("refinement", {"model": axes["model"]})] if config["grid"]["refine"] else []


def _measured(config: Config, axes: Axes) -> list[Job]:
    """All measurements of a model."""
    texts = [{"model": axes["model"], "data": text} for text in grid.evaluated_texts(config)]
    jobs = _tickets("ticket", config, axes) + _refinement(config, axes) + [("baseline", text) for text in texts]
    if grid.perturbations(config):
        jobs += _tickets("perturbed_ticket", config, axes) + [("perturbed_dense", text) for text in texts]
    jobs += [("task_results", {"model": axes["model"], "task": task}) for task in config["evaluate"]["tasks"]]
    return jobs + [("simulation", text) for text in texts if config["simulation"] is not None]


def _everything(config: Config, _: Axes) -> list[Job]:
    """Everything that the report reads."""
    per_model = ("overlap", "validation", "tables")
    jobs: list[Job] = [
        (rule, {"model": model}) for rule in per_model for model in sorted(config["models"]) if config["grid"]
    ]
    jobs += [("training", vars(cell)) for cell in trainings.every_training(config)]
    return jobs + [("early_bird", {"training": name}) for name, entry in config["imp"].items() if entry["early_bird"]]


def _places(_: Config, __: Axes) -> list[Path]:
    return PLACES


def _criterion(_: Config, axes: Axes) -> list[Path]:
    return [criterion_module(name_of(axes["criterion"]))]


def _allocating(axes: Axes) -> list[Job]:
    """The mask that says how many weights a solver prunes in each tensor."""
    wanted = {**axes, "criterion": grid.allocating(axes["criterion"])}
    return [("mask", wanted)] if is_allocated(axes["scope"]) else []


def _solver(_: Config, axes: Axes) -> list[Path]:
    name = name_of(axes["criterion"])
    by_another = any(field.name == "after" for field in fields(solver_named(name).options))
    return [solver_module(each) for each in (solver_names() if by_another else (name,))]


def _allocation(_: Config, axes: Axes) -> list[Path]:
    return allocation_modules(axes["scope"])


def _allocations(config: Config, _: Axes) -> list[Path]:
    """Allocation modules of all scopes of the grid."""
    scopes = config["grid"]["scopes"] if config["grid"] else []
    return [module for scope in sorted(scopes) for module in allocation_modules(scope)]


def _kind(config: Config, axes: Axes) -> list[Path]:
    return [task_module(config["imp"][axes["training"]]["task"]["kind"])]


def _kind_and_places(config: Config, axes: Axes) -> list[Path]:
    return [*_kind(config, axes), *PLACES]


def _kind_and_criterion(config: Config, axes: Axes) -> list[Path]:
    criterion = config["imp"][axes["training"]]["prune"]["criterion"]
    own = [criterion_module(criterion)] if criterion in criterion_names() else []
    return [*_kind(config, axes), *own]


RULES: Mapping[str, Rule] = {
    "checkpoint": Rule(
        (Key("models.{model}.source"), Key("models.{model}.tokenizer"), Key("models.{model}.dtype")),
        modules=_places,
    ),
    "sequences": Rule(
        (
            _TEXT,
            *_of_settings("evaluate", "sequence_length"),
            # Protocol wikitext2 takes all of them, which is the default of the command.
            *_of_settings("evaluate", "num_sequences", lambda text: text["protocol"] != "wikitext2"),
        ),
        _from("checkpoint"),
        modules=_places,
    ),
    "calibration": Rule(
        (_TEXT, *_of_settings("score", "sequence_length"), *_of_settings("score", "num_sequences")),
        _from("checkpoint"),
        modules=_places,
        script="sequences",
    ),
    "score": Rule(
        (
            *_COMPUTING,
            _PRUNABLE,
            Key("score.options.{ranking}", options=_options),
        ),
        lambda config, axes: [("checkpoint", axes), *_calibration(config, axes)],
        modules=_criterion,
    ),
    "hybrid": Rule(
        (_PRUNABLE, Key("score.hybrids.{ranking}", options=_weights, ordered=True)),
        lambda config, axes: [("checkpoint", axes), *_parts(config, axes)],
    ),
    "histogram": Rule((_PRUNABLE,), lambda config, axes: [("checkpoint", axes), *_scores(config, axes)]),
    "mask": Rule((Key("grid.scope_options.{scope}", options=_options),), _from("histogram"), modules=_allocation),
    "solve": Rule(
        (
            *_COMPUTING,
            _PRUNABLE,
            Key("score.options.{ranking}", options=_options),
            Key("grid.scope_options.{scope}", options=_scope_options),
        ),
        lambda config, axes: [("checkpoint", axes), *_calibration(config, axes), *_allocating(axes)],
        modules=_solver,
    ),
    "baseline": Rule((*_COMPUTING, Key("evaluate.top_k")), _from("checkpoint", "sequences"), script="evaluate"),
    "recovery_text": Rule(
        (
            _TEXT,
            Key(
                "recover.{recovery}.*",
                without=frozenset(recovery.RecoverySection.model_fields) - recovery.TEXT,
                options=_recovery_text,
            ),
        ),
        _from("checkpoint"),
        modules=_places,
        script="sequences",
    ),
    "recover": Rule(
        (
            Key("recover.{recovery}.*", without=recovery.NOT_TRAINED, options=recovery.settings_of),
            Key("recover.{recovery}.compute.device", rounding=True),
            Key("recover.{recovery}.compute.mixed_precision"),
            Key("recover.{recovery}.compute.threads", rounding=True),
            Key("recover.{recovery}.compute.processes", options=_no_options),
        ),
        _trained_from,
    ),
    "ticket": Rule(_COMPUTING, _evaluated, script="evaluate"),
    "task_requests": Rule((_HARNESS_TASK,), _from("checkpoint")),
    "dense_responses": Rule(_COMPUTING, _from("task_requests"), script="task_responses"),
    "ticket_responses": Rule(
        _COMPUTING, lambda _, axes: [("task_requests", axes), _ticket_of(axes)], script="task_responses"
    ),
    "task_results": Rule((_HARNESS_TASK,), _responses),
    "perturbed_dense": Rule((*_COMPUTING, _PRUNABLE), _from("baseline"), script="evaluate"),
    "perturbed_ticket": Rule(_COMPUTING, _evaluated, script="evaluate"),
    "simulation": Rule((*_COMPUTING, Key("simulation.*")), _simulated),
    "refinement": Rule(
        (Key("grid.refine.*"), Key("grid.seeds", when=_has_controls, options=_controls, axis=True)),
        partial(_tickets, "ticket"),
    ),
    "overlap": Rule((), _masks),
    "validation": Rule((), _masks, modules=_allocations),
    "tables": Rule((), _measured),
    "smaller": Rule((), _from("mask")),
    "task": Rule((Key("imp.{training}.task", options=_task),), _pretrained, modules=_kind_and_places),
    "rewind_point": Rule(
        (_TRAIN, *_TRAINING, _PROCESSES, Key("imp.{training}.rewind.step")),
        _from("task"),
        modules=_kind,
    ),
    "level_mask": Rule((Key("imp.{training}.prune.*"), *_TRAINING), _before, modules=_kind_and_criterion),
    "training": Rule(
        (
            _TRAIN,
            *_TRAINING,
            _PROCESSES,
            Key(
                "imp.{training}.rewind.mode",
                when=_has_mode,
                options=lambda values: {"rewind": values["mode"]},
            ),
            _branch("gradual"),
            _branch("distilled"),
        ),
        _learned,
        modules=_kind,
    ),
    "connectivity": Rule(_TRAINING, _line, modules=_kind),
    "early_bird": Rule(
        (
            Key("imp.{training}.train.*", without=frozenset({"trainer_fn"})),
            *_TRAINING,
            Key("imp.{training}.prune.scope"),
            Key("imp.{training}.prune.exclude"),
            Key("imp.{training}.early_bird.*", without=frozenset({"sparsities"})),
        ),
        _from("task"),
        modules=_kind,
    ),
    "report": Rule((), _everything),
    "plan": Rule(),
}
"""Every rule that runs as a job. The report and the plan also get the whole configuration."""
