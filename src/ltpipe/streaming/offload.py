"""Offloaded weights: modules hold theirs only while they run."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ltpipe.checkpoints.manifest import Manifest

Fetch = Callable[[str], torch.Tensor]
"""Maps a stored tensor's name to its values, on the device and in the dtype of the computation."""

Place = tuple[nn.Module, str]
"""The module that owns a parameter or buffer, and its name there."""


class Offload:
    """Loads weights from a checkpoint into a model's modules, and offloads them again. Tied weights stay tied.

    Args:
        manifest: the checkpoint's manifest, with the stored names of tied parameters.
        fetch: fetches the weights.
    """

    def __init__(self, manifest: Manifest, fetch: Fetch) -> None:
        self._tied = manifest.tied
        self._stored = frozenset(manifest.tensors)
        self._fetch = fetch
        self._held: dict[int, str] = {}

    def name_of(self, tensor: torch.Tensor) -> str | None:
        """Return the stored name of the loaded weight that a tensor is, or is a view of; None if there is none."""
        return self._held.get(tensor.untyped_storage()._cdata)

    def has_weights(self, module: nn.Module, prefix: str) -> bool:
        """Return whether a module, with full name `prefix`, has any stored tensors."""
        return bool(self._places(module, prefix))

    def fetch(self, module: nn.Module, prefix: str) -> dict[str, nn.Parameter]:
        """Return the weights of a module by their stored names, each fetched once."""
        return self._fetched(self._places(module, prefix))

    def load(self, module: nn.Module, prefix: str, recurse: bool = True) -> None:
        """Load a module's weights for good; without `recurse`, only its own, not its children's."""
        places = self._places(module, prefix, recurse)
        self._put(places, self._fetched(places))

    @contextmanager
    def loaded(
        self, module: nn.Module, prefix: str, weights: Mapping[str, nn.Parameter] | None = None
    ) -> Iterator[None]:
        """Load a module's weights inside the context: those passed, or fetched now."""
        places = self._places(module, prefix)
        before = {name: owner._parameters.get(leaf, owner._buffers.get(leaf)) for name, (owner, leaf) in places.items()}
        self._put(places, self.fetch(module, prefix) if weights is None else weights)
        del weights
        try:
            yield
        finally:
            for name, (owner, leaf) in places.items():
                held: dict[str, Any] = owner._parameters if leaf in owner._parameters else owner._buffers
                self._held.pop(held[leaf].untyped_storage()._cdata, None)
                held[leaf] = before[name]

    def _fetched(self, places: Mapping[str, Place]) -> dict[str, nn.Parameter]:
        stored = sorted({self._tied.get(name, name) for name in places})
        return {name: nn.Parameter(self._fetch(name), requires_grad=False) for name in stored}

    def _put(self, places: Mapping[str, Place], weights: Mapping[str, nn.Parameter]) -> None:
        for name, (owner, leaf) in places.items():
            stored = self._tied.get(name, name)
            parameter = weights[stored]
            self._held[parameter.untyped_storage()._cdata] = stored
            if leaf in owner._parameters:
                owner._parameters[leaf] = parameter
            else:
                owner._buffers[leaf] = parameter.data

    def _places(self, module: nn.Module, prefix: str, recurse: bool = True) -> dict[str, Place]:
        """Return the full name of every parameter and stored buffer in a module, with its owner and its name there."""
        places = {}
        for path, owner in module.named_modules() if recurse else [("", module)]:
            start = ".".join(part for part in (prefix, path) if part)
            for leaf in [*owner._parameters, *owner._buffers]:
                name = f"{start}.{leaf}".removeprefix(".")
                tensor = owner._parameters.get(leaf, owner._buffers.get(leaf))
                if tensor is not None and (leaf in owner._parameters or name in self._stored):
                    places[name] = (owner, leaf)
        return places


@contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[nn.Module]:
    """Restore the tensors and attributes of all modules on exit, such as a skeleton's own parameters and forwards."""
    before = [(module, dict(module.__dict__)) for module in model.modules()]
    contents: list[tuple[dict[str, Any], dict[str, Any]]]
    contents = [(module._parameters, dict(module._parameters)) for module, _ in before]
    contents += [(module._buffers, dict(module._buffers)) for module, _ in before]
    try:
        yield model
    finally:
        for module, attributes in before:
            for added in module.__dict__.keys() - attributes.keys():
                delattr(module, added)
            module.__dict__.update(attributes)
        for held, own in contents:
            held.clear()
            held.update(own)
