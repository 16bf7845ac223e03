"""Devices by name, and running out of memory."""

import pytest
import torch

from ltpipe.runtime import device
from ltpipe.runtime.device import device_named, is_out_of_memory
from ltpipe.runtime.errors import UserError


def test_a_device_that_is_not_there_is_refused_with_those_that_are(monkeypatch):
    monkeypatch.setattr(device, "_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert device_named("auto") == torch.device("cuda")
    assert device_named("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match=r"'cuda:2' is not on this machine; .* auto, cpu, cuda:0, cuda:1$"):
        device_named("cuda:2")
    monkeypatch.setattr(device, "_accelerator", lambda: None)
    assert device_named("auto") == torch.device("cpu")
    with pytest.raises(UserError, match=r"'cuda' is not on this machine; use auto, cpu$"):
        device_named("cuda")


def test_the_cpu_allocator_s_own_error_is_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("another"))
