"""What no schema can say about a study of iterative magnitude pruning."""

from typing import Any

from ltpipe.runtime.errors import UserError
from ltpipe.runtime.options import as_given
from ltpipe.scoring.criterion import criterion_options, every_criterion
from ltpipe.training.settings import Settings
from ltpipe.training.tasks import task_names

Config = dict[str, Any]


def check_studies(config: Config) -> None:
    """Refuse studies that cannot be run, and fill in the options of their criteria.

    Raises:
        UserError: naming key, value and what is allowed.
    """
    for name, study in config["imp"].items():
        where = f"imp.{name}"
        _check_steps(where, study)
        if (kind := study["task"]["kind"]) not in task_names():
            raise UserError(f"{where}.task.kind: '{kind}' is no task; allowed: {', '.join(task_names())}")
        _check_start(f"{where}.task", study["task"], config["models"])
        _check_criterion(where, study["prune"]["criterion"])
        chosen = criterion_options(study["prune"]["criterion"], study["prune"]["options"], f"{where}.prune.options")
        study["prune"]["options"] = as_given(chosen)
        _check_donors(where, name, config["imp"])
        levels = study["branches"]["levels"]
        if levels != "all" and (beyond := [level for level in levels if level > study["levels"]]):
            raise UserError(f"{where}.branches.levels: {beyond[0]}; allowed are 0 to {study['levels']}, or all")


def _check_steps(where: str, study: Config) -> None:
    train, iterations = study["train"], study["train"]["iterations"]
    if study["rewind"]["step"] >= iterations:
        raise UserError(
            f"{where}.rewind.step: {study['rewind']['step']}; training ends at {iterations}, allowed are 0 to "
            f"{iterations - 1}"
        )
    try:
        Settings(seed=0, **{name: value for name, value in train.items() if name != "trainer_fn"})
    except UserError as error:
        raise UserError(f"{where}.train.{error}") from None
    if train["batch_size"] % study["compute"]["processes"]:
        raise UserError(
            f"{where}.train.batch_size: {train['batch_size']}; allowed are multiples of the "
            f"{study['compute']['processes']} processes of compute.processes"
        )
    gradual, bird = study["branches"]["gradual"], study["early_bird"]
    if gradual and not study["rewind"]["step"] <= gradual["begin"] < gradual["end"] <= iterations:
        raise UserError(
            f"{where}.branches.gradual: begin {gradual['begin']}, end {gradual['end']}; allowed is begin before end, "
            f"both from {study['rewind']['step']} to {iterations}"
        )
    if bird and bird["every"] > iterations:
        raise UserError(f"{where}.early_bird.every: {bird['every']}; allowed are 1 to {iterations}")


def _check_start(where: str, task: Config, models: Config) -> None:
    if task["kind"] == "images" and task["source"].startswith("hub:"):
        raise UserError(f"{where}.source: '{task['source']}'; images come from a folder, a file or package:…, fetch it")
    if task["kind"] != "text":
        return
    pretrained = task["pretrained"]
    if (pretrained is None) == (task["architecture"] is None):
        raise UserError(
            f"{where}: give one of architecture (random weights) and pretrained (a model), not both or none"
        )
    if pretrained is not None and pretrained not in models:
        known = ", ".join(sorted(models)) or "none yet; add it under models"
        raise UserError(f"{where}.pretrained: '{pretrained}' is no model; allowed: {known}")


def _check_criterion(where: str, criterion: str) -> None:
    if criterion not in every_criterion():
        allowed = ", ".join(every_criterion())
        raise UserError(f"{where}.prune.criterion: '{criterion}' is no criterion; allowed: {allowed}")


def _check_donors(where: str, name: str, studies: Config) -> None:
    study = studies[name]
    for index, donor in enumerate(study["branches"]["transplanted"]):
        key = f"{where}.branches.transplanted[{index}]"
        if donor not in studies:
            raise UserError(f"{key}: '{donor}' is no study; allowed: {', '.join(sorted(studies))}")
        if donor == name and len(study["replicates"]) < 2:
            raise UserError(f"{key}: the study has one replicate; name another study, or give it a second replicate")
        giving = studies[donor]
        if giving["levels"] < study["levels"] or not set(study["replicates"]) <= set(giving["replicates"]):
            raise UserError(f"{key}: '{donor}' has fewer levels or other replicates than {where}; give it as many")
