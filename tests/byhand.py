"""Models of transformers whose weights were masked by hand: the reference that tickets are compared with."""

from collections.abc import Mapping
from pathlib import Path

import torch


def masked_by_hand(source: Path, mask: Mapping[str, torch.Tensor] | None) -> torch.nn.Module:
    """The saved model in eval mode, pruned weights zero."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source).eval()
    with torch.no_grad():
        for name, kept in (mask or {}).items():
            parameter = model.get_parameter(name)
            parameter.copy_(torch.where(kept, parameter, torch.zeros(())))
    return model
