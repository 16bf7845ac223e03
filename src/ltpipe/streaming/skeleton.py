"""A checkpoint's model without its weights."""

import re
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import CONFIG
from ltpipe.runtime.errors import MEND, DamagedFileError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

IMPORTED_LATER = ("transformers.modeling_utils",)
"""What a call imports, in two seconds; the server of a run imports it before it forks (`ltpipe.runtime.forkserver`)."""


def build_skeleton(checkpoint: Checkpoint, dtype: torch.dtype) -> "PreTrainedModel":
    """Return a checkpoint's model in eval mode: parameters without storage, buffers with values.

    Raises:
        UserError: the configuration is missing.
        DamagedFileError: it is damaged, or transformers does not know the model.
    """
    config = checkpoint.transformers_config()
    try:
        return skeleton_of(config, dtype)
    except Exception as error:  # a damaged configuration raises anything
        raise DamagedFileError(
            f"{checkpoint.folder / CONFIG}: transformers cannot build a model from it ({error}); {MEND}"
        ) from None


def skeleton_of(config: "PretrainedConfig", dtype: torch.dtype) -> nn.Module:
    """Return the model of a configuration in eval mode: parameters without storage, buffers with values.

    No parameter ever has storage, not even temporarily: the largest embedding may not fit in memory. Tensors that
    transformers keeps in float32 when it loads a model in another dtype are float32 here too.
    """
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights(include_buffers=False), _EmptyOnMeta():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False).eval()
    model.tie_weights()
    _keep_float32(model, dtype)
    return model


def other_dtypes(skeleton: nn.Module, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """Return the tensors with a floating-point dtype other than the model's, name to dtype."""
    tensors = [*skeleton.named_parameters(remove_duplicate=False), *skeleton.named_buffers(remove_duplicate=False)]
    return {name: tensor.dtype for name, tensor in tensors if tensor.is_floating_point() and tensor.dtype != dtype}


def _keep_float32(model: "PreTrainedModel", dtype: torch.dtype) -> None:
    """Convert the tensors to float32 that transformers would keep in float32 when it loads the model."""
    patterns = [pattern.replace("*", ".*") for pattern in model._get_dtype_plan(dtype)]
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and any(re.search(pattern, name) for pattern in patterns):
            tensor.data = tensor.data.float()


class _EmptyOnMeta(TorchFunctionMode):
    """Creates empty tensors without storage; buffers that modules compute are not empty and keep their values.

    Zeros of more than 64 MiB also get no storage: some models' experts before their weights are loaded.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty or (func is torch.zeros and _elements(args, kwargs) > 1 << 24):
            kwargs = kwargs | {"device": "meta"}
        return func(*args, **kwargs)


def _elements(size: tuple, named: dict[str, Any]) -> int:
    size = size or (named.get("size", ()),)
    return prod(size[0] if isinstance(size[0], tuple | list) else size)
