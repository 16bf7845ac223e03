"""Where each branch of a level starts, and what makes it differ from the ticket."""

from dataclasses import replace

import pytest
import torch
from trainings import settings, toy, trained

from ltpipe.runtime.errors import UserError
from ltpipe.training import levels
from ltpipe.training.branches import Level, training_of
from ltpipe.training.distillation import Teaching
from ltpipe.training.gradual import Schedule
from ltpipe.training.loop import batches
from ltpipe.training.run import TrainingName, train_fully
from ltpipe.training.state import start_of
from ltpipe.training.validate import validation

STEP = 7
SETTINGS = settings(milestones=(20,))


@pytest.fixture(scope="module")
def material():
    """Task, rewinding point, level 0 and the mask of level 1."""
    task = toy()
    point = trained(task, SETTINGS, start_of(task.build(0)), [validation(task, task.validation)], until=STEP)
    dense = trained(task, SETTINGS, point, [validation(task, task.validation)])
    mask = levels.prune_globally(
        levels.magnitudes(dense.weights), levels.dense_mask(dense.weights, task.kinds(task.build(0))), "0.5"
    )
    return task, point, dense, mask


def made(material, branch, mode="weights", level=1, **changes):
    task, point, dense, mask = material
    given = Level(task, TrainingName("s", 0, level, branch), point, mask if level else {}, dense, dense)
    return training_of(replace(given, **changes), SETTINGS, mode, Schedule(10, 30, 5), Teaching(3.0, 0.4, 0.1))


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def counts(mask):
    return {name: int(kept.sum()) for name, kept in mask.items()}


def test_a_ticket_starts_from_mask_times_the_weights_of_step_k(material):
    _, point, _, mask = material
    training = made(material, "ticket")
    assert same(training.start.weights, levels.apply_mask(point.weights, mask))
    assert (training.start.iteration, training.start.optimizer) == (STEP, {})
    assert same(training.start.mask, mask)
    assert training.settings == SETTINGS
    dense = made(material, "ticket", level=0)
    assert dense.start == point
    assert dense.start.optimizer, "the dense training goes on from the point with its optimizer"


def test_rewinding_modes_differ_in_weights_and_rates(material):
    _, _, dense, mask = material
    kept = made(material, "ticket", "learning-rate")
    assert same(kept.start.weights, levels.apply_mask(dense.weights, mask))
    assert same(kept.start.buffers, dense.buffers)
    assert (kept.start.iteration, kept.settings) == (STEP, SETTINGS)
    tuned = made(material, "ticket", "none")
    assert same(tuned.start.weights, kept.start.weights)
    rates = [tuned.settings.rate(iteration) for iteration in (STEP, 39)]
    assert rates == [SETTINGS.rate(39)] * 2 == [pytest.approx(0.001)] * 2
    assert made(material, "ticket", "none", level=0).settings == SETTINGS
    with pytest.raises(UserError, match="needs the previous level's ticket"):
        made(material, "ticket", "none", trained=None)


@pytest.mark.parametrize("mode", ["weights", "learning-rate", "none"])
def test_controls_have_the_start_of_the_ticket_under_another_mask(material, mode):
    _, _, _, mask = material
    ticket = made(material, "ticket", mode)
    values = material[1 if mode == "weights" else 2].weights
    for branch in ("shuffled-1", "shuffled-2", "random-1"):
        control = made(material, branch, mode)
        assert same(control.start.weights, levels.apply_mask(values, control.start.mask))
        assert not same(control.start.mask, mask)
        assert control.settings == ticket.settings
        assert control.start.iteration == ticket.start.iteration
        if branch.startswith("shuffled"):
            assert counts(control.start.mask) == counts(mask)
        assert sum(counts(control.start.mask).values()) == sum(counts(mask).values())
    assert not same(made(material, "shuffled-1").start.mask, made(material, "shuffled-2").start.mask)


def test_reinitialised_weights_have_the_mask_and_nothing_else_in_common_with_the_ticket(material):
    task, _, _, mask = material
    one, other = made(material, "reinitialised-1"), made(material, "reinitialised-2")
    first = start_of(task.build(0))
    for training in (one, other):
        assert training.start.iteration == 0
        assert same(training.start.mask, mask)
        assert training.settings == SETTINGS
        for name, kept in mask.items():
            assert torch.equal(training.start.weights[name] != 0, kept)
            assert not (training.start.weights[name] == first.weights[name])[kept].any()
    assert not same(one.start.weights, other.start.weights)
    elsewhere = made(material, "reinitialised-1", named=TrainingName("s", 1, 1, "reinitialised-1"))
    assert not same(one.start.weights, elsewhere.start.weights), "replicates have controls of their own"


@pytest.mark.parametrize("level", [0, 1])
def test_children_differ_in_the_order_of_the_data_only(material, level):
    ticket, child = made(material, "ticket", level=level), made(material, "order-1", level=level)
    assert same(ticket.start.weights, child.start.weights)
    assert same(ticket.start.mask, child.start.mask)
    assert replace(child.settings, seed=ticket.settings.seed) == ticket.settings
    orders = [next(batches(100, 12, each.settings.seed, STEP)).tolist() for each in (ticket, child)]
    assert orders[0] != orders[1]


def test_gradual_pruning_ends_at_the_counts_of_the_level(material, tmp_path):
    _, point, _, mask = material
    training = made(material, "gradual")
    assert point.validation, "the dense model was looked at before step k"
    assert training.start == replace(point, validation=(), best={})
    record = train_fully(training, tmp_path / "state", tmp_path / "record.json", TrainingName("s", 0, 1, "gradual"))
    assert record.kept == sum(counts(mask).values())
    assert record.iterations[0] == 30
    with pytest.raises(UserError, match="use iterations from 7 to 40"):
        training_of(
            Level(material[0], TrainingName("s", 0, 1, "gradual"), point, mask), SETTINGS, "weights",
            Schedule(0, 30, 5), Teaching(),
        )  # fmt: skip


def test_the_dense_model_at_its_early_stop_is_the_teacher(material):
    _, _, dense, _ = material
    training = made(material, "distilled")
    assert same(training.distillation.teacher, dense.best)
    assert training.distillation.teaching == Teaching(3.0, 0.4, 0.1)
    assert same(training.start.weights, made(material, "ticket").start.weights)
    with pytest.raises(UserError, match="pass --teacher"):
        made(material, "distilled", teacher=None)


@pytest.mark.parametrize("branch", ["ticket", "reinitialised-1", "shuffled-1", "transplanted-s", "gradual"])
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({}, "pass --mask"),
        ({"output.weight": torch.ones(4, 9, dtype=torch.bool)}, r"no weight 'output.weight' of shape \(4, 9\)"),
        ({"first.weight": torch.ones(4, 144, dtype=torch.bool)}, "no weight 'first.weight' of shape"),
    ],
)
def test_masks_of_other_models_and_none_at_all_are_refused(material, branch, mask, message):
    with pytest.raises(UserError, match=message):
        made(material, branch, mask=mask)


def test_a_branch_that_does_not_exist_is_refused(material):
    with pytest.raises(UserError, match="branch: 'tickets' is not allowed; use ticket, reinitialised-N"):
        made(material, "tickets")


def test_the_dense_level_has_no_controls(material):
    with pytest.raises(UserError, match="level 0 has no branch 'shuffled-1'"):
        made(material, "shuffled-1", level=0)
