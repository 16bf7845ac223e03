"""The probe: what it finds out about how a model calls its blocks."""

import pytest
import torch
from torch import nn

from ltpipe.streaming.blocks import (
    BatchRule,
    NotStreamableError,
    SameRule,
    parts_of,
    probe_blocks,
    replaced_forward,
    run_in_parts,
)

WIDTH = 4


class Block(nn.Module):
    """Doubles its hidden states and adds a bias that holds `heads` rows for every sequence."""

    def forward(self, hidden_states, positions=None, alibi=None):
        extra = 0 if alibi is None else alibi.reshape(len(hidden_states), -1).sum(1)[:, None, None]
        return 2 * hidden_states + extra + (0 if positions is None else positions)


class Model(nn.Module):
    """Blocks in a row; `skip` lets the model use the first block's input again at the end."""

    def __init__(self, skip: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.skip = skip

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden_states = first = ids[..., None].expand(*ids.shape, WIDTH).float().clone()
        alibi = torch.arange(len(ids) * 5, dtype=torch.float32).reshape(len(ids) * 5, 1, 1)
        for block in self.blocks:
            hidden_states = block(hidden_states, positions=torch.ones(ids.shape[1], WIDTH), alibi=alibi)
        return hidden_states + first if self.skip else hidden_states


def divided(model: Model, ids: torch.Tensor, micro_batch: int) -> torch.Tensor:
    division = probe_blocks(model.blocks, lambda count: model(ids[:1].expand(count, -1)))
    rules = iter(division.rules)
    forwards = [block.forward for block in model.blocks]

    def parts(forward):
        return lambda *args, **kwargs: run_in_parts(
            forward, next(rules), division.in_place, parts_of(len(ids), micro_batch), args, kwargs
        )

    for block, forward in zip(model.blocks, forwards, strict=True):
        block.forward = parts(forward)
    return model(ids)


def test_a_call_that_depends_on_the_tokens_is_no_walk():
    """A mask that is the same for all sequences, until a token of an image is among them."""

    class Mixed(Model):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            positions = torch.ones(ids.shape[1], WIDTH)
            if bool((ids == 9).any()):
                positions = (ids == 9)[..., None] + positions
            return self.blocks[0](ids[..., None].expand(*ids.shape, WIDTH).float().clone(), positions=positions)

    ids = torch.ones(4, 2, dtype=torch.long)
    assert torch.equal(divided(Mixed(), ids, 2), Mixed()(ids))
    ids[1, 1] = 9
    model = Mixed()
    division = probe_blocks(model.blocks, lambda count: model(torch.ones(count, 2, dtype=torch.long)))
    parts, own = parts_of(4, 2), model.blocks[0].forward
    model.blocks[0].forward = lambda *args, **kwargs: run_in_parts(own, division.rules[0], True, parts, args, kwargs)
    with pytest.raises(NotStreamableError, match="depend on the tokens"):
        model(ids)


def test_rules_follow_the_number_of_sequences():
    model = Model()
    division = probe_blocks(model.blocks, lambda count: model(torch.ones(count, 2, dtype=torch.long)))
    assert division.rules == [(BatchRule(0, 1), SameRule(torch.Size((2, WIDTH))), BatchRule(0, 5))] * 3
    assert division.in_place


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("sequences", [1, 2, 3, 5, 7])
def test_parts_equal_the_whole(sequences: int, skip: bool):
    """Five sequences meet a dimension of five rows, seven divide unevenly."""
    ids = torch.arange(sequences * 5).reshape(sequences, 5)
    expected = Model(skip)(ids)
    for micro_batch in (1, 2, 3, 10):
        assert torch.equal(divided(Model(skip), ids, micro_batch), expected)


def test_hidden_states_that_are_used_again_are_not_overwritten():
    model = Model(skip=True)
    assert not probe_blocks(model.blocks, lambda count: model(torch.ones(count, 2, dtype=torch.long))).in_place


def test_blocks_that_change_the_width_are_not_streamable():
    class Narrowing(Model):
        def forward(self, ids):
            hidden_states = self.blocks[0](ids[..., None].expand(*ids.shape, WIDTH).float().clone())
            return self.blocks[1](hidden_states[..., :2])

    model = Narrowing()
    with pytest.raises(NotStreamableError, match="change shape"):
        probe_blocks(model.blocks, lambda count: model(torch.ones(count, 2, dtype=torch.long)))


def test_an_argument_that_does_not_split_is_not_streamable():
    class Odd(Model):
        def forward(self, ids):
            hidden_states = ids[..., None].expand(*ids.shape, WIDTH).float().clone()
            return self.blocks[0](hidden_states, alibi=torch.ones(len(ids) + 1, 1))

    model = Odd()
    with pytest.raises(NotStreamableError, match="does not split by sequence"):
        probe_blocks(model.blocks, lambda count: model(torch.ones(count, 2, dtype=torch.long)))


def test_replaced_forward_is_put_back_after_an_exception():
    block = Block()

    def fail():
        raise KeyError

    with pytest.raises(KeyError), replaced_forward(block, fail):
        block()
    assert torch.equal(block(torch.ones(1, 1, WIDTH)), torch.full((1, 1, WIDTH), 2.0))


def test_running_out_of_memory_is_no_reason_to_load_more():
    class Hungry(Model):
        def forward(self, ids):
            raise torch.OutOfMemoryError(str(ids.shape))

    model = Hungry()
    with pytest.raises(torch.OutOfMemoryError):
        probe_blocks(model.blocks, lambda count: model(torch.ones(count, 2, dtype=torch.long)))
