"""Iterative magnitude pruning, simulated and real."""

import copy
import gc
import weakref
from itertools import pairwise

import pytest
import torch
from tiny import VOCABULARY, tiny_model
from torch import nn
from torch.nn import functional

import ltpipe
from ltpipe.api import iterative
from ltpipe.pruning.sparsity import exponential_schedule
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.fake_device import ByteCounter


def batches(count):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, VOCABULARY, (count, 1, 12), generator=generator)
    return [{"input_ids": each, "labels": each} for each in ids]


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(model, before):
    return all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_schedule():
    sparsities = exponential_schedule(0.9, 10)
    assert sparsities[-1] == 0.9
    left = [1.0, *(1 - sparsity for sparsity in sparsities)]
    assert [b / a for a, b in pairwise(left)] == pytest.approx([0.1**0.1] * 10)
    assert exponential_schedule(0.5, 1) == [0.5]
    for target, rounds, message in [
        (1.0, 3, "0 to below 1"),
        (-0.1, 3, "is not allowed; use a fraction"),
        (0.5, 0, "use 1 or more"),
    ]:
        with pytest.raises(UserError, match=message):
            exponential_schedule(target, rounds)


def test_simulation_equals_one_shot_tickets():
    model, data = tiny_model("llama").train(), batches(12)
    before = state(model)
    found = ltpipe.compute_iterative_magnitude_pruning(model, iter(data), 0.6, 4)
    assert same(model, before)
    assert model.training
    assert found["mode"] == "simulation"
    assert "nothing was trained" in found["note"]
    dense = ltpipe.compute_lottery_ticket_quality(model, {}, data, max_batches=10)
    assert found["baseline"] == {key: dense[key] for key in ("loss", "accuracy", "num_batches_evaluated")}
    assert found["baseline"]["num_batches_evaluated"] == 10
    for index, (entry, sparsity) in enumerate(zip(found["iterations"], exponential_schedule(0.6, 4), strict=True), 1):
        mask = ltpipe.create_magnitude_mask(model, sparsity)
        alone = ltpipe.compute_lottery_ticket_quality(model, mask, data, max_batches=5)
        assert {key: entry[key] for key in alone} == alone
        assert entry["iteration"] == index
        assert entry["winning"] == (alone["quality_score"] >= 0.9)
    best = found["best_ticket"]
    assert [entry["mask"] is None for entry in found["iterations"]].count(False) == 1
    expected = ltpipe.create_magnitude_mask(model, exponential_schedule(0.6, 4)[best["iteration"] - 1])
    assert all(torch.equal(best["mask"][name], kept) for name, kept in expected.items())


def test_the_best_ticket_is_the_sparsest_that_wins():
    entries = [(0.2, 0.99), (0.4, 0.92), (0.6, 0.7)]

    def best(entries):
        return iterative._best([{"sparsity": s, "quality_score": q, "winning": q >= 0.9} for s, q in entries])

    assert best(entries) == 1
    assert best([(0.2, 0.3), (0.4, 0.5), (0.6, 0.1)]) == 1


def test_every_iteration_takes_the_same_memory_and_no_mask_is_left(monkeypatch):
    """Bytes of all tensors, counted from the first iteration on: neither levels nor peaks grow."""
    model, data = tiny_model("llama"), batches(3)
    ltpipe.compute_iterative_magnitude_pruning(model, data, 0.9, 1)  # what is made once in a process
    counters, alive = [], []
    real_mask, real_entry = iterative.create_magnitude_mask, iterative._entry

    def counted_mask(*args):
        gc.collect()
        mask = real_mask(*args)
        assert not any(each() is not None for each in alive), "masks of earlier iterations are gone"
        alive.extend(weakref.ref(kept) for kept in mask.values())
        counters.append(ByteCounter(torch.device("cpu")))
        counters[-1].__enter__()
        return mask

    def closing_entry(*args):
        counters[-1].__exit__(None, None, None)
        return real_entry(*args)

    monkeypatch.setattr(iterative, "create_magnitude_mask", counted_mask)
    monkeypatch.setattr(iterative, "_entry", closing_entry)
    monkeypatch.setattr(iterative, "exponential_schedule", lambda target, rounds: [target] * rounds)
    ltpipe.compute_iterative_magnitude_pruning(model, data, 0.5, 10)
    counters.pop().__exit__(None, None, None)  # the best mask, made again
    assert len(counters) == 10
    assert len({counter.peak.total for counter in counters}) == 1
    assert counters[0].peak.total > 0


def test_determinism():
    model, data = tiny_model("llama"), batches(3)
    first, second = (ltpipe.compute_iterative_magnitude_pruning(model, data, 0.8, 3) for _ in range(2))
    assert first["baseline"] == second["baseline"]
    for one, other in zip(first["iterations"], second["iterations"], strict=True):
        assert {**one, "mask": None} == {**other, "mask": None}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"trainer_fn": print, "num_iterations": 3},
            "would train the model 4 times; pass train=True or set LTPIPE_ALLOW",
        ),
        (
            {"trainer_fn": setattr, "train": True},
            r"it takes \(obj, name, value.*; use a function of \(model, dataloader\)",
        ),
        ({"trainer_fn": lambda: None, "train": True}, r"it takes \(\); use a function of"),
        ({"train": True}, "train=True needs a trainer_fn"),
        ({"target_sparsity": 1.0}, "0 to below 1"),
    ],
)
def test_nobody_trains_by_accident(arguments, message, monkeypatch):
    monkeypatch.setenv("LTPIPE_ALLOW_IMP_TRAINING", "0")
    with pytest.raises(UserError, match=message):
        ltpipe.compute_iterative_magnitude_pruning(tiny_model("llama"), batches(1), **arguments)
    with pytest.raises(UserError, match="yields no batch"):
        ltpipe.compute_iterative_magnitude_pruning(tiny_model("llama"), [])


def problem():
    """A learnable task: the class is the largest of four of ten inputs."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(256, 10, generator=generator)
    return values, values[:, :4].argmax(1)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))


class Trainer:
    def __init__(self, fail_at=None):
        self.starts, self.fail_at = [], fail_at

    def __call__(self, model):
        self.starts.append(state(model))
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
        values, labels = problem()
        for _ in range(15):
            optimizer.zero_grad()
            functional.cross_entropy(model(values), labels).backward()
            optimizer.step()
            if len(self.starts) == self.fail_at:
                raise KeyboardInterrupt


@pytest.mark.parametrize("keep_masks", [False, True])
def test_masks_are_kept_on_demand_packed_and_read_like_the_others(keep_masks):
    model, data = tiny_model("llama"), batches(2)
    found = ltpipe.compute_iterative_magnitude_pruning(model, data, 0.6, 3, keep_masks=keep_masks)
    masks = [entry["mask"] for entry in found["iterations"]]
    assert [mask is None for mask in masks].count(True) == (0 if keep_masks else 2)
    assert found["best_ticket"]["mask"] is masks[found["best_ticket"]["iteration"] - 1]
    if not keep_masks:
        return
    for mask, sparsity, entry in zip(masks, exponential_schedule(0.6, 3), found["iterations"], strict=True):
        expected = ltpipe.create_magnitude_mask(model, sparsity)
        assert list(mask) == list(expected)
        assert all(torch.equal(mask[name], kept) for name, kept in expected.items())
        assert {kept.dtype for kept in mask.values()} == {torch.bool}
        total = sum(kept.numel() for kept in expected.values())
        assert sum(bits.nbytes for bits in mask.mask.bits.values()) <= total / 8 + len(mask)
        alone = ltpipe.compute_lottery_ticket_quality(model, mask, data)
        assert alone["loss"] == entry["loss"]


def in_place(model, dataloader):
    next(iter(dataloader))
    Trainer()(model)


def returning(model, dataloader):
    in_place(model, dataloader)
    return nn.Sequential(model)  # a wrapper, as torch.compile makes one


class Bound:
    def train(self, model, dataloader, epochs=1):  # noqa: ARG002
        in_place(model, dataloader)


@pytest.mark.parametrize(
    "trainer", [in_place, returning, Bound().train, Trainer(), lambda model: Trainer()(model)], ids=lambda _: ""
)
@pytest.mark.parametrize("permission", ["argument", "environment"])
def test_a_trainer_takes_the_model_and_the_batches_or_the_model(trainer, permission, monkeypatch):
    monkeypatch.setenv("LTPIPE_ALLOW_IMP_TRAINING", "1" if permission == "environment" else "")
    train = {"train": True} if permission == "argument" else {}
    model, seen = network(), []

    def loader():
        yield problem()
        seen.append(1)

    before = state(model)
    found = ltpipe.compute_iterative_magnitude_pruning(model, loader(), 0.5, 2, trainer, keep_masks=True, **train)
    assert same(model, before)
    assert len(seen) == 1, "an iterator is read once"
    last = found["iterations"][-1]
    assert last["loss"] == pytest.approx(trained_by_hand(last["mask"]), rel=1e-5)


def test_a_loader_that_can_be_read_again_is_what_the_trainer_gets():
    data, got = [problem()], []
    ltpipe.compute_iterative_magnitude_pruning(
        network(),
        data,
        0.5,
        1,
        lambda _, dataloader: got.append(dataloader),
        train=True,
    )
    assert all(each is data for each in got)


@pytest.mark.parametrize("returned", [lambda _: nn.Linear(2, 2), lambda model: copy.deepcopy(model)])
def test_another_model_that_the_trainer_returns_is_refused(returned):
    """Its pruned weights were not held at zero while it trained."""
    model = network()
    before = state(model)
    with pytest.raises(UserError, match=r"it returned a different model .*; train the given model in place"):
        ltpipe.compute_iterative_magnitude_pruning(model, [problem()], 0.5, 1, returned, train=True)
    assert same(model, before)


def test_full_pruning_trains_prunes_and_rewinds():
    model, trainer = network(), Trainer()
    before = state(model)
    found = ltpipe.compute_iterative_magnitude_pruning(model, [problem()], 0.8, 4, trainer, train=True)
    assert found["mode"] == "full"
    assert same(model, before), "the model comes back with its initial weights and buffers"
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training
    assert len(trainer.starts) == 5
    masks = []
    for start in trainer.starts:  # every training starts from the initial weights, some of them zero
        masks.append({name: start[name] != 0 for name in ("0.weight", "3.weight")})
        for name, tensor in start.items():
            kept = masks[-1].get(name, torch.ones((), dtype=torch.bool))
            assert torch.equal(tensor, torch.where(kept, before[name], torch.zeros_like(tensor)))
    sizes = [sum(int(kept.sum()) for kept in mask.values()) for mask in masks]
    assert sizes == [448 - round(448 * s) for s in (0.0, *exponential_schedule(0.8, 4))]
    for looser, tighter in pairwise(masks):
        assert all(bool((looser[name] | ~tighter[name]).all()) for name in looser)
    assert found["baseline"]["accuracy"] > 0.6, "the baseline is the trained model"
    assert found["iterations"][0]["accuracy"] > 0.6, "a ticket is trained before it is measured"
    best = found["best_ticket"]
    assert all(torch.equal(best["mask"][name], masks[best["iteration"]][name]) for name in best["mask"])
    expected = trained_by_hand(masks[-1])
    assert found["iterations"][-1]["loss"] == pytest.approx(expected, rel=1e-5)


def trained_by_hand(mask):
    """Loss of a ticket that is trained with its weights masked after every step."""
    model = network()
    values, labels = problem()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)

    def prune():
        with torch.no_grad():
            for name, kept in mask.items():
                model.get_parameter(name).mul_(kept)

    prune()
    for _ in range(15):
        optimizer.zero_grad()
        functional.cross_entropy(model(values), labels).backward()
        for name, kept in mask.items():
            model.get_parameter(name).grad.mul_(kept)
        optimizer.step()
        prune()
    model.eval()
    return functional.cross_entropy(model(values), labels).item()


def test_full_pruning_leaves_the_model_as_it_was_when_the_trainer_fails():
    model = network().eval()
    before = state(model)
    with pytest.raises(KeyboardInterrupt):
        ltpipe.compute_iterative_magnitude_pruning(model, [problem()], 0.8, 4, Trainer(fail_at=3), train=True)
    assert same(model, before)
    assert not model.training
    assert not any(parameter._post_accumulate_grad_hooks for parameter in model.parameters())


def test_a_trained_weight_that_is_zero_brings_no_pruned_one_back():
    model, starts = nn.Linear(4, 4, bias=False), []

    def trainer(model):
        starts.append(model.weight.detach() != 0)
        with torch.no_grad():  # first late weights become zero, then early ones, which ties prune first
            (model.weight[:2] if len(starts) > 1 else model.weight[2:]).zero_()

    inputs = [(torch.randn(3, 4), torch.tensor([0, 1, 2]))]
    found = ltpipe.compute_iterative_magnitude_pruning(model, inputs, 0.4, 4, trainer, train=True)
    assert not starts[1][2:].all()
    for looser, tighter in pairwise(starts):
        assert bool((looser | ~tighter).all())
    sparsities = [entry["sparsity"] for entry in found["iterations"]]
    assert sparsities == sorted(sparsities)
