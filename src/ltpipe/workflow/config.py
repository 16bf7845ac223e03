"""The configuration: checked, with defaults filled in; every error is one line."""

import os
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

from pydantic import ValidationError

from ltpipe.runtime.errors import UserError
from ltpipe.runtime.sources import Source
from ltpipe.workflow.checks import check_consistency
from ltpipe.workflow.configfile import check_plain, read_config
from ltpipe.workflow.configuration.mistakes import first_mistake
from ltpipe.workflow.configuration.study import StudySection
from ltpipe.workflow.grid import Config


def load_config(path: Path) -> Config:
    """Read and check a configuration file; sources become relative to the working directory.

    Raises:
        UserError: the configuration is invalid; names the file or the key, the value and what is accepted.
    """
    return check_config(read_config(path), path.parent)


def check_config(config: Config, folder: Path = Path()) -> Config:
    """Check that a configuration can be run, and fill in its defaults.

    Args:
        config: the configuration as read from YAML.
        folder: folder that the paths of its sources are relative to.

    Returns:
        A copy with every default filled in, and sources relative to the working directory.

    Raises:
        UserError: the configuration is invalid; names the key, the value and what is accepted.
    """
    check_plain(config)
    try:
        filled = StudySection.model_validate(config).model_dump()
    except ValidationError as error:
        raise UserError(first_mistake(error)) from None
    filled = moved(filled, folder, Path())
    for source in sources(filled):
        source.check()
    check_consistency(filled)
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
    for name, task in config["evaluate"]["tasks"].items():
        if task["folder"]:
            yield f"evaluate.tasks.{name}", task, "folder"
    for name, training in config["imp"].items():
        if "source" in training["task"]:
            yield f"imp.{name}.task", training["task"], "source"
