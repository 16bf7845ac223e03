"""A causal language model split before its head: hidden states first, logits of any of their rows later."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import nn

from ltpipe.streaming.blocks import replaced_forward


class _BackboneDone(Exception):
    """Stops a model's forward when its backbone has returned; the head would only compute unneeded logits."""

    def __init__(self, output: Any) -> None:
        self.output = output


def _called(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    if type(module).forward is not nn.Module.forward:
        yield name, module
        return
    for child, member in module.named_children():
        yield from _called(f"{name}.{child}", member)


class SplitModel:
    """Backbone and head of a live causal language model, to run separately.

    Args:
        model: a model that computes logits from its backbone's `last_hidden_state`.
        blocks: name of its module list of blocks, for example `model.layers`.
        apart: False for a model that does not: it stays whole, its logits take the place of hidden states, and the
            head does nothing.
    """

    def __init__(self, model: nn.Module, blocks: str, apart: bool = True) -> None:
        self.model, self._apart = model, apart
        self.blocks = cast(nn.ModuleList, model.get_submodule(blocks))
        self._path = blocks.split(".")
        self._backbone: tuple[str, nn.Module, type] | None = None

    def ancestors(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield names and modules that contain the blocks, from the model itself (empty name) inwards."""
        for depth in range(len(self._path)):
            name = ".".join(self._path[:depth])
            yield name, self.model.get_submodule(name)

    def outside(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield names and modules that contain no blocks: embeddings, final norm, head.

        For a container that is never called itself, for example a module list, yield its members.
        """
        for depth, (name, ancestor) in enumerate(self.ancestors()):
            for child, module in ancestor.named_children():
                if child != self._path[depth]:
                    yield from _called(f"{name}.{child}".removeprefix("."), module)

    def in_backbone(self, name: str) -> bool:
        """Return whether the module `name` is part of the backbone; known once hidden states were computed."""
        return name.startswith(self._known_backbone[0] + ".")

    def hidden_states(self, input_ids: torch.Tensor, **inputs: Any) -> torch.Tensor:
        """Return the head's input, [sequences, tokens, width]; the logits, if the model is left whole.

        The backbone is the outermost module around the blocks that the model's forward calls. Further `inputs`, for
        example an attention mask, go to the model unchanged.
        """
        if not self._apart:
            return self.model(input_ids=input_ids, **inputs).logits
        with self._watching(stop=True):
            try:
                self.model(input_ids=input_ids, use_cache=False, **inputs)
            except _BackboneDone as done:
                return done.output.last_hidden_state
        raise RuntimeError("the model's forward did not reach its blocks")

    def whole(self, input_ids: torch.Tensor, **inputs: Any) -> tuple[torch.Tensor, Any]:
        """Run one full forward pass; return the head's input, as `hidden_states` does, and the model's output."""
        with self._watching(stop=False) as seen:
            output = self.model(input_ids=input_ids, use_cache=False, **inputs)
        return seen[0].last_hidden_state, output

    @contextmanager
    def _watching(self, stop: bool) -> Iterator[list[Any]]:
        """Find out which module is the backbone, and record its output; with `stop` the forward ends there."""
        entered: list[tuple[str, nn.Module]] = []
        seen: list[Any] = []

        def leave(module: nn.Module, _: Any, output: Any) -> None:
            if module is entered[0][1]:
                self._backbone = *entered[0], type(output)
                seen.append(output)
                if stop:
                    raise _BackboneDone(output)

        with ExitStack() as stack:
            for name, module in list(self.ancestors())[1:]:
                enter = module.register_forward_pre_hook(lambda module, _, name=name: entered.append((name, module)))
                stack.callback(enter.remove)
                stack.callback(module.register_forward_hook(leave).remove)
            yield seen

    def logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Apply the model's own head to [rows, width] hidden states; return logits [rows, vocabulary].

        The model's forward runs with its backbone replaced by the given hidden states, so everything an architecture
        does after its output embedding (scaling, soft-capping, projections) is included.
        """
        if not self._apart:
            return hidden_states
        _, backbone, output_type = self._known_backbone
        output = output_type(last_hidden_state=hidden_states.unsqueeze(0))
        token = torch.zeros((1, len(hidden_states)), dtype=torch.long, device=hidden_states.device)
        with replaced_forward(backbone, lambda *_, **__: output):
            return self.model(input_ids=token, use_cache=False).logits[0]

    @property
    def _known_backbone(self) -> tuple[str, nn.Module, type]:
        if self._backbone is None:
            raise RuntimeError("the head is applied to hidden states: compute them first")
        return self._backbone
