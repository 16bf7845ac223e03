"""Modules that hold their weights only while they run."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ltpipe.checkpoints.manifest import Manifest

Fetch = Callable[[str], torch.Tensor]
"""A stored tensor's name to its values, ready on the device and in the dtype to compute in."""

Place = tuple[nn.Module, str]
"""The module that owns a parameter or buffer, and what it is called there."""


class Lender:
    """Gives the modules of a model weights from a checkpoint, and takes them away again. Ties stay ties.

    Args:
        manifest: says what is stored, and under which name a tied parameter is.
        fetch: gives the weights.
    """

    def __init__(self, manifest: Manifest, fetch: Fetch) -> None:
        self._tied = manifest.tied
        self._stored = frozenset(manifest.tensors)
        self._fetch = fetch
        self._lent: dict[int, str] = {}

    def name_of(self, tensor: torch.Tensor) -> str | None:
        """The stored name of the weight that a module has now and that a tensor is, or is a view of."""
        return self._lent.get(tensor.untyped_storage()._cdata)

    def needs_any(self, module: nn.Module, prefix: str) -> bool:
        """Whether a module, whose full name is `prefix`, holds anything that is stored."""
        return bool(self._places(module, prefix))

    def fetch(self, module: nn.Module, prefix: str) -> dict[str, nn.Parameter]:
        """The weights of a module by their stored names, each fetched once."""
        return self._fetched(self._places(module, prefix))

    def give(self, module: nn.Module, prefix: str, recurse: bool = True) -> None:
        """Let a module keep its weights; without `recurse`, only its own and not those of its children."""
        places = self._places(module, prefix, recurse)
        self._put(places, self._fetched(places))

    @contextmanager
    def lend(self, module: nn.Module, prefix: str, weights: Mapping[str, nn.Parameter] | None = None) -> Iterator[None]:
        """Let a module have its weights for a while: those given, or fetched now."""
        places = self._places(module, prefix)
        before = {name: owner._parameters.get(leaf, owner._buffers.get(leaf)) for name, (owner, leaf) in places.items()}
        self._put(places, self.fetch(module, prefix) if weights is None else weights)
        del weights
        try:
            yield
        finally:
            for name, (owner, leaf) in places.items():
                held: dict[str, Any] = owner._parameters if leaf in owner._parameters else owner._buffers
                self._lent.pop(held[leaf].untyped_storage()._cdata, None)
                held[leaf] = before[name]

    def _fetched(self, places: Mapping[str, Place]) -> dict[str, nn.Parameter]:
        stored = sorted({self._tied.get(name, name) for name in places})
        return {name: nn.Parameter(self._fetch(name), requires_grad=False) for name in stored}

    def _put(self, places: Mapping[str, Place], weights: Mapping[str, nn.Parameter]) -> None:
        for name, (owner, leaf) in places.items():
            stored = self._tied.get(name, name)
            parameter = weights[stored]
            self._lent[parameter.untyped_storage()._cdata] = stored
            if leaf in owner._parameters:
                owner._parameters[leaf] = parameter
            else:
                owner._buffers[leaf] = parameter.data

    def _places(self, module: nn.Module, prefix: str, recurse: bool = True) -> dict[str, Place]:
        """Full name of every parameter and stored buffer in a module, with its owner and its name there."""
        places = {}
        for path, owner in module.named_modules() if recurse else [("", module)]:
            start = ".".join(part for part in (prefix, path) if part)
            for leaf in [*owner._parameters, *owner._buffers]:
                name = f"{start}.{leaf}".removeprefix(".")
                tensor = owner._parameters.get(leaf, owner._buffers.get(leaf))
                if tensor is not None and (leaf in owner._parameters or name in self._stored):
                    places[name] = (owner, leaf)
        return places
