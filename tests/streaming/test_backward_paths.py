"""The backward walk where gradients do not simply go from block to block."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ltpipe.checkpoints.manifest import Manifest, TensorEntry
from ltpipe.streaming.backward import walk_gradients
from ltpipe.streaming.gradients import handing_out
from ltpipe.streaming.model import CausalModel

CPU = torch.device("cpu")
VOCABULARY, WIDTH, LAYERS = 20, 6, 4


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden_states, extra=None):
        return hidden_states + self.linear(hidden_states).tanh() + (0 if extra is None else extra)


@dataclass
class Output:
    last_hidden_state: torch.Tensor


class Backbone(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.kind = kind

    def forward(self, ids):
        hidden_states = first = self.embedding(ids)
        for index, layer in enumerate(self.layers):
            if self.kind == "skip" and index == 2:
                middle = hidden_states * 0.5
            extra = hidden_states if self.kind == "twice" else None
            if self.kind == "extra" and index == 2:
                extra = hidden_states * 2
            hidden_states = layer(hidden_states, extra)
            if self.kind == "add" and index == 1:
                hidden_states = hidden_states + 1
        if self.kind == "skip":
            hidden_states = hidden_states + middle
        if self.kind == "first":
            hidden_states = hidden_states + first
        if self.kind == "again":
            hidden_states = self.layers[0](hidden_states)
        return Output(hidden_states)


class Model(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = Backbone(kind)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        if kind == "tied":
            self.model.layers[3].linear.weight = self.model.layers[1].linear.weight

    def forward(self, input_ids, **_):
        return SimpleNamespace(logits=self.head(self.model(input_ids).last_hidden_state))


class Sum(dict):
    def add(self, name, _, gradient):
        self[name] = self.get(name, 0) + gradient.clone()

    def finish(self, block):
        pass


@pytest.mark.parametrize("micro_batch", [1, 2, 5])
@pytest.mark.parametrize(
    ("kind", "streamed"),
    [
        *((kind, True) for kind in ("plain", "skip", "add", "first", "twice")),
        *((kind, False) for kind in ("again", "extra", "tied")),
    ],
)
def test_gradients_of_models_with_other_paths(kind, streamed, micro_batch):
    live = Model(kind)
    ids = torch.randint(VOCABULARY, (5, 7), generator=torch.Generator().manual_seed(1))
    logits = live(ids, use_cache=False).logits[:, :-1].reshape(-1, VOCABULARY)
    nn.functional.cross_entropy(logits, ids[:, 1:].reshape(-1), reduction="sum").backward()

    values = {name: parameter.detach().clone() for name, parameter in live.named_parameters()}
    entries = {name: TensorEntry("F32", tuple(value.shape), "", "Linear") for name, value in values.items()}
    with torch.device("meta"):
        skeleton = Model(kind).eval()
    tied = {"model.layers.3.linear.weight": "model.layers.1.linear.weight"} if kind == "tied" else {}
    model = CausalModel(skeleton, Manifest("Model", "", "model.layers", entries, tied), values.get, CPU, True)
    sink = Sum()
    walk_gradients(model, ids, micro_batch, 3, [name for name in values if "layers" in name], sink)
    assert model.streamed == streamed, model.not_streamed_because
    for name, gradient in sink.items():
        torch.testing.assert_close(gradient, live.get_parameter(name).grad, rtol=1e-5, atol=1e-6)


def test_a_weight_that_a_micro_batch_does_not_use_gets_zeros():
    """Else a mean over sequences would be over those that happened to reach an expert."""
    parameters = {name: nn.Parameter(torch.full((2, 3), 2.0), requires_grad=False) for name in ("used", "unused")}
    sink = Sum()
    with handing_out(parameters, sink) as gradients:
        for _ in range(2):
            with gradients.of_micro_batch():
                parameters["used"].square().sum().backward()
    assert torch.equal(sink["used"], torch.full((2, 3), 8.0))
    assert torch.equal(sink["unused"], torch.zeros(2, 3))
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in parameters.values())
