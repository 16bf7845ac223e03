"""Masks of levels as files: the counts of the paper, by kind of layer or all together."""

import numpy as np
import pytest
import torch
from trainings import toy

from ltpipe.analysis.validation import validate_alone
from ltpipe.pruning.masks import load_mask, read_mask, unpack, write_whole_mask
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.errors import UserError
from ltpipe.training.levels import dense_mask
from ltpipe.training.prune import PruningRule, prune_level
from ltpipe.training.scores import level_scores
from ltpipe.training.state import rewind, start_of


def test_lenet_keeps_what_the_paper_says(tmp_path):
    """51.3, 21.1, 13.5, 8.7 and 3.6 % at levels 3, 7, 9, 11 and 15 (Frankle & Carbin 2019, figure 3 and appendix)."""
    from ltpipe.data.images import Pixels, Split
    from ltpipe.training.tasks.images import ImageTask

    pixels = Pixels(np.arange(40 * 784, dtype=np.uint8).reshape(40, 1, 28, 28), np.arange(40, dtype=np.uint8) % 10)
    task = ImageTask.of("lenet-300-100", Split(pixels, pixels, pixels))
    state = start_of(task.build(0))
    rule = PruningRule(fractions={"hidden": Sparsity.of("0.2"), "output": Sparsity.of("0.1")})
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
    mask = prune_level(task, state, PruningRule(scope="global", fraction=Sparsity.of("0.3")), 4)
    everything = torch.cat([state.weights[name].abs().flatten() for name in mask.shapes])
    assert mask.total_kept == len(everything) - round(0.3 * len(everything))
    assert (mask.criterion, mask.scope, mask.seed) == ("magnitude", "global", 4)
    assert float(mask.sparsity) == pytest.approx(0.3, abs=0.01)
    kept = {name: state.weights[name].abs().flatten() for name in mask.shapes}
    threshold = everything.sort().values[round(0.3 * len(everything))]
    for name, values in kept.items():
        bits = np.unpackbits(mask.bits[name], count=len(values), bitorder="little").astype(bool)
        assert (bits == (values >= threshold).numpy()).all()


def test_kinds_with_a_fraction_of_their_own_compete_apart_under_scope_global():
    """The whole of the others competes: with a fraction of 0 the output stays whole, as in open_lth's LeNet."""
    task, fractions = toy("conv-2"), {"convolution": Sparsity.of("0.1"), "output": Sparsity.of("0")}
    state, kinds = start_of(task.build(0)), task.kinds(task.build(0))
    mask = prune_level(
        task,
        state,
        PruningRule(scope="global", fractions=fractions),
        0,
    )
    for among, fraction in ((["convolution"], 0.1), (["hidden"], 0.2), (["output"], 0)):
        names = [name for name, kind in kinds.items() if kind in among]
        scores = torch.cat([state.weights[name].abs().flatten() for name in names])
        bits = np.concatenate([np.unpackbits(mask.bits[name], count=state.weights[name].numel(), bitorder="little")
                               for name in names])  # fmt: skip
        lowest = scores.argsort(stable=True)[: round(fraction * len(scores))]
        assert not bits[lowest].any()
        assert bits.sum() == len(scores) - len(lowest)
    assert mask.options["level"] == {
        "fraction": "0.2",
        "fractions": {"convolution": "0.1", "output": "0"},
        "exclude": [],
        "at": "end",
    }


def test_what_is_excluded_is_not_prunable():
    task = toy()
    state, kinds = start_of(task.build(0)), task.kinds(task.build(0))
    mask = prune_level(task, state, PruningRule(scope="global", exclude=("out*",)), 0)
    assert list(mask.shapes) == [name for name in kinds if not name.startswith("out")]
    again = prune_level(task, rewind(state, mask_tensors(mask)), PruningRule(scope="global", exclude=("out*",)), 0)
    assert again.total == mask.total
    assert again.total_kept == mask.total_kept - round(0.2 * mask.total_kept)
    for exclude, message in (
        (("conv9*",), "exclude: 'conv9\\*' matches no prunable tensor"),
        (("*",), "leaves nothing"),
    ):
        with pytest.raises(UserError, match=message):
            prune_level(task, state, PruningRule(exclude=exclude), 0)


def test_a_level_with_fractions_of_kinds_is_no_broken_mask():
    task = toy()
    state = start_of(task.build(0))
    mask = prune_level(task, state, PruningRule(fractions={"output": Sparsity.of("0.5")}), 0)
    assert validate_alone(mask).broken == ()


def mask_tensors(mask):
    return {name: torch.from_numpy(unpack(bits, mask.shapes[name])) for name, bits in mask.bits.items()}


@pytest.mark.parametrize("criterion", ["snip", "grasp", "synflow", "magnitude", "random"])
def test_levels_before_training_cut_one_ranking_of_the_dense_model(criterion):
    task = toy()
    state = start_of(task.build(0))
    rule = PruningRule(criterion, "global", Sparsity.of("0.5"), at="start", examples=20)
    first = prune_level(task, state, rule, 0)
    second = prune_level(task, state, rule, 0, before=mask_tensors(first))
    scores = level_scores(task, state.weights, state.buffers, criterion, dense_mask(state.weights, first.shapes), 20, 0)
    ranked = torch.cat([scores[name].flatten() for name in first.shapes]).argsort(stable=True)
    for mask in (first, second):
        bits = np.concatenate([kept.flatten() for kept in map(np.asarray, mask_tensors(mask).values())])
        assert not bits[ranked[: mask.total - mask.total_kept]].any()
    assert second.total_kept == first.total_kept - round(first.total_kept / 2)
    assert second.options["level"]["at"] == "start"


def test_a_criterion_of_the_registry_prunes_as_many():
    task = toy()
    state = start_of(task.build(0))
    by = {name: prune_level(task, state, PruningRule(name, examples=20), 0) for name in ("magnitude", "random", "snip")}
    assert len({mask.total_kept for mask in by.values()}) == 1
    assert len({mask.bits["output.weight"].tobytes() for mask in by.values()}) == 3


def test_the_state_of_another_model_is_refused():
    with pytest.raises(UserError, match="the training state belongs to another model"):
        prune_level(toy("conv-2"), start_of(toy("lenet-300-100").build(0)), PruningRule(), 0)
