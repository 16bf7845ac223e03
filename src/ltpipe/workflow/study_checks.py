"""Checks of iterative magnitude pruning that a schema cannot express."""

from typing import Any

from ltpipe.runtime.errors import UserError
from ltpipe.runtime.options import as_given
from ltpipe.scoring.criterion import criterion_options, every_criterion
from ltpipe.training.settings import TrainingSettings
from ltpipe.training.tasks import task_names

Config = dict[str, Any]


def check_studies(config: Config) -> None:
    """Refuse studies that cannot be run, and fill in the options of their criteria.

    Raises:
        UserError: a study cannot be run; names the key, the value and what is accepted.
    """
    for name, study in config["imp"].items():
        where = f"imp.{name}"
        _check_steps(where, study)
        if (kind := study["task"]["kind"]) not in task_names():
            raise UserError(f"{where}.task.kind: '{kind}' is not a task; use {', '.join(task_names())}")
        _check_start(f"{where}.task", study["task"], config["models"])
        _check_criterion(where, study["prune"]["criterion"])
        chosen = criterion_options(study["prune"]["criterion"], study["prune"]["options"], f"{where}.prune.options")
        study["prune"]["options"] = as_given(chosen)
        _check_donors(where, name, config["imp"])
        levels = study["branches"]["levels"]
        if levels != "all" and (beyond := [level for level in levels if level > study["levels"]]):
            raise UserError(f"{where}.branches.levels: {beyond[0]} is not allowed; use 0 to {study['levels']}, or all")


def _check_steps(where: str, study: Config) -> None:
    train, iterations = study["train"], study["train"]["iterations"]
    if study["rewind"]["step"] >= iterations:
        raise UserError(
            f"{where}.rewind.step: {study['rewind']['step']} is not allowed, since training ends at {iterations}; "
            f"use 0 to {iterations - 1}"
        )
    try:
        TrainingSettings(seed=0, **{name: value for name, value in train.items() if name != "trainer_fn"})
    except UserError as error:
        raise UserError(f"{where}.train.{error}") from None
    if train["batch_size"] % study["compute"]["processes"]:
        raise UserError(
            f"{where}.train.batch_size: {train['batch_size']} is not allowed; use a multiple of the "
            f"{study['compute']['processes']} processes of compute.processes"
        )
    gradual, bird = study["branches"]["gradual"], study["early_bird"]
    if gradual and not study["rewind"]["step"] <= gradual["begin"] < gradual["end"] <= iterations:
        raise UserError(
            f"{where}.branches.gradual: begin {gradual['begin']}, end {gradual['end']} is not allowed; use a begin "
            f"before the end, both from {study['rewind']['step']} to {iterations}"
        )
    if bird and bird["every"] > iterations:
        raise UserError(f"{where}.early_bird.every: {bird['every']} is not allowed; use 1 to {iterations}")


def _check_start(where: str, task: Config, models: Config) -> None:
    if task["kind"] == "images" and task["source"].startswith("hub:"):
        raise UserError(f"{where}.source: '{task['source']}' is not allowed; use a folder, a file or package:…")
    if task["kind"] != "text":
        return
    pretrained = task["pretrained"]
    if (pretrained is None) == (task["architecture"] is None):
        raise UserError(
            f"{where}: both or neither of architecture and pretrained is given; set either architecture (random "
            "weights) or pretrained (a model)"
        )
    if pretrained is not None and pretrained not in models:
        known = ", ".join(sorted(models)) or "one that you add under models"
        raise UserError(f"{where}.pretrained: '{pretrained}' is not a model; use {known}")


def _check_criterion(where: str, criterion: str) -> None:
    if criterion not in every_criterion():
        allowed = ", ".join(every_criterion())
        raise UserError(f"{where}.prune.criterion: '{criterion}' is not a criterion; use {allowed}")


def _check_donors(where: str, name: str, studies: Config) -> None:
    study = studies[name]
    for index, donor in enumerate(study["branches"]["transplanted"]):
        key = f"{where}.branches.transplanted[{index}]"
        if donor not in studies:
            raise UserError(f"{key}: '{donor}' is not a study; use {', '.join(sorted(studies))}")
        if donor == name and len(study["replicates"]) < 2:
            raise UserError(f"{key}: the study has one replicate; use another study, or add a second replicate")
        giving = studies[donor]
        if giving["levels"] < study["levels"] or not set(study["replicates"]) <= set(giving["replicates"]):
            raise UserError(f"{key}: '{donor}' lacks levels or replicates of {where}; add them")
