"""The configuration: checked against its schema, with defaults filled in; every error is one line."""

import os
import re
from collections.abc import Iterator
from copy import deepcopy
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, TypeChecker, validators
from jsonschema.exceptions import ValidationError

from ltpipe.data.documents import JOINT
from ltpipe.pruning.scopes import scope_named
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.options import NoOptions, as_given, beyond_defaults, options_of
from ltpipe.runtime.sources import Source
from ltpipe.scoring.criterion import criterion_names, criterion_options, every_criterion
from ltpipe.workflow.code import SCHEMA
from ltpipe.workflow.configfile import check_plain, read_config
from ltpipe.workflow.grid import evaluated_texts, needs_calibration
from ltpipe.workflow.study_checks import check_studies

Config = dict[str, Any]


def _whole(_checker: TypeChecker, value: Any) -> bool:
    """Return whether a value is an integer. JSON counts 2.0 as one; artefact names and command lines do not."""
    return isinstance(value, int) and not isinstance(value, bool)


def _whole_pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[ValidationError]:
    """Match a pattern against a whole string. Python's `$` also matches before a final line break."""
    if isinstance(instance, str) and not re.fullmatch(pattern, instance, re.DOTALL):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


_Validator = validators.extend(
    Draft202012Validator,
    {"pattern": _whole_pattern},
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", _whole),
)


def load_config(path: Path) -> Config:
    """Read and check a configuration file; sources become relative to the working directory.

    Raises:
        UserError: the configuration is invalid; names the file or the key, the value and what is accepted.
    """
    return check_config(read_config(path), read_config(SCHEMA), path.parent)


def check_config(config: Config, schema: dict[str, Any], folder: Path = Path()) -> Config:
    """Check that a configuration can be run, and fill in its defaults.

    Args:
        config: the configuration as read from YAML.
        schema: JSON schema of the configuration, with defaults.
        folder: folder that the paths of its sources are relative to.

    Returns:
        A copy with every default filled in, and sources relative to the working directory.

    Raises:
        UserError: the configuration is invalid; names the key, the value and what is accepted.
    """
    check_plain(config)
    errors = sorted(_Validator(schema).iter_errors(config), key=lambda error: list(map(str, error.path)))
    if errors:
        others = len(errors) - 1
        more = f" ({others} more mistake{'s' if others > 1 else ''} in the file)" if others else ""
        raise UserError(_one_line(errors[0], schema) + more)
    filled = moved(_with_defaults(config, schema, schema), folder, Path())
    if filled["grid"] or not filled["imp"]:
        _check_complete(filled, schema)
        _check_names(filled)
        _check_protocols(filled)
        _check_criteria(filled)
    _check_device(filled["evaluate"])
    check_studies(filled)
    for source in sources(filled):
        source.check()
    if filled["grid"]:
        _check_calibration(filled)
    return filled


def sources(config: Config) -> Iterator[Source]:
    """Return every source that the configuration names."""
    return (Source(holder[name], f"{key}.{name}") for key, holder, name in _sources(config))


def moved(config: Config, old: Path, new: Path) -> Config:
    """Return a copy whose source paths are relative to another folder; the configuration itself if it is the same."""
    if (start := os.path.abspath(old)) == (end := os.path.abspath(new)):  # noqa: PTH100 (Path keeps ..)
        return config
    config = deepcopy(config)
    for key, holder, name in _sources(config):
        if Source(holder[name], key).is_relative:
            holder[name] = os.path.relpath(os.path.join(start, holder[name]), end)  # noqa: PTH118
    return config


def _sources(config: Config) -> Iterator[tuple[str, Config, str]]:
    """Yield where sources are: the key and content of the section that has one, and the source's name there."""
    for name, model in config["models"].items():
        yield from ((f"models.{name}", model, key) for key in ("source", "tokenizer") if model[key])
    for name, text in config["data"].items():
        yield f"data.{name}", text, "source"
    for name, study in config["imp"].items():
        if "source" in study["task"]:
            yield f"imp.{name}.task", study["task"], "source"


def _check_complete(config: Config, schema: dict[str, Any]) -> None:
    for key in ("models", "data", "grid"):
        if not config[key]:
            holds = schema["properties"][key]["description"]
            raise UserError(f"configuration: the key '{key}' is missing or empty; expected: {holds}")


def _check_names(config: Config) -> None:
    known = sorted(config["data"])
    for index, name in enumerate(config["evaluate"]["data"] or []):
        if name not in known:
            raise UserError(f"evaluate.data[{index}]: '{name}' is not a text; use {', '.join(known)}")
    for index, name in enumerate(config["grid"]["scopes"]):
        try:
            scope_named(name)
        except UserError as error:
            raise UserError(f"grid.scopes[{index}]: {error}") from None
    options = config["grid"]["scope_options"]
    if unused := sorted(options.keys() - set(config["grid"]["scopes"])):
        allowed = ", ".join(config["grid"]["scopes"])
        raise UserError(f"grid.scope_options: '{unused[0]}' is not in grid.scopes; use {allowed}")
    config["grid"]["scope_options"] = {
        name: _scope_options(name, options.get(name, {})) for name in config["grid"]["scopes"]
    }
    for index, sparsity in enumerate(config["grid"]["sparsities"]):
        try:
            Sparsity.of(sparsity)
        except UserError as error:
            raise UserError(f"grid.sparsities[{index}]: {error}") from None


def _scope_options(name: str, given: Config) -> Config:
    """Return the options that differ from the scope's defaults. An allocation is imported only if options are given."""
    kind = scope_named(name).options if given else NoOptions
    return beyond_defaults(options_of(kind, given, f"grid.scope_options.{name}"))


def _check_protocols(config: Config) -> None:
    """Refuse protocol wikitext2 with a separator or for calibration: it fixes everything and is for evaluation only."""
    for name, text in config["data"].items():
        if text["protocol"] != "wikitext2":
            continue
        if text["separator"] != JOINT:
            raise UserError(
                f"data.{name}.separator: {text['separator']!r} is not allowed; protocol wikitext2 joins documents with "
                "two newlines, so remove the key"
            )
        if name == config["score"]["data"]:
            raise UserError(
                f"score.data: '{name}' has protocol wikitext2, which is for evaluation only; add the source again "
                "under data, with protocol documents"
            )


def _check_device(evaluate: Config) -> None:
    """Refuse a device number: each job has its own devices, numbered from 0."""
    kind, _, number = evaluate["device"].partition(":")
    if number:
        raise UserError(
            f"evaluate.device: '{evaluate['device']}' names one device, but each job gets a free one; use {kind}, "
            f"and make only device {number} visible: CUDA_VISIBLE_DEVICES={number}"
        )


def _check_criteria(config: Config) -> None:
    hybrids = config["score"]["hybrids"]
    own = set(every_criterion())
    for name, parts in hybrids.items():
        if name in own:
            raise UserError(f"score.hybrids.{name}: a criterion already has this name; choose another")
        for part in parts:
            if part != "magnitude" and part not in criterion_names():
                allowed = ", ".join(["magnitude", *criterion_names()])
                raise UserError(f"score.hybrids.{name}: '{part}' cannot be part of a hybrid; use {allowed}")
    options = config["score"]["options"]
    if unknown := sorted(options.keys() - set(criterion_names())):
        raise UserError(f"score.options: '{unknown[0]}' has no options; use {', '.join(criterion_names())}")
    config["score"]["options"] = {
        name: as_given(criterion_options(name, options.get(name, {}), f"score.options.{name}"))
        for name in criterion_names()
    }
    known = sorted(own | hybrids.keys())
    for index, name in enumerate(config["grid"]["criteria"]):
        if name not in known:
            close = get_close_matches(name, known, 1)
            hint = f" (did you mean '{close[0]}'?)" if close else ""
            raise UserError(f"grid.criteria[{index}]: '{name}' is not a criterion{hint}; use {', '.join(known)}")


def _check_calibration(config: Config) -> None:
    """Refuse missing calibration data, and calibration data that overlaps with evaluated texts."""
    name, texts = config["score"]["data"], config["data"]
    if name is not None and name not in texts:
        raise UserError(f"score.data: '{name}' is not a text; use {', '.join(sorted(texts))}")
    criteria = needs_calibration(config)
    if name is None and criteria:
        raise UserError(f"score.data: criterion '{criteria[0]}' needs calibration data; set it to a text under data")
    evaluated = evaluated_texts(config)
    if not evaluated:
        raise UserError("data: there is no text to evaluate on other than that of score.data; add one")
    if name is not None and criteria:
        for other in evaluated:
            if other == name or not _apart(texts[name], texts[other]):
                raise UserError(
                    f"score.data: '{name}' shares documents with the evaluated text '{other}'; give them different "
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


def _one_line(error: ValidationError, schema: dict[str, Any]) -> str:
    where = _key(error.absolute_path) or "configuration"
    allowed = error.schema.get("description") or _parent_description(error, schema)
    if error.validator == "additionalProperties":
        known = sorted(error.schema.get("properties", {}))
        unknown = next(key for key in error.instance if key not in known)
        close = get_close_matches(str(unknown), known, 1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        return f"{where}: unknown key '{unknown}'{hint}; use {', '.join(known)}"
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        expected = error.schema["properties"][missing]["description"]
        return f"{where}: the key '{missing}' is missing; expected: {expected}"
    if error.validator == "uniqueItems":
        twice = next(item for index, item in enumerate(error.instance) if item in error.instance[:index])
        return f"{where}: {twice!r} appears twice; expected: {allowed}"
    if "sparsities" in error.absolute_path and error.validator in ("minimum", "maximum"):
        try:
            Sparsity.of(error.instance)
        except UserError as refused:
            return f"{where}: {refused}"
    hint = _hint(error.instance) if error.validator == "type" and isinstance(error.instance, str) else ""
    return f"{where}: {error.instance!r} is not allowed{hint}; expected: {allowed}"


def _hint(text: str) -> str:
    """Return a hint at what is meant by text where another type is expected."""
    if re.fullmatch(r"[+-]?[0-9.]+([eE][+-]?[0-9]{1,2})?", text) and text.count(".") < 2:
        return f" (YAML reads it as text; write {float(text)})"
    return " (is a space missing after ':'?)" if re.search(r"\w:\S", text) else ""


def _parent_description(error: ValidationError, schema: dict[str, Any]) -> str:
    """Return the nearest description above an error: a list describes its items."""
    path = list(error.absolute_schema_path)[:-1]
    nearest = ""
    node: Any = schema
    for part in path:
        node = _resolved(_resolved(node, schema)[part], schema)
        if isinstance(node, dict) and isinstance(node.get("description"), str):
            nearest = node["description"]
    return " ".join(nearest.split())


def _key(path: Any) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _resolved(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if isinstance(node, dict) and "$ref" in node:
        return schema["$defs"][node["$ref"].rpartition("/")[2]]
    return node


def _with_defaults(value: Any, node: dict[str, Any], schema: dict[str, Any]) -> Any:
    node = _resolved(node, schema)
    if not isinstance(value, dict):
        return value
    # If a key decides which other keys there are, the branches that match have their defaults.
    fitting = [each["then"] for each in node.get("allOf", []) if _Validator(each["if"]).is_valid(value)]
    nodes = [node, *(_resolved(each, schema) for each in fitting)]
    known = {key: _resolved(child, schema) for each in nodes for key, child in each.get("properties", {}).items()}
    filled = {key: child["default"] for key, child in known.items() if "default" in child} | value
    other = node.get("additionalProperties") or {}
    return {key: _with_defaults(child, known.get(key, other), schema) for key, child in filled.items()}
