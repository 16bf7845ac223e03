"""The batches a data loader yields, converted to one form on the CPU."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch

from ltpipe.runtime.errors import UserError


@dataclass(frozen=True)
class Batch:
    """A model's inputs and labels.

    Attributes:
        args: positional arguments, if the batch is a tuple.
        kwargs: keyword arguments without labels, if the batch is a dict.
        labels: None if the batch has none.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    labels: torch.Tensor | None

    @classmethod
    def of(cls, raw: Any) -> "Batch":
        """Read a dict, an (inputs, labels) or (inputs,) tuple, or a tensor of inputs; move tensors to the CPU.

        Raises:
            UserError: the batch is something else.
        """
        if isinstance(raw, Mapping):
            kwargs = {name: _on(value, torch.device("cpu")) for name, value in raw.items()}
            return cls((), kwargs, kwargs.pop("labels", None))
        parts = [raw] if isinstance(raw, torch.Tensor) else raw
        if not isinstance(parts, list | tuple) or not 1 <= len(parts) <= 2:
            raise UserError(f"dataloader: a batch is a {type(raw).__name__}; use a dict, (inputs, labels) or inputs")
        inputs, labels = (_on(part, torch.device("cpu")) for part in [*parts, None][:2])
        return cls((inputs,), {}, labels)

    def to(self, device: torch.device) -> "Batch":
        """Return this batch on a device."""
        labels = None if self.labels is None else self.labels.to(device)
        kwargs = {name: _on(value, device) for name, value in self.kwargs.items()}
        return Batch(tuple(_on(value, device) for value in self.args), kwargs, labels)

    @property
    def examples(self) -> int:
        """Number of examples: the length of the first tensor with a dimension.

        Raises:
            UserError: there is no such tensor.
        """
        sizes = [len(value) for value in (*self.args, *self.kwargs.values()) if torch.is_tensor(value) and value.dim()]
        if not sizes:
            raise UserError("dataloader: a batch has no tensor with an example dimension; add one")
        return sizes[0]

    def part(self, start: int, stop: int) -> "Batch":
        """Return some of the examples; values that are not per example stay whole."""
        size = self.examples

        def of(value: Any) -> Any:
            one_each = isinstance(value, torch.Tensor) and value.dim() and len(value) == size
            return value[start:stop] if one_each else value

        return Batch(tuple(map(of, self.args)), {key: of(value) for key, value in self.kwargs.items()}, of(self.labels))

    def sequences(self) -> torch.Tensor | None:
        """Return token ids, int64 [sequences, tokens], if the texts are unpadded and their own labels; else None."""
        text = self.as_text()
        if (
            text is None
            or text.labels is None
            or not set(text.kwargs) <= {"input_ids", "attention_mask", "use_cache", "return_dict"}
        ):
            return None
        ids, padding = text.kwargs["input_ids"], text.kwargs.get("attention_mask")
        own_labels = torch.equal(text.labels, ids)
        return ids.long() if own_labels and (padding is None or bool((padding == 1).all())) else None

    def as_text(self) -> "Batch | None":
        """Return this batch as `input_ids` with labels of the same shape, or None if it holds no token sequences.

        A positional tensor is taken as `input_ids`. Without labels, a text is its own label, except for padding.
        """
        kwargs = {"input_ids": self.args[0]} if self.args else self.kwargs
        ids = kwargs.get("input_ids")
        if not isinstance(ids, torch.Tensor) or ids.dim() != 2 or ids.is_floating_point() or ids.shape[1] < 2:
            return None
        labels = self.labels
        if labels is None:
            padding = kwargs.get("attention_mask")
            labels = ids if padding is None or padding.shape != ids.shape else ids.masked_fill(padding == 0, -100)
        return replace(self, args=(), kwargs=kwargs, labels=labels) if labels.shape == ids.shape else None


def first_batches(dataloader: Iterable[Any], limit: int | None) -> Iterator[Batch]:
    """Yield at most `limit` batches (None for all), read lazily.

    Raises:
        UserError: `limit` is not positive, or the loader is a single batch or not iterable.
    """
    if limit is not None and limit < 1:
        raise UserError(f"max_batches: {limit} is not allowed; use 1 or more")
    if isinstance(dataloader, Mapping | torch.Tensor | str) or not isinstance(dataloader, Iterable):
        raise UserError(
            f"dataloader: a {type(dataloader).__name__} is not allowed; use an iterable of batches, such as [batch]"
        )
    return map(Batch.of, islice(dataloader, limit))


def _on(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value
