"""What is learned: examples, a model, and what the model says of an example.

A new task is one file in the folder `tasks`. Everything about it is in one file on disk, so that a stage that trains
needs no other.
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
from torch import nn
from torch.nn import functional
from typeguard import TypeCheckError, check_type

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


class Task(ABC):
    """A task; any model and examples will do, also those that only a program has in memory.

    Attributes:
        train, validation, test: the examples of each part, without one in common.
    """

    train: Examples
    validation: Examples
    test: Examples

    @abstractmethod
    def stored(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays, and a specification that JSON can hold, that say all about the task: what it is told apart by."""

    @cached_property
    def identity(self) -> str:
        """SHA-256 of all that `stored` gives."""
        arrays, specification = self.stored()
        tensors = {name: torch.tensor(array) for name, array in arrays.items()}
        return sha256(f"{json.dumps(specification)}{digest(tensors)}".encode()).hexdigest()

    @abstractmethod
    def build(self, seed: int) -> nn.Module:
        """A model in training mode, float32 on the CPU, with random initial weights that follow from `seed`.

        Torch's global generator is left as it was.
        """

    def pretrained(self) -> dict[str, torch.Tensor] | None:
        """Weights that training begins with in place of random ones, by parameter name; None where there are none."""
        return None

    @abstractmethod
    def logits(self, model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        """What the model says: [..., classes], with the shape of the labels before it."""

    @abstractmethod
    def kinds(self, model: nn.Module) -> dict[str, Kind]:
        """Names of the prunable tensors in canonical order, and the kind of layer that each belongs to."""

    @abstractmethod
    def output(self, model: nn.Module) -> nn.Module:
        """The last layer; what goes into it are the features of an example."""

    def loss(self, model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy, nats a label, from float32 logits."""
        return functional.cross_entropy(self.logits(model, inputs).float().flatten(0, -2), labels.flatten())

    def start(self, seed: int) -> nn.Module:
        """A model with the weights that training begins with."""
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
        """What `prepare` would make, as far as a plan asks: the model, the shapes of examples, and their number.

        Unless a task knows better, it is made in earnest.

        Args:
            pretrained: configuration of the model that training begins with; None for random weights.
            options: of the configuration, and `key`.

        Raises:
            UserError: as `prepare`, or a task begins with a checkpoint and does not say how it is planned.
        """
        if pretrained is not None:
            raise UserError(f"{options['key']}: a task that begins with a checkpoint is planned by its own `foresee`")
        return cls.prepare(**options)

    @classmethod
    @abstractmethod
    def prepare(cls, *_: Any, **options: Any) -> Self:
        """Make the task from the options of the configuration, the parameters of the override by their names."""

    @classmethod
    @abstractmethod
    def load(cls, file: TensorFile, specification: Mapping[str, Any]) -> Self:
        """Make the task from what `stored` gave; arrays of `file` are to be copied."""


def task_named(name: str) -> type[ConfiguredTask]:
    """Look a task up.

    Raises:
        UserError: there is none of that name.
    """
    if name not in task_names():
        raise UserError(f"task '{name}' is unknown; allowed are {', '.join(task_names())}")
    return import_module(f"{_FOLDER}.{name.replace('-', '_')}").TASK


def prepared_task(name: str, options: Mapping[str, Any], key: str) -> Task:
    """Make a task from the options of the configuration.

    Args:
        name: of the task.
        options: of the task; those that are not given are the task's own.
        key: configuration key of the task, for messages.

    Raises:
        UserError: there is no such task, it has no such options, or there are no such data.
    """
    kind = task_named(name)
    _check_options(kind, name, options, key)
    return kind.prepare(**options, key=key)


def foreseen_task(task: Mapping[str, Any], key: str, pretrained: "PretrainedConfig | None") -> Task:
    """A task for a plan, from its section of the configuration; see `ConfiguredTask.foresee`."""
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
            check_type(value, hints[option])
        except TypeCheckError as error:
            raise UserError(f"{key}.{option}: {str(value)[:50]!r} is not allowed ({error})") from None


def write_task(path: Path, name: str, task: Task) -> None:
    """Write a task atomically."""
    arrays, specification = task.stored()
    metadata = {"format": FORMAT, "kind": KIND, "task": name, "specification": json.dumps(specification)}
    write_tensors(path, [TensorData.of(each, array) for each, array in arrays.items()], metadata)


def read_task(path: Path) -> Task:
    """Read what `write_task` wrote.

    Raises:
        UserError: there is no such file.
        DamagedFileError: the file is something else.
    """
    with artefact(path, KIND, FORMAT) as file:
        return task_named(file.metadata["task"]).load(file, json.loads(file.metadata["specification"]))
