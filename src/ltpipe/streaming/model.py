"""A causal language model that holds one block of weights at a time.

The model's own, unmodified forward runs with all sequences as one batch. When it reaches a block, that block's
weights are fetched (masked on the way), every sequence is run through it in micro-batches, and the weights are freed.
Each weight is read once an evaluation; the whole model is never in memory and nothing has to be restored.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ltpipe.checkpoints.layout import CONFIG
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.runtime.errors import DamagedFileError
from ltpipe.runtime.files import read_json
from ltpipe.runtime.progress import track
from ltpipe.streaming.blocks import Division, NotStreamableError, probe_blocks, replaced_forward, run_in_parts

logger = logging.getLogger(__name__)

Fetch = Callable[[str], torch.Tensor]
"""A stored tensor's name to its values, ready on the device and in the dtype to compute in."""


def build_skeleton(folder: Path, dtype: torch.dtype) -> nn.Module:
    """The model of a canonical checkpoint folder, in eval mode: parameters without storage, buffers with values.

    Raises:
        DamagedFileError: the folder's configuration is of no model that transformers knows.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with init_empty_weights(include_buffers=False):
            return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    except Exception as error:  # a damaged configuration raises anything
        raise DamagedFileError(f"{folder / CONFIG}: no model can be built ({error}); load the model again") from None


def stored_precision(folder: Path) -> str:
    """The dtype in which a canonical checkpoint is kept, as its configuration says.

    Raises:
        DamagedFileError: the configuration does not say it.
    """
    precision = read_json(folder / CONFIG).get("dtype")
    if precision not in ("float32", "bfloat16", "float16"):
        raise DamagedFileError(f"{folder / CONFIG}: dtype is {precision!r}; load the model again")
    return precision


class CausalModel:
    """Hidden states and logits of a causal language model over a checkpoint.

    Args:
        skeleton: as `build_skeleton` makes it; this object owns it from now on.
        manifest: of the checkpoint.
        fetch: gives the weights.
        device: where to compute.
        streamed: False loads the whole model at once.
    """

    def __init__(
        self, skeleton: nn.Module, manifest: Manifest, fetch: Fetch, device: torch.device, streamed: bool
    ) -> None:
        self._model = skeleton
        self._fetch = fetch
        self._tied = manifest.tied
        self._device = device
        self._blocks_name = manifest.blocks
        self._blocks: nn.ModuleList = skeleton.get_submodule(manifest.blocks)
        self._backbone: nn.Module | None = None
        self._output_type: type | None = None
        self._stored = frozenset(manifest.tensors)
        self.not_streamed_because = "" if streamed else "asked for in the configuration"
        for buffered in skeleton.modules():
            for name, buffer in buffered.named_buffers(recurse=False):
                buffered._buffers[name] = buffer.to(device)
        inside = {name for name, _ in self._blocks.named_parameters(prefix=manifest.blocks)}
        inside |= {name for name, _ in self._blocks.named_buffers(prefix=manifest.blocks)}
        self._materialise(skeleton, "", {name for name in self._names(skeleton, "") if name not in inside})

    @property
    def streamed(self) -> bool:
        """Whether blocks are streamed; False when the whole model is in memory."""
        return not self.not_streamed_because

    @torch.inference_mode()
    def hidden_states(self, input_ids: torch.Tensor, micro_batch: int) -> torch.Tensor:
        """Final hidden states, what the model's head is applied to.

        Args:
            input_ids: int64 [sequences, tokens], on any device.
            micro_batch: number of sequences that go through a block together.

        Returns:
            [sequences, tokens, width] on the device.
        """
        input_ids = input_ids.to(self._device)
        if self.streamed:
            try:
                division = probe_blocks(self._blocks, lambda count: self._capture(input_ids[:1].expand(count, -1)))
            except NotStreamableError as error:
                self.not_streamed_because = str(error)
                logger.warning("the model is loaded whole: %s", error)
            else:
                return self._stream(input_ids, micro_batch, division)
        if any(parameter.is_meta for parameter in self._blocks.parameters()):
            self._materialise(self._blocks, self._blocks_name + ".", self._names(self._blocks, self._blocks_name + "."))
        parts = input_ids.split(micro_batch)
        return torch.cat([self._capture(part) for part in track(parts, "forward", "micro-batch")])

    @torch.inference_mode()
    def logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The model's own head on [rows, width] hidden states: logits [rows, vocabulary].

        The model's forward runs with its backbone replaced by the given hidden states, so that whatever an
        architecture does after its output embedding (scaling, soft-capping, projections) is done here too.
        """
        rows = hidden_states.unsqueeze(0)
        make_output = self._output_type

        def backbone(*_: Any, **__: Any) -> Any:
            return make_output(last_hidden_state=rows)

        token = torch.zeros(rows.shape[:2], dtype=torch.long, device=self._device)
        with replaced_forward(self._backbone, backbone):
            return self._model(input_ids=token, use_cache=False).logits[0]

    def _stream(self, input_ids: torch.Tensor, micro_batch: int, division: Division) -> torch.Tensor:
        """Run the model with each block fetched when it is reached and freed when it is done."""
        sequences = len(input_ids)
        turns = iter(track(division.rules, "forward", "block"))

        def streamed(block: nn.Module, prefix: str) -> Callable[..., Any]:
            own_forward = block.forward

            def forward(*args: Any, **kwargs: Any) -> Any:
                with self._borrowed(block, prefix):
                    return run_in_parts(
                        own_forward, next(turns), division.in_place, sequences, micro_batch, args, kwargs
                    )

            return forward

        with ExitStack() as stack:
            for index, block in enumerate(self._blocks):
                prefix = f"{self._blocks_name}.{index}."
                stack.enter_context(replaced_forward(block, streamed(block, prefix)))
            return self._capture(input_ids)

    def _capture(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Run the model's forward up to its head, and return what the head would be applied to.

        The backbone is the outermost module around the blocks that the model's forward calls. Its output is kept
        here, and the head gets an empty one, so that no logits are computed.
        """
        entered: list[nn.Module] = []
        captured: list[torch.Tensor] = []

        def leave(module: nn.Module, _: Any, output: Any) -> Any:
            if module is not entered[0]:
                return None
            captured.append(output.last_hidden_state)
            self._output_type = type(output)
            return type(output)(last_hidden_state=output.last_hidden_state[:, :0])

        with ExitStack() as stack:
            for ancestor in self._ancestors():
                stack.callback(ancestor.register_forward_pre_hook(lambda module, _: entered.append(module)).remove)
                stack.callback(ancestor.register_forward_hook(leave).remove)
            self._model(input_ids=input_ids, use_cache=False)
        self._backbone = entered[0]
        return captured[0]

    def _ancestors(self) -> Iterator[nn.Module]:
        parts = self._blocks_name.split(".")[:-1]
        for depth in range(1, len(parts) + 1):
            yield self._model.get_submodule(".".join(parts[:depth]))

    @contextmanager
    def _borrowed(self, block: nn.Module, prefix: str) -> Iterator[None]:
        """Give a block its weights, and take them away again."""
        empty = {name: dict(module._parameters) for name, module in block.named_modules()}
        self._materialise(block, prefix, self._names(block, prefix))
        try:
            yield
        finally:
            for name, parameters in empty.items():
                block.get_submodule(name)._parameters.update(parameters)

    def _names(self, module: nn.Module, prefix: str) -> set[str]:
        """Full names of a module's parameters and stored buffers."""
        parameters = {prefix + name for name, _ in module.named_parameters(remove_duplicate=False)}
        buffers = {prefix + name for name, _ in module.named_buffers(remove_duplicate=False)}
        return parameters | (buffers & self._stored)

    def _materialise(self, root: nn.Module, prefix: str, names: set[str]) -> None:
        """Fetch tensors by full name into the module `root`, whose own full name is `prefix`. Ties stay ties."""
        fetched: dict[str, nn.Parameter] = {}
        for name in sorted(names):
            stored = self._tied.get(name, name)
            if stored not in fetched:
                fetched[stored] = nn.Parameter(self._fetch(stored), requires_grad=False)
            path, _, leaf = name.removeprefix(prefix).rpartition(".")
            owner = root.get_submodule(path)
            if leaf in owner._parameters:
                owner._parameters[leaf] = fetched[stored]
            else:
                owner._buffers[leaf] = fetched[stored].data
