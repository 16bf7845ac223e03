"""Bytes on an accelerator that is not there: the whole of an evaluation within 1.05 of the weights.

The few functions that look at values are replaced by ones that take at least as much memory on the device.
"""

import pytest
import torch
from torch import nn

import ltpipe
from ltpipe.api import evaluator, losses, masking
from ltpipe.runtime.simulation import ByteCounter, fake, simulated_accelerator

LAYERS, WIDTH, VOCABULARY = 2, 1536, 151_936
"""Qwen2.5-1.5B, of whose 28 equal layers two show what activations take."""
WEIGHTS = 2 * 1_543_714_304


@pytest.fixture
def device():
    return simulated_accelerator()


@pytest.fixture(autouse=True)
def _without_values(monkeypatch, device):
    def selected(part, chosen):  # noqa: ARG001
        torch.empty(len(part), dtype=torch.int64, device=device)  # the index that torch makes on a GPU
        return torch.empty_like(part).cpu()

    def labelled(labels):
        rows = torch.arange(labels.numel() - len(labels))
        return rows, torch.zeros_like(rows)

    def tally(parts):
        return losses.Totals(1.0, sum(len(each) for each, _ in parts), 0)

    monkeypatch.setattr(masking, "_selected", selected)
    monkeypatch.setattr(masking, "_packed", lambda pruned: len(pruned))
    monkeypatch.setattr(masking, "_unpacked", lambda bits, size: torch.zeros(size, dtype=torch.bool))  # noqa: ARG005
    monkeypatch.setattr(losses, "_labelled", labelled)
    monkeypatch.setattr(losses, "_tally", tally)
    monkeypatch.setattr(evaluator, "agrees", lambda *_: True)
    monkeypatch.setattr("ltpipe.api.quality.sparsity_of", lambda mask: 0.5)  # noqa: ARG005
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda position_ids: None)  # noqa: ARG005


def skeleton():
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=8960,
        num_hidden_layers=LAYERS,
        num_attention_heads=12,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    with torch.device("meta"):
        return Qwen2ForCausalLM(config).bfloat16()


def put_on(device, model):
    """Give every parameter and buffer a place on the device, tied ones the same."""
    for module in model.modules():
        for kind in (module._parameters, module._buffers):
            for name, value in kind.items():
                if value is not None:
                    made = torch.empty(value.shape, dtype=value.dtype, device=device)
                    kind[name] = nn.Parameter(made) if kind is module._parameters else made
    model.tie_weights()


def test_an_evaluation_of_a_ticket_takes_no_more_than_a_twentieth_of_the_weights(device):
    model = skeleton()
    with fake():
        put_on(device, model)
        mask = {
            name: torch.empty(parameter.shape, dtype=torch.bool, device="cpu")
            for name, parameter in model.named_parameters()
            if parameter.dim() > 1
        }
        ids = torch.zeros((24, 128), dtype=torch.long)
        with ByteCounter(device) as counter:
            ltpipe.compute_lottery_ticket_quality(model, mask, [{"input_ids": ids, "labels": ids}] * 2, 3.0)
    assert 0 < counter.peak.total < 0.05 * WEIGHTS
    assert sum(counter.held.values()) == 0, "the device is back to its base level"


def test_masking_has_the_temporaries_of_a_chunk_only(device):
    with fake():
        model = nn.Linear(8192, 8192, bias=False, device=device, dtype=torch.bfloat16)
        mask = {"weight": torch.empty(8192, 8192, dtype=torch.bool)}
        with ByteCounter(device) as counter, ltpipe.masked(model, mask):
            assert sum(counter.held.values()) == 0, "the device holds nothing while the body runs"
    assert 0 < counter.peak.total <= 14 * 2**20
    assert sum(counter.held.values()) == 0
