"""A causal language model split before its head: hidden states first, logits of any of their rows later."""

from collections.abc import Iterator
from contextlib import ExitStack
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

    @property
    def vocabulary(self) -> int:
        """Number of tokens of the vocabulary, as the configuration says."""
        return cast(Any, self.model).config.get_text_config().vocab_size

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
        return self.backbone(input_ids, **inputs).last_hidden_state

    def backbone(self, input_ids: torch.Tensor, **inputs: Any) -> Any:
        """Run the model until its backbone returns; return the backbone's output, with `last_hidden_state`."""
        entered: list[tuple[str, nn.Module]] = []

        def leave(module: nn.Module, _: Any, output: Any) -> None:
            if module is entered[0][1]:
                self._backbone = *entered[0], type(output)
                raise _BackboneDone(output)

        with ExitStack() as stack:
            for name, module in list(self.ancestors())[1:]:
                enter = module.register_forward_pre_hook(lambda module, _, name=name: entered.append((name, module)))
                stack.callback(enter.remove)
                stack.callback(module.register_forward_hook(leave).remove)
            try:
                self.model(input_ids=input_ids, use_cache=False, **inputs)
            except _BackboneDone as done:
                return done.output
        raise RuntimeError("the model's forward did not reach its blocks")

    def head(self, output: Any, hidden_states: torch.Tensor, **inputs: Any) -> Any:
        """Run the model's forward with its backbone replaced by an output of it, but for other hidden states.

        So everything an architecture does after its blocks is included: scaling, soft-capping, projections, losses.

        Args:
            output: the backbone's output, or a dict of what to take from one.
            hidden_states: [sequences, tokens, width].
            **inputs: of the model; token ids do not matter.
        """
        _, backbone, output_type = self._known_backbone
        given = output_type(**{**output, "last_hidden_state": hidden_states})
        token = torch.zeros(hidden_states.shape[:2], dtype=torch.long, device=hidden_states.device)
        with replaced_forward(backbone, lambda *_, **__: given):
            return self.model(input_ids=token, use_cache=False, **inputs)

    def logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Apply the model's own head to [rows, width] hidden states; return logits [rows, vocabulary]."""
        return self.head({}, hidden_states.unsqueeze(0)).logits[0] if self._apart else hidden_states

    @property
    def _known_backbone(self) -> tuple[str, nn.Module, type]:
        if self._backbone is None:
            raise RuntimeError("the head is applied to hidden states: compute them first")
        return self._backbone
