"""Masks of levels as files: the counts of the paper, by kind of layer or all together."""

import numpy as np
import pytest
import torch
from trainings import toy

from ltpipe.pruning.masks import load_mask, read_mask, write_whole_mask
from ltpipe.runtime.errors import UserError
from ltpipe.training.prune import PruningRule, prune_level
from ltpipe.training.state import rewind, start_of


def test_lenet_keeps_what_the_paper_says(tmp_path):
    """51.3, 21.1, 13.5, 8.7 and 3.6 % at levels 3, 7, 9, 11 and 15 (Frankle & Carbin 2019, figure 3 and appendix)."""
    from ltpipe.data.images import Pixels, Split
    from ltpipe.training.tasks.images import ImageTask

    pixels = Pixels(np.arange(40 * 784, dtype=np.uint8).reshape(40, 1, 28, 28), np.arange(40, dtype=np.uint8) % 10)
    task = ImageTask.of("lenet-300-100", Split(pixels, pixels, pixels))
    state = start_of(task.build(0))
    rule = PruningRule(fractions={"hidden": "0.2", "output": "0.1"})
    remaining, earlier = {}, None
    for level in range(1, 16):
        write_whole_mask(tmp_path / "mask", prune_level(task, state, rule, 0))
        mask = load_mask(tmp_path / "mask")
        if earlier:
            assert not any((mask[name] & ~kept).any() for name, kept in earlier.items())
        assert list(mask) == list(task.kinds(task.build(0)))
        state, earlier = rewind(state, mask), mask
        remaining[level] = read_mask(tmp_path / "mask").total_kept / 266_200
    assert [round(100 * remaining[level], 1) for level in (3, 7, 9, 11, 15)] == [51.3, 21.1, 13.5, 8.7, 3.6]


def test_the_lowest_of_all_go_under_scope_global():
    task = toy()
    state = start_of(task.build(0))
    mask = prune_level(task, state, PruningRule(scope="global", fraction="0.3"), 4)
    everything = torch.cat([state.weights[name].abs().flatten() for name in mask.shapes])
    assert mask.total_kept == len(everything) - round(0.3 * len(everything))
    assert (mask.criterion, mask.scope, mask.seed) == ("magnitude", "global", 4)
    assert float(mask.sparsity) == pytest.approx(0.3, abs=0.01)
    kept = {name: state.weights[name].abs().flatten() for name in mask.shapes}
    threshold = everything.sort().values[round(0.3 * len(everything))]
    for name, values in kept.items():
        bits = np.unpackbits(mask.bits[name], count=len(values), bitorder="little").astype(bool)
        assert (bits == (values >= threshold).numpy()).all()


def test_a_criterion_of_the_registry_prunes_as_many():
    task = toy()
    state = start_of(task.build(0))
    by = {name: prune_level(task, state, PruningRule(name, examples=20), 0) for name in ("magnitude", "random", "snip")}
    assert len({mask.total_kept for mask in by.values()}) == 1
    assert len({mask.bits["output.weight"].tobytes() for mask in by.values()}) == 3


def test_the_state_of_another_model_is_refused():
    with pytest.raises(UserError, match="the training state is of another model"):
        prune_level(toy("conv-2"), start_of(toy("lenet-300-100").build(0)), PruningRule(), 0)
