"""A task: examples, a model, and the model's output for an example.

To add a task, add one file to the folder `tasks`. On disk a task is one file, the only one a training stage needs.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from hashlib import sha256
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_type_hints

import numpy as np
import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import nn
from torch.nn import functional

from ltpipe.checkpoints.tensorfile import TensorFile, artefact
from ltpipe.checkpoints.tensorwriter import TensorData, write_tensors
from ltpipe.runtime.errors import UserError
from ltpipe.training.examples import Examples
from ltpipe.training.levels import Kind
from ltpipe.training.randomness import digest
from ltpipe.training.tasks import task_names

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FORMAT = "2"
KIND = "task"
_FOLDER = "ltpipe.training.tasks"
_AS_IT_IS = ConfigDict(strict=True, arbitrary_types_allowed=True)


class Task(ABC):
    """A task. Any model and examples will do, including ones that exist only in a program's memory.

    Attributes:
        train, validation, test: the examples of each part; no example is in two parts.
    """

    train: Examples
    validation: Examples
    test: Examples

    @abstractmethod
    def stored(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return arrays and a JSON-serialisable specification that together define and identify the task."""

    @cached_property
    def identity(self) -> str:
        """SHA-256 of everything that `stored` returns."""
        arrays, specification = self.stored()
        tensors = {name: torch.tensor(array) for name, array in arrays.items()}
        return sha256(f"{json.dumps(specification)}{digest(tensors)}".encode()).hexdigest()

    @abstractmethod
    def build(self, seed: int) -> nn.Module:
        """Build a model in training mode, float32 on the CPU, with random initial weights that depend on `seed`.

        Torch's global generator is left unchanged.
        """

    def pretrained(self) -> dict[str, torch.Tensor] | None:
        """Return pretrained weights by parameter name; None if training starts from random weights."""
        return None

    @abstractmethod
    def logits(self, model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        """Return the model's logits, [..., classes]; the leading dimensions are those of the labels."""

    @abstractmethod
    def kinds(self, model: nn.Module) -> dict[str, Kind]:
        """Map the prunable tensors' names, in canonical order, to kinds of layers."""

    @abstractmethod
    def output(self, model: nn.Module) -> nn.Module:
        """Return the last layer; its inputs are the features of an example."""

    def loss(self, model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy, nats per label, from float32 logits."""
        return functional.cross_entropy(self.logits(model, inputs).float().flatten(0, -2), labels.flatten())

    def start(self, seed: int) -> nn.Module:
        """Build a model with the weights that training starts from."""
        model, weights = self.build(seed), self.pretrained()
        if weights is not None:
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(weights[name])
        return model


class ConfiguredTask(Task):
    """A task that a configuration can name."""

    @classmethod
    def foresee(cls, pretrained: "PretrainedConfig | None", **options: Any) -> Task:
        """Return as much of `prepare`'s task as a plan needs: the model, and the shapes and number of examples.

        By default this calls `prepare`.

        Args:
            pretrained: configuration of the model that training starts from; None for random weights.
            options: the configuration's options, and `key`.

        Raises:
            UserError: as in `prepare`, or the task starts from a checkpoint but does not override `foresee`.
        """
        if pretrained is not None:
            raise UserError(f"{options['key']}: a task that starts from a checkpoint must define its own `foresee`")
        return cls.prepare(**options)

    @classmethod
    @abstractmethod
    def prepare(cls, *_: Any, **options: Any) -> Self:
        """Make the task from the configuration's options; an override names them as its parameters."""

    @classmethod
    @abstractmethod
    def load(cls, file: TensorFile, specification: Mapping[str, Any]) -> Self:
        """Make the task from what `stored` returned; copy arrays of `file` before use."""


def task_named(name: str) -> type[ConfiguredTask]:
    """Look up a task by name.

    Raises:
        UserError: there is no task of that name.
    """
    if name not in task_names():
        raise UserError(f"task '{name}' is unknown; use {', '.join(task_names())}")
    return import_module(f"{_FOLDER}.{name.replace('-', '_')}").TASK


def prepared_task(name: str, options: Mapping[str, Any], key: str) -> Task:
    """Make a task from the configuration's options.

    Args:
        name: the task's name.
        options: the task's options; missing ones take the task's defaults.
        key: the task's configuration key, for messages.

    Raises:
        UserError: there is no such task, it has no such options, or the data do not exist.
    """
    kind = task_named(name)
    _check_options(kind, name, options, key)
    return kind.prepare(**options, key=key)


def foreseen_task(task: Mapping[str, Any], key: str, pretrained: "PretrainedConfig | None") -> Task:
    """Make a task for a plan from its section of the configuration; see `ConfiguredTask.foresee`."""
    options = {name: value for name, value in task.items() if name not in ("kind", "pretrained")}
    kind = task_named(task["kind"])
    _check_options(kind, task["kind"], options, key)
    return kind.foresee(pretrained, **options, key=key)


def _check_options(kind: type[ConfiguredTask], name: str, options: Mapping[str, Any], key: str) -> None:
    try:
        signature(kind.prepare).bind(**options, key=key)
    except TypeError as error:
        raise UserError(f"{key}: options do not fit the task '{name}': {error}") from None
    hints = get_type_hints(kind.prepare)
    for option, value in options.items():
        try:
            TypeAdapter(hints[option], config=_AS_IT_IS).validate_python(value)
        except ValidationError as error:
            reasons = " or ".join(dict.fromkeys(each["msg"] for each in error.errors()))
            raise UserError(f"{key}.{option}: {str(value)[:50]!r} is not allowed: {reasons}") from None


def write_task(path: Path, name: str, task: Task) -> None:
    """Write a task atomically."""
    arrays, specification = task.stored()
    metadata = {"format": FORMAT, "kind": KIND, "task": name, "specification": json.dumps(specification)}
    write_tensors(path, [TensorData.of(each, array) for each, array in arrays.items()], metadata)


def read_task(path: Path) -> Task:
    """Read a task that `write_task` wrote.

    Raises:
        UserError: there is no such file.
        DamagedFileError: the file is not a task.
    """
    with artefact(path, KIND, FORMAT) as file:
        return task_named(file.metadata["task"]).load(file, json.loads(file.metadata["specification"]))
