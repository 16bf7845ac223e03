"""A training loop of the user's own, and what holds whatever it does."""

from dataclasses import replace

import pytest
import torch
from trainings import noisy_training, trained

from ltpipe.runtime.errors import UserError
from ltpipe.training.plugin import Plugin
from ltpipe.training.run import resume_file, train_fully
from ltpipe.training.state import read_state

OWN_LOOP = """
import torch
from torch.nn import functional

def own(live, examples, loss, until):
    optimizer = torch.optim.SGD(live.model.parameters(), 0.05, momentum=0.9)
    while live.iteration < until:
        optimizer.zero_grad()
        functional.cross_entropy(live.model(examples.inputs), examples.labels).backward()
        optimizer.step()
        live.took_step()

def ours(live, examples, loss, until):
    from ltpipe.training.loop import take_steps
    take_steps(live, examples, loss, until)

def lazy(live, examples, loss, until):
    pass

def broken(live, examples, loss, until):
    raise ValueError("no luck\\ntoday")
"""


@pytest.fixture
def own_loops(tmp_path, monkeypatch):
    (tmp_path / "own_loops.py").write_text(OWN_LOOP)
    (tmp_path / "not_python.py").write_text("def train(:")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(folder, name, **changes):
    training = replace(noisy_training(**changes), plugin=Plugin(f"own_loops:{name}"))
    return training, train_fully(training, folder / "state", folder / "record.json")


def test_a_loop_with_its_own_optimizer_keeps_the_mask(own_loops):
    training, record = run(own_loops, "own")
    state = read_state(own_loops / "state")
    for name, kept in training.start.mask.items():
        assert not state.weights[name][~kept].any()
        assert not torch.equal(state.weights[name], training.start.weights[name])
    assert record.iterations == (0, 5, 10, 15, 20, 25, 30, 35, 40)
    assert not resume_file(own_loops / "state").exists()


def test_a_loop_that_is_ours_gives_what_ours_gives(own_loops):
    training, _ = run(own_loops, "ours")
    expected = trained(training.task, training.settings, training.start)
    found = read_state(own_loops / "state")
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in expected.weights.items())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_loops:lazy", "it ended after 0 iterations; expected 40"),
        ("own_loops:absent", "module 'own_loops' has no function 'absent'"),
        ("no_such_module:train", "use a module that can be imported"),
        ("own_loops:broken", r"'own_loops:broken' failed with ValueError: no luck \(own_loops.py, line 21\)$"),
        ("not_python:train", r"'not_python:train' cannot be imported: SyntaxError: .*\(not_python.py, line 1\)$"),
        ("own_loops", "use module:function"),
    ],
)
def test_what_is_no_trainer_is_refused(own_loops, name, message):
    with pytest.raises(UserError, match=message):
        train_fully(replace(noisy_training(), plugin=Plugin(name)), own_loops / "state", own_loops / "record.json")
    assert not (own_loops / "state").exists()


def test_what_an_edited_loop_left_is_not_gone_on_from(own_loops):
    (own_loops / "edited_loops.py").write_text(OWN_LOOP)
    training = replace(noisy_training(), plugin=Plugin("edited_loops:own"))
    before = training.identity
    (own_loops / "edited_loops.py").write_text(OWN_LOOP.replace("0.05", "0.06"))
    assert training.identity != before
