"""Trainings that are killed, rewound and recorded."""

import json
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import trainings
from torch.nn import functional
from trainings import CPU, Toy, before_steps, noisy, noisy_training, settings, toy, trained

from ltpipe.runtime.errors import DamagedFileError, UserError
from ltpipe.training import levels
from ltpipe.training.computing import TrainingCompute
from ltpipe.training.distillation import Distillation, Teaching
from ltpipe.training.gradual import Gradual, Schedule
from ltpipe.training.plugin import Plugin
from ltpipe.training.record import LearningRecord
from ltpipe.training.run import Training, resume_file, train_fully, train_to
from ltpipe.training.state import Point, read_state, rewind, start_of, write_state
from ltpipe.training.validate import evaluate, validation


def script(folder: Path, where: str, number: int) -> int:
    """Run the training script in a process of its own; its exit code."""
    command = [sys.executable, trainings.__file__, folder / "state", folder / "record.json", where, str(number)]
    return subprocess.run(command, check=False, timeout=120).returncode


def contents(folder: Path) -> dict[str, bytes | dict]:
    """All files; of a record all but when and how fast it was made."""
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    if "record.json" in found:
        found["record.json"] = json.loads(found["record.json"])
        for when in ("seconds", "sha256"):
            del found["record.json"][when]
        del found["record.json"]["provenance"]["created"]
    return found


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    train_fully(noisy_training(save_every=1000), folder / "state", folder / "record.json")
    return contents(folder)


# Writes: states after 6, 12, … 36 steps are the first six, then come the output and the record.
@pytest.mark.parametrize(
    ("where", "number"), [("step", None), pytest.param("write", 3, marks=pytest.mark.slow), ("write", 8)]
)
def test_kill_minus_nine_at_any_moment_changes_no_byte(undisturbed, tmp_path, where, number):
    number = number or random.randint(1, 40)
    print(f"killed in {where} {number}")
    assert script(tmp_path, where, number) == -signal.SIGKILL
    left = contents(tmp_path)
    assert "record.json" not in left
    if where == "write":
        assert any(name.endswith(".tmp") for name in left), "it was killed before the file had its name"
    saved = read_state(resume_file(tmp_path / "state"))
    assert saved.iteration == {"step": (number - 1) // 6 * 6, "write": min(6 * (number - 1), 36)}[where]
    train_fully(noisy_training(), tmp_path / "state", tmp_path / "record.json")
    assert contents(tmp_path) == undisturbed


def test_a_training_goes_on_where_it_stood(undisturbed, tmp_path):
    """Not from the start, and the point of the curve where it goes on is not there twice."""
    output, record = tmp_path / "state", tmp_path / "record.json"
    killed, steps = noisy_training(save_every=5), []

    def fail():
        steps.append(1)
        if len(steps) == 15:
            raise KeyboardInterrupt

    before_steps(killed, fail)
    with pytest.raises(KeyboardInterrupt):
        train_fully(killed, output, record)
    again, counted = noisy_training(save_every=5), []
    before_steps(again, lambda: counted.append(1))
    train_fully(again, output, record)
    assert len(counted) == 40 - 10
    assert contents(tmp_path) == undisturbed


@pytest.mark.parametrize("changes", [{"seed": 4}, {"learning_rate": 0.011}, {"iterations": 41}])
def test_a_resume_file_of_another_training_is_not_gone_on_from(tmp_path, changes):
    other = noisy_training(**changes)
    halfway = trained(other.task, other.settings, other.start, until=12)
    write_state(resume_file(tmp_path / "state"), halfway, noisy_training(**changes).identity)
    train_fully(noisy_training(), tmp_path / "state", tmp_path / "record.json")
    clean = tmp_path / "clean"
    train_fully(noisy_training(), clean / "state", clean / "record.json")
    assert (tmp_path / "state").read_bytes() == (clean / "state").read_bytes()


def test_a_damaged_resume_file_is_not_gone_on_from(tmp_path, caplog):
    training = noisy_training()
    write_state(resume_file(tmp_path / "point"), training.start, training.identity)
    with resume_file(tmp_path / "point").open("r+b") as file:
        file.truncate(1000)
    assert train_to(training, 2, tmp_path / "point").iteration == 2
    assert "starting again" in caplog.text


def test_a_resume_file_that_is_too_far_is_not_gone_on_from(tmp_path):
    later = noisy_training()
    state = trained(later.task, later.settings, later.start, until=30)
    write_state(resume_file(tmp_path / "point"), state, noisy_training().identity)
    assert train_to(noisy_training(), 10, tmp_path / "point").iteration == 10


def test_what_kills_left_of_a_resume_file_goes_with_it(tmp_path):
    """Even if the training that goes on writes none itself."""
    training = noisy_training(save_every=1000)
    begun = trained(training.task, training.settings, training.start, until=1)
    write_state(resume_file(tmp_path / "point"), begun, training.identity)
    (tmp_path / ".point.resume.345.tmp").touch()
    train_to(noisy_training(save_every=1000), 2, tmp_path / "point")
    assert [path.name for path in tmp_path.iterdir()] == ["point"]


def test_identity_knows_all_that_the_result_depends_on():
    base = noisy_training()
    assert base.identity == noisy_training(save_every=9).identity
    mask = {name: kept.clone() for name, kept in base.start.mask.items()}
    mask["output.weight"].view(-1)[int(mask["output.weight"].flatten().nonzero()[0])] = False
    point = Point(0, 1.0, 0.0)
    others = [
        replace(base, start=replace(base.start, mask=mask)),
        replace(base, start=replace(base.start, validation=(point,))),
        replace(base, start=rewind(start_of(noisy(9)), base.start.mask)),
        replace(base, task=toy(train=99)),
        replace(base, task=toy("lenet-300-100")),
        replace(base, computing=TrainingCompute("cpu", threads=2)),
        replace(base, gradual=Gradual({"output.weight": 3}, Schedule(0, 10, 2))),
        replace(base, distillation=Distillation(base.start.weights, Teaching())),
        replace(base, distillation=Distillation(base.start.weights, Teaching(temperature=3.0))),
        replace(base, plugin=Plugin("json:loads")),
    ]
    assert len({base.identity, *(other.identity for other in others)}) == 1 + len(others)


def test_the_file_holds_all_of_a_state(tmp_path):
    training = noisy_training()
    look = validation(training.task, training.task.validation)
    state = trained(training.task, training.settings, training.start, [look], until=7)
    write_state(tmp_path / "state", state)
    read = read_state(tmp_path / "state")
    for part in ("weights", "buffers", "optimizer", "mask", "best"):
        assert getattr(state, part)
        assert same(getattr(read, part), getattr(state, part))
    assert (read.iteration, read.validation) == (7, state.validation)
    assert state.optimizer.keys() == {
        f"{name}/{what}" for name in state.weights for what in ("step", "exp_avg", "exp_avg_sq")
    }
    (tmp_path / "state").write_bytes((tmp_path / "state").read_bytes()[:-1])
    with pytest.raises(DamagedFileError, match="truncated"):
        read_state(tmp_path / "state")


def test_ten_levels_leave_the_rewind_point_alone(tmp_path):
    task = toy("resnet-20")
    chosen = settings(optimizer="sgd", learning_rate=0.02, momentum=0.9, weight_decay=1e-3, iterations=6)
    model = task.build(0)
    kinds = task.kinds(model)
    mask = levels.dense_mask(dict(model.named_parameters()), kinds)
    point = train_to(Training(task, chosen, start_of(model), CPU), 2, tmp_path / "point")
    on_disk = (tmp_path / "point").read_bytes()
    in_memory = {part: {n: t.clone() for n, t in getattr(point, part).items()} for part in ("weights", "buffers")}
    assert any("running_mean" in name for name in point.buffers)
    end = trained(task, chosen, point)
    for _ in range(10):
        mask = levels.prune_layers(levels.magnitudes(end.weights), mask, dict.fromkeys(kinds, "0.2"))
        start = rewind(point, mask)
        assert (start.iteration, start.optimizer, start.validation) == (2, {}, ())
        for name, tensor in in_memory["weights"].items():
            assert torch.equal(start.weights[name], tensor * mask[name] if name in mask else tensor)
        assert same(start.buffers, in_memory["buffers"])
        assert same(start.mask, mask)
        end = trained(task, chosen, start)
        assert not same(end.buffers, in_memory["buffers"])
        start.weights["output.weight"].zero_(), start.buffers["first_norm.running_mean"].zero_()
    for part, tensors in in_memory.items():
        assert same(getattr(point, part), tensors)
    assert (tmp_path / "point").read_bytes() == on_disk
    assert same(read_state(tmp_path / "point").weights, in_memory["weights"])


def test_dense_training_through_the_rewind_point_is_dense_training(tmp_path):
    """A rewind point is a state of the very training that it is taken from, with its optimizer."""
    training = noisy_training()
    expected = trained(training.task, training.settings, training.start)
    point = train_to(training, 17, tmp_path / "point")
    rest = replace(training, start=read_state(tmp_path / "point"))
    train_fully(rest, tmp_path / "state", tmp_path / "record.json")
    assert same(read_state(tmp_path / "state").weights, expected.weights)
    assert point.iteration == 17
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["point", "record.json", "state"]


def test_learning_rate_rewinding_keeps_weights_and_rewinds_the_rest():
    training = noisy_training()
    point = trained(training.task, training.settings, training.start, until=5)
    end = trained(training.task, training.settings, point)
    start = rewind(point, training.start.mask, end)
    assert same(start.weights, end.weights)
    assert same(start.buffers, end.buffers)
    assert (start.iteration, start.optimizer) == (5, {})


def test_the_record_says_what_was_seen(tmp_path):
    training = noisy_training(learning_rate=0.05)
    record = train_fully(training, tmp_path / "state", tmp_path / "record.json")
    assert LearningRecord.read(tmp_path / "record.json") == record
    assert json.loads((tmp_path / "record.json").read_text())["test_accuracy"] == record.test_accuracy
    assert record.iterations == (0, 5, 10, 15, 20, 25, 30, 35, 40)
    lowest = min(range(9), key=record.validation_losses.__getitem__)
    assert record.early_stop_iteration == record.iterations[lowest]
    assert record.early_stop_iteration < 40, "a test of early stopping needs a training that overfits"
    assert record.weights_remaining == levels.weights_remaining(training.start.mask)
    # A second training that just stops there has the early-stop weights.
    again = noisy_training(learning_rate=0.05)
    for until, accuracy in ((record.early_stop_iteration, record.test_accuracy), (40, record.final_test_accuracy)):
        model = noisy()
        trained(again.task, again.settings, again.start, until=until, model=model)
        model.eval()
        test, values = again.task.test, again.task.validation
        assert (model(test.inputs).argmax(1) == test.labels).double().mean().item() == accuracy
        loss = functional.cross_entropy(model(values.inputs), values.labels).item()
        place = record.iterations.index(until)
        assert record.validation_losses[place] == pytest.approx(loss, rel=1e-5)
    assert record.test_accuracy > 0.5


def test_validation_changes_nothing_and_the_first_minimum_counts():
    states = []
    for every in (1, 40):
        each = noisy_training(evaluate_every=every)
        look = validation(each.task, each.task.validation)
        states.append(trained(each.task, each.settings, each.start, [look]))
    assert same(states[0].weights, states[1].weights)
    frozen, model = noisy_training(learning_rate=0.0, evaluate_every=10), noisy()
    model.norm.momentum = 0.0
    look = validation(frozen.task, frozen.task.validation)
    state = trained(frozen.task, frozen.settings, frozen.start, [look], model=model)
    assert len({point.loss for point in state.validation}) == 1
    assert same(state.best, {**state.weights, **frozen.start.buffers})


def test_models_see_test_examples_at_the_end_only(tmp_path):
    """Twice: with the weights at the end, and with those of the early stop."""
    seen, steps = [], []

    class Watched(Toy):
        def logits(self, model, inputs):
            if inputs.untyped_storage().data_ptr() == self.test.inputs.untyped_storage().data_ptr():
                seen.append(len(steps))
            return super().logits(model, inputs)

    training = replace(noisy_training(), task=toy(kind=Watched))
    before_steps(training, lambda: steps.append(1))
    train_fully(training, tmp_path / "state", tmp_path / "record.json")
    assert seen == [40, 40]


def test_divergence_and_impossible_lengths_are_refused(tmp_path):
    with pytest.raises(UserError, match="training diverged: the validation loss after"):
        train_fully(noisy_training(optimizer="sgd", learning_rate=1e30), tmp_path / "state", tmp_path / "record")
    assert not (tmp_path / "state").exists()
    beyond = noisy_training()
    beyond.task.test.inputs[0] = float("inf")
    with pytest.raises(UserError, match="training diverged: the test losses are nan and nan"):
        train_fully(beyond, tmp_path / "state", tmp_path / "record")
    assert not (tmp_path / "state").exists()
    with pytest.raises(UserError, match="cannot train to iteration 41"):
        train_to(noisy_training(), 41, tmp_path / "point")
    with pytest.raises(UserError, match="save_every: 0"):
        noisy_training(save_every=0)


def test_evaluation_sums_over_batches_of_any_size(monkeypatch):
    model, task = noisy(), toy()
    examples = task.validation
    expected = evaluate(task, model, examples)
    monkeypatch.setattr("ltpipe.training.validate._LABELS", 7)
    assert evaluate(task, model, examples) == pytest.approx(expected, rel=1e-6)
    assert model.training
    model.eval()
    logits = model(examples.inputs)
    assert expected[0] == pytest.approx(functional.cross_entropy(logits, examples.labels).item(), rel=1e-6)
    assert expected[1] == (logits.argmax(1) == examples.labels).double().mean().item()
