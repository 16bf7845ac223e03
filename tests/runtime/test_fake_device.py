"""Counting the bytes of tensors, and what the peak was made of."""

import torch

from ltpipe.runtime.fake_device import ByteCounter, fake, fake_accelerator

CPU = torch.device("cpu")


def test_a_storage_that_is_relabelled_was_at_the_peak_under_its_new_name():
    with ByteCounter(CPU) as counter:
        first = torch.empty(100, dtype=torch.uint8)
        torch.empty(50, dtype=torch.uint8)
        later = torch.empty(10, dtype=torch.uint8)
        counter.relabel(first, "first")
        counter.relabel(later, "later")
    assert counter.peak.total == 150
    assert counter.peak.parts == {"first": 100, "other": 50}
    assert counter.held == {"first": 100, "later": 10, "other": 0}


def test_a_backward_pass_runs_on_the_fake_accelerator():
    device = fake_accelerator()
    with fake(), ByteCounter(device) as counter, torch.autograd.set_multithreading_enabled(False):
        weight = torch.empty((4, 4), device=device, requires_grad=True)
        (torch.empty((2, 4), device=device) @ weight).sum().backward()
        assert weight.grad.device == device
        del weight
    assert counter.peak.total >= 2 * 4 * 4 * 4
    assert sum(counter.held.values()) == 0
