"""Checks of a configuration that concern several of its sections."""

from ltpipe.pruning.scopes import scope_named
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.errors import UserError, did_you_mean
from ltpipe.runtime.labels import name_of
from ltpipe.runtime.sources import Source
from ltpipe.scoring.criterion import every_criterion
from ltpipe.solving.pattern import Pattern
from ltpipe.solving.solver import solver_names
from ltpipe.workflow.configuration.section import meaning
from ltpipe.workflow.configuration.study import StudySection
from ltpipe.workflow.grid import (
    Config,
    evaluated_texts,
    named_settings,
    needs_calibration,
    recovered_tickets,
    recovery_text,
    scored_criteria,
    solvers,
    tickets,
)


def check_consistency(config: Config) -> None:
    """Refuse a configuration whose sections, each valid in itself, do not fit together.

    Raises:
        UserError: names the key, the value and what is accepted.
    """
    if config["grid"] or not config["imp"]:
        _check_grid(config)
        _check_calibration(config)
    elif config["recover"]:
        raise UserError("recover: it trains tickets of a grid, and there is none; add grid, or remove recover")
    for name in config["imp"]:
        _check_pretrained(config, name)
        _check_donors(config, name)


def _check_grid(config: Config) -> None:
    for key in ("models", "data", "grid"):
        if not config[key]:
            expected = meaning(StudySection.model_fields[key])
            raise UserError(f"configuration: the key '{key}' is missing or empty; expected: {expected}")
    texts = sorted(config["data"])
    for index, name in enumerate(config["evaluate"]["data"] or []):
        if name not in texts:
            raise UserError(f"evaluate.data[{index}]: '{name}' is not a text; use {', '.join(texts)}")
    criteria = sorted({*every_criterion(), *solver_names(), *config["score"]["hybrids"]})
    for index, name in enumerate(config["grid"]["criteria"]):
        if name not in criteria:
            hint = did_you_mean(name, criteria)
            raise UserError(f"grid.criteria[{index}]: '{name}' is not a criterion{hint}; use {', '.join(criteria)}")
    if any(name in solver_names() for name in config["grid"]["criteria"]):
        _check_solvers(config["grid"])


def _check_solvers(section: Config) -> None:
    """Refuse scopes that solvers cannot do."""
    for index, scope in enumerate(section["scopes"]):
        sparsity = scope_named(scope).own_sparsity or Sparsity.of(0)
        try:
            Pattern.of(scope, sparsity, section["scope_options"][scope])
        except UserError as error:
            raise UserError(f"grid.scopes[{index}]: {error}; or give solvers a study of their own") from None


def _check_calibration(config: Config) -> None:
    """Refuse calibration data that is missing, fixed by a protocol, or overlaps with evaluated texts."""
    criteria = [name for name in (*scored_criteria(config), *solvers(config)) if needs_calibration(name)]
    evaluated = sorted({name_of(text) for text in evaluated_texts(config)})
    if not evaluated:
        raise UserError("data: there is no text to evaluate on but those of score.data and recover; add one")
    for settings, calibration in named_settings(config["score"]).items():
        key, name = f"score.settings.{settings}.data" if settings else "score.data", calibration["data"]
        if name is not None:
            _check_unseen(config, key, name, evaluated if criteria else [])
        elif criteria:
            needing = name_of(criteria[0])
            raise UserError(f"{key}: criterion '{needing}' needs calibration data; set it to a text under data")
    for recovery in config["recover"]:
        _check_recovery(config, recovery, evaluated)


def _check_recovery(config: Config, recovery: str, evaluated: list[str]) -> None:
    """Refuse a recovery without a text of its own, or of tickets that the grid has not."""
    section, key = config["recover"][recovery], f"recover.{recovery}"
    name = recovery_text(config, recovery)
    if name is None:
        raise UserError(f"{key}.data: there is no text to train on; set it to a text under data")
    _check_unseen(config, f"{key}.data" if section["data"] else "score.data", name, evaluated)
    for axis in ("criteria", "scopes", "sparsities"):
        for index, wanted in enumerate(section[axis] or ()):
            if wanted not in config["grid"][axis]:
                allowed = ", ".join(map(str, config["grid"][axis]))
                raise UserError(f"{key}.{axis}[{index}]: {wanted} is not in grid.{axis}; use {allowed}")
    without = {**config, "recover": {}}
    if not recovered_tickets(config, recovery, tickets(without)):
        raise UserError(
            f"{key}: the grid has no ticket of its criteria, scopes and sparsities; ask for one that it has"
        )


def _check_unseen(config: Config, key: str, name: str, evaluated: list[str]) -> None:
    """Refuse a text to calibrate or train on that is unknown, or shares documents with evaluated texts."""
    texts = config["data"]
    if name not in texts:
        raise UserError(f"{key}: '{name}' is not a text; use {', '.join(sorted(texts))}")
    if texts[name]["protocol"] == "wikitext2":
        raise UserError(
            f"{key}: '{name}' has protocol wikitext2, which is for evaluation only; add the source again under "
            "data, with protocol documents"
        )
    for other in evaluated:
        if other == name or not _apart(texts[name], texts[other]):
            raise UserError(
                f"{key}: '{name}' shares documents with the evaluated text '{other}'; give them different "
                "sources, or set documents: calibration and documents: evaluation"
            )


def _apart(text: Config, other: Config) -> bool:
    """Return whether two texts have no document in common, as far as their sources show.

    The two parts of one source have none in common. If one source lies inside the other's folder, their documents have
    different names, so parts prove nothing.
    """
    one, two = Source(text["source"]), Source(other["source"])
    if one.is_hub or two.is_hub:
        same = one.is_hub and two.is_hub and one.repository[0] == two.repository[0]
    else:
        first, second = one.path.resolve(), two.path.resolve()
        if first in second.parents or second in first.parents:
            return False
        same = first == second
    return not same or {text["documents"], other["documents"]} == {"calibration", "evaluation"}


def _check_pretrained(config: Config, training: str) -> None:
    pretrained = config["imp"][training]["task"].get("pretrained")
    if pretrained is not None and pretrained not in config["models"]:
        known = ", ".join(sorted(config["models"])) or "one that you add under models"
        raise UserError(f"imp.{training}.task.pretrained: '{pretrained}' is not a model; use {known}")


def _check_donors(config: Config, training: str) -> None:
    trainings = config["imp"]
    taking = trainings[training]
    for index, donor in enumerate(taking["branches"]["transplanted"]):
        key = f"imp.{training}.branches.transplanted[{index}]"
        if donor not in trainings:
            raise UserError(f"{key}: '{donor}' is not a training; use {', '.join(sorted(trainings))}")
        if donor == training and len(taking["replicates"]) < 2:
            raise UserError(f"{key}: the training has one replicate; use another training, or add a second replicate")
        giving = trainings[donor]
        if giving["levels"] < taking["levels"] or not set(taking["replicates"]) <= set(giving["replicates"]):
            raise UserError(f"{key}: '{donor}' lacks levels or replicates of imp.{training}; add them")
