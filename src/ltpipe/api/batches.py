"""What data loaders yield, brought into one form, on the CPU."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch

from ltpipe.runtime.errors import UserError


@dataclass(frozen=True)
class Batch:
    """What a model is called with, and what it should answer.

    Attributes:
        args: positional arguments, where the batch is a tuple.
        kwargs: keyword arguments, where it is a dict; without labels.
        labels: None if the batch has none.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    labels: torch.Tensor | None

    @classmethod
    def of(cls, raw: Any) -> "Batch":
        """Read a dict, an (inputs, labels) or (inputs,) tuple, or a tensor of inputs; tensors come to the CPU.

        Raises:
            UserError: it is something else.
        """
        if isinstance(raw, Mapping):
            kwargs = {name: _on(value, torch.device("cpu")) for name, value in raw.items()}
            return cls((), kwargs, kwargs.pop("labels", None))
        parts = [raw] if isinstance(raw, torch.Tensor) else raw
        if not isinstance(parts, list | tuple) or not 1 <= len(parts) <= 2:
            raise UserError(
                f"dataloader: a batch is a {type(raw).__name__}; allowed are dicts, (inputs, labels) and inputs"
            )
        inputs, labels = (_on(part, torch.device("cpu")) for part in [*parts, None][:2])
        return cls((inputs,), {}, labels)

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        labels = None if self.labels is None else self.labels.to(device)
        kwargs = {name: _on(value, device) for name, value in self.kwargs.items()}
        return Batch(tuple(_on(value, device) for value in self.args), kwargs, labels)

    @property
    def examples(self) -> int:
        """How many there are: the length of the first tensor that has one.

        Raises:
            UserError: there is none.
        """
        sizes = [len(value) for value in (*self.args, *self.kwargs.values()) if torch.is_tensor(value) and value.dim()]
        if not sizes:
            raise UserError("dataloader: a batch holds no tensor of examples")
        return sizes[0]

    def part(self, start: int, stop: int) -> "Batch":
        """Some of the examples; what is not one an example stays whole."""
        size = self.examples

        def of(value: Any) -> Any:
            one_each = isinstance(value, torch.Tensor) and value.dim() and len(value) == size
            return value[start:stop] if one_each else value

        return Batch(tuple(map(of, self.args)), {key: of(value) for key, value in self.kwargs.items()}, of(self.labels))

    def window(self) -> torch.Tensor | None:
        """The token ids, int64 [sequences, tokens], of texts that are their own labels, without padding; else None."""
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
        """This batch as `input_ids` with labels of the same shape, or None if it is no batch of token sequences.

        A positional tensor is taken for the `input_ids`. Without labels a text is its own label, but for padding.
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

    def sequences(self, start: int, stop: int) -> dict[str, Any]:
        """Keyword arguments for some of the sequences of a text; what is not one a sequence stays whole."""
        size = len(self.kwargs["input_ids"])
        return {
            name: value[start:stop] if isinstance(value, torch.Tensor) and value.dim() and len(value) == size else value
            for name, value in self.kwargs.items()
            if name not in ("use_cache", "return_dict")
        }


def first_batches(dataloader: Iterable[Any], limit: int | None) -> Iterator[Batch]:
    """At most `limit` batches (None for all), read as they are needed.

    Raises:
        UserError: `limit` is not positive, or the loader is a single batch or no loader at all.
    """
    if limit is not None and limit < 1:
        raise UserError(f"{limit} batches are not allowed; allowed are 1 and more")
    if isinstance(dataloader, Mapping | torch.Tensor | str) or not isinstance(dataloader, Iterable):
        raise UserError(
            f"dataloader: a {type(dataloader).__name__}; give an iterable of batches, of one for example [batch]"
        )
    return map(Batch.of, islice(dataloader, limit))


def _on(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value
