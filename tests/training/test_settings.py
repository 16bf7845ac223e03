"""Schedules of learning rates, number by number."""

import pytest
from trainings import settings

from ltpipe.runtime.errors import UserError


def test_constant_is_the_default():
    assert {settings(learning_rate=0.3).rate(iteration) for iteration in range(100)} == {0.3}


def test_warm_up_and_steps():
    chosen = settings(learning_rate=1.0, warmup=4, milestones=(6, 8), decay=0.5)
    assert [chosen.rate(iteration) for iteration in range(10)] == [0.25, 0.5, 0.75, 1, 1, 1, 0.5, 0.5, 0.25, 0.25]


def test_the_end_is_always_evaluated():
    chosen = settings(iterations=7, evaluate_every=3)
    assert [iteration for iteration in range(8) if chosen.evaluates_at(iteration)] == [0, 3, 6, 7]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "lion"}, "use sgd, adam or adamw"),
        ({"momentum": 0.9}, "adam has its own"),
        ({"batch_size": 0}, "batch_size: 0 is not allowed; use 1"),
        ({"learning_rate": float("nan")}, "learning_rate: nan"),
        ({"weight_decay": -1.0}, "weight_decay: -1.0"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        settings(**changes)
