"""Gradual pruning against the equation of the paper, and in a training."""

import pytest
import torch
from trainings import noisy_training, settings, toy, trained

from ltpipe.runtime.errors import UserError
from ltpipe.training.gradual import Gradual, Schedule, cubic_sparsity
from ltpipe.training.state import start_of
from ltpipe.training.validate import validation


def test_the_schedule_is_the_papers():
    """Zhu & Gupta 2017, equation 1, with s_i = 0, n = 10 steps."""
    for step in range(11):
        assert cubic_sparsity(0.8, step / 10) == pytest.approx(0.8 + (0 - 0.8) * (1 - step / 10) ** 3)


@pytest.fixture
def counts():
    return {"convolution.weight": 9, "output.weight": 100}


def test_masks_are_nested_follow_the_schedule_and_hold(counts):
    plan, seen = Gradual(counts, Schedule(begin=5, end=25, every=7)), []

    def check(live):
        weights, mask = live.state().weights, live.mask
        for name, kept in mask.items():
            assert not weights[name][~kept].any()
            for what in ("exp_avg", "exp_avg_sq"):
                momenta = live.state().optimizer.get(f"{name}/{what}")
                assert momenta is None or not momenta[~kept].any()
        seen.append({name: kept.clone() for name, kept in mask.items()})

    task = toy()
    state = trained(task, settings(), start_of(task.build(0)), [plan.callback(), check])
    sizes = {name: state.weights[name].numel() for name in counts}
    assert seen[:5] == [{}] * 5
    for iteration in range(5, 41):
        latest = max(step for step in (5, 12, 19, 25) if step <= iteration)
        for name, kept in seen[iteration].items():
            sparsity = (1 - counts[name] / sizes[name]) * (1 - (1 - (latest - 5) / 20) ** 3)
            assert int(kept.sum()) == sizes[name] - round(sparsity * sizes[name])
            assert not (kept & ~seen[iteration - 1].get(name, torch.ones_like(kept))).any()
    assert {name: int(kept.sum()) for name, kept in state.mask.items()} == counts


def test_the_smallest_of_the_moment_go(counts):
    task = toy()
    before = trained(task, settings(), start_of(task.build(0)), until=25)
    state = trained(
        task, settings(), start_of(task.build(0)), [Gradual(counts, Schedule(24, 25, 1)).callback()], until=25
    )
    for name, count in counts.items():
        smallest = before.weights[name].abs().flatten().sort(descending=True).values[count - 1]
        assert torch.equal(state.mask[name], before.weights[name].abs() >= smallest)


def test_only_the_final_density_is_looked_at():
    training = noisy_training()
    look = validation(training.task, training.task.validation, first=25)
    state = trained(training.task, training.settings, training.start, [look])
    assert [point.iteration for point in state.validation] == [25, 30, 35, 40]


@pytest.mark.parametrize(("begin", "end", "every"), [(5, 5, 1), (-1, 5, 1), (0, 5, 0)])
def test_impossible_schedules_are_refused(begin, end, every):
    with pytest.raises(UserError, match="use 0 <= begin < end"):
        Schedule(begin, end, every)
