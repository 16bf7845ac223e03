"""Trainings that are killed, rewound and recorded."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import trainings
from torch.nn import functional
from trainings import CLASSES, SIDE, image_data, noisy_training, on_training_step, settings

from ltpipe.runtime.errors import DamagedFileError, UserError
from ltpipe.training import levels, models
from ltpipe.training.images import ImageData
from ltpipe.training.loop import train
from ltpipe.training.run import LearningRecord, Training, resume_file, train_fully, train_to
from ltpipe.training.state import read_state, rewind, start_of, write_state
from ltpipe.training.validate import evaluate


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def script(folder: Path, where: str, number: int) -> int:
    """Run the training script in a process of its own; its exit code."""
    command = [sys.executable, trainings.__file__, folder / "state", folder / "record.json", where, str(number)]
    return subprocess.run(command, check=False, timeout=120).returncode


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    train_fully(noisy_training(), folder / "state", folder / "record.json", save_every=1000)
    return contents(folder)


# Writes: states after 0, 6, 12, … 36 steps are the first seven, then come the output and the record.
@pytest.mark.parametrize(("where", "number"), [("step", None), ("write", 3), ("write", 9)])
def test_kill_minus_nine_at_any_moment_changes_no_byte(undisturbed, tmp_path, where, number):
    number = number or random.randint(1, 40)
    print(f"killed in {where} {number}")
    assert script(tmp_path, where, number) == -signal.SIGKILL
    left = contents(tmp_path)
    assert "record.json" not in left
    if where == "write":
        assert any(name.endswith(".tmp") for name in left), "it was killed before the file had its name"
    saved = read_state(resume_file(tmp_path / "state"))
    assert saved.iteration == {"step": (number - 1) // 6 * 6, "write": min(6 * (number - 2), 36)}[where]
    train_fully(noisy_training(), tmp_path / "state", tmp_path / "record.json", save_every=6)
    assert contents(tmp_path) == undisturbed


def test_a_training_goes_on_where_it_stood(undisturbed, tmp_path):
    """Not from the start, and the point of the curve where it goes on is not there twice."""
    output, record = tmp_path / "state", tmp_path / "record.json"
    killed, steps = noisy_training(), []

    def fail():
        steps.append(1)
        if len(steps) == 15:
            raise KeyboardInterrupt

    on_training_step(killed.model, fail)
    with pytest.raises(KeyboardInterrupt):
        train_fully(killed, output, record, save_every=5)
    again, counted = noisy_training(), []
    on_training_step(again.model, lambda: counted.append(1))
    train_fully(again, output, record, save_every=5)
    assert len(counted) == 40 - 10
    assert contents(tmp_path) == undisturbed


@pytest.mark.parametrize("changes", [{"seed": 4}, {"learning_rate": 0.011}, {"iterations": 41}])
def test_a_resume_file_of_another_training_is_not_gone_on_from(tmp_path, changes):
    other = noisy_training(**changes)
    halfway = train(other.model, other.data.train, other.settings, other.start, other.mask, until=12)
    write_state(resume_file(tmp_path / "state"), halfway, noisy_training(**changes).identity)
    train_fully(noisy_training(), tmp_path / "state", tmp_path / "record.json", save_every=6)
    clean = tmp_path / "clean"
    train_fully(noisy_training(), clean / "state", clean / "record.json", save_every=6)
    assert (tmp_path / "state").read_bytes() == (clean / "state").read_bytes()


def test_a_resume_file_that_is_too_far_is_not_gone_on_from(tmp_path):
    later = noisy_training()
    state = train(later.model, later.data.train, later.settings, later.start, later.mask, until=30)
    write_state(resume_file(tmp_path / "point"), state, noisy_training().identity)
    assert train_to(noisy_training(), 10, tmp_path / "point", save_every=100).iteration == 10


def test_only_own_orphans_are_removed(tmp_path):
    others = [".point.b.12.tmp", ".point.1.12.tmp", ".apoint.12.tmp", "point.12.tmp"]
    for name in [*others, ".point.12.tmp", ".point.resume.345.tmp"]:
        (tmp_path / name).touch()
    train_to(noisy_training(), 1, tmp_path / "point", save_every=100)
    assert {path.name for path in tmp_path.iterdir()} == {*others, "point"}


def test_identity_knows_start_mask_and_data():
    base = noisy_training()
    assert base.identity == noisy_training().identity
    mask = {name: kept.clone() for name, kept in base.mask.items()}
    mask["output.weight"].view(-1)[int(mask["output.weight"].flatten().nonzero()[0])] = False
    others = [
        Training(base.model, base.data, base.settings, base.start, mask),
        Training(base.model, image_data(99), base.settings, base.start, base.mask),
        Training(base.model, base.data, base.settings, start_of(trainings.noisy(9), 3), base.mask),
        Training(base.model, base.data, base.settings, start_of(base.model, 4), base.mask),
    ]
    assert len({base.identity, *(other.identity for other in others)}) == 5


def test_the_file_holds_all_of_a_state(tmp_path):
    training = noisy_training()
    state = train(training.model, training.data.train, training.settings, training.start, training.mask, until=7)
    write_state(tmp_path / "state", state)
    read = read_state(tmp_path / "state")
    for part in ("weights", "buffers", "optimizer", "best"):
        assert same(getattr(read, part), getattr(state, part))
    assert torch.equal(read.rng, state.rng)
    assert (read.iteration, read.validation) == (7, state.validation)
    assert state.optimizer.keys() == {
        f"{name}/{what}" for name in state.weights for what in ("step", "exp_avg", "exp_avg_sq")
    }
    (tmp_path / "state").write_bytes((tmp_path / "state").read_bytes()[:-1])
    with pytest.raises(DamagedFileError, match="truncated"):
        read_state(tmp_path / "state")


def test_ten_levels_leave_the_rewind_point_alone(tmp_path):
    model, data = models.build_model("resnet-20", (1, SIDE, SIDE), CLASSES, 0), image_data()
    chosen = settings(optimizer="sgd", learning_rate=0.02, momentum=0.9, weight_decay=1e-3, iterations=6)
    kinds = models.prunable_kinds(model)
    mask = levels.dense_mask(dict(model.named_parameters()), kinds)
    point = train_to(Training(model, data, chosen, start_of(model, 3), {}), 2, tmp_path / "point", save_every=100)
    on_disk = (tmp_path / "point").read_bytes()
    in_memory = {part: {n: t.clone() for n, t in getattr(point, part).items()} for part in ("weights", "buffers")}
    assert any("running_mean" in name for name in point.buffers)
    trained = train(model, data.train, chosen, point, {})
    for _ in range(10):
        mask = levels.prune_layers(levels.magnitudes(trained.weights), mask, dict.fromkeys(kinds, "0.2"))
        start = rewind(point, mask)
        assert (start.iteration, start.optimizer, start.validation) == (2, {}, ())
        for name, tensor in in_memory["weights"].items():
            assert torch.equal(start.weights[name], tensor * mask[name] if name in mask else tensor)
        assert same(start.buffers, in_memory["buffers"])
        trained = train(model, data.train, chosen, start, mask)
        assert not same(trained.buffers, in_memory["buffers"])
        start.weights["output.weight"].zero_(), start.buffers["first_norm.running_mean"].zero_(), start.rng.zero_()
    for part, tensors in in_memory.items():
        assert same(getattr(point, part), tensors)
    assert (tmp_path / "point").read_bytes() == on_disk
    assert same(read_state(tmp_path / "point").weights, in_memory["weights"])


def test_dense_training_through_the_rewind_point_is_dense_training(tmp_path):
    """A rewind point is a state of the very training that it is taken from, with its optimizer."""
    whole, part = noisy_training(), noisy_training()
    expected = train(whole.model, whole.data.train, whole.settings, whole.start, whole.mask)
    point = train_to(part, 17, tmp_path / "point", save_every=5)
    rest = Training(part.model, part.data, part.settings, read_state(tmp_path / "point"), part.mask)
    train_fully(rest, tmp_path / "state", tmp_path / "record.json", save_every=5)
    assert same(read_state(tmp_path / "state").weights, expected.weights)
    assert point.iteration == 17
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["point", "record.json", "state"]


def test_learning_rate_rewinding_keeps_weights_and_rewinds_the_rest():
    training = noisy_training()
    point = train(training.model, training.data.train, training.settings, training.start, training.mask, until=5)
    trained = train(training.model, training.data.train, training.settings, point, training.mask)
    start = rewind(point, training.mask, trained)
    assert same(start.weights, trained.weights)
    assert same(start.buffers, trained.buffers)
    assert (start.iteration, start.optimizer) == (5, {})
    assert torch.equal(start.rng, point.rng)


def test_the_record_says_what_was_seen(tmp_path):
    training = noisy_training(learning_rate=0.05)
    record = train_fully(training, tmp_path / "state", tmp_path / "record.json", save_every=7)
    assert LearningRecord.read(tmp_path / "record.json") == record
    assert json.loads((tmp_path / "record.json").read_text())["test_accuracy"] == record.test_accuracy
    assert record.iterations == (0, 5, 10, 15, 20, 25, 30, 35, 40)
    lowest = min(range(9), key=record.validation_losses.__getitem__)
    assert record.early_stop_iteration == record.iterations[lowest]
    assert record.early_stop_iteration < 40, "a test of early stopping needs a training that overfits"
    assert record.weights_remaining == levels.weights_remaining(training.mask)
    # A second training that just stops there has the early-stop weights.
    again = noisy_training(learning_rate=0.05)
    for until, accuracy in ((record.early_stop_iteration, record.test_accuracy), (40, record.final_test_accuracy)):
        train(again.model, again.data.train, again.settings, again.start, again.mask, until=until)
        again.model.eval()
        logits = again.model(again.data.test.images)
        assert (logits.argmax(1) == again.data.test.labels).double().mean().item() == accuracy
        values = again.data.validation
        loss = functional.cross_entropy(again.model(values.images), values.labels).item()
        place = record.iterations.index(until)
        assert record.validation_losses[place] == pytest.approx(loss, rel=1e-5)
        again.model.train()
    assert record.test_accuracy > 0.5


def test_validation_changes_nothing_and_the_first_minimum_counts():
    one, other = noisy_training(evaluate_every=1), noisy_training(evaluate_every=40)
    from ltpipe.training.validate import validation

    states = [
        train(each.model, each.data.train, each.settings, each.start, each.mask, [validation(each.data.validation)])
        for each in (one, other)
    ]
    assert same(states[0].weights, states[1].weights)
    frozen = noisy_training(learning_rate=0.0, evaluate_every=10)
    frozen.model.norm.momentum = 0.0
    state = train(
        frozen.model,
        frozen.data.train,
        frozen.settings,
        frozen.start,
        frozen.mask,
        [validation(frozen.data.validation)],
    )
    assert state.early_stop.iteration == 0
    assert same(state.best, {**state.weights, **frozen.start.buffers})


def test_test_images_are_read_once_and_at_the_end(tmp_path):
    reads, steps = [], []
    given = noisy_training()

    class Watched(ImageData):
        def __getattribute__(self, name):
            if name == "test":
                reads.append(len(steps))
            return super().__getattribute__(name)

    data = Watched(given.data.train, given.data.validation, given.data.test, CLASSES)
    training = Training(given.model, data, given.settings, given.start, given.mask)
    on_training_step(given.model, lambda: steps.append(1))
    train_fully(training, tmp_path / "state", tmp_path / "record.json", save_every=100)
    assert reads == [40]


def test_divergence_and_impossible_lengths_are_refused(tmp_path):
    with pytest.raises(UserError, match="training has diverged: the validation loss after"):
        train_fully(
            noisy_training(optimizer="sgd", learning_rate=1e30), tmp_path / "state", tmp_path / "record", save_every=6
        )
    assert not (tmp_path / "state").exists()
    with pytest.raises(UserError, match="cannot train to iteration 41"):
        train_to(noisy_training(), 41, tmp_path / "point", save_every=6)
    with pytest.raises(UserError, match="save_every: 0"):
        train_to(noisy_training(), 4, tmp_path / "point", save_every=0)


def test_evaluation_sums_over_batches_of_any_size(monkeypatch):
    model, images = trainings.noisy(), image_data().validation
    expected = evaluate(model, images)
    monkeypatch.setattr("ltpipe.training.validate._BATCH", 7)
    assert evaluate(model, images) == pytest.approx(expected, rel=1e-6)
    assert model.training
    model.eval()
    logits = model(images.images)
    assert expected[0] == pytest.approx(functional.cross_entropy(logits, images.labels).item(), rel=1e-6)
    assert expected[1] == (logits.argmax(1) == images.labels).double().mean().item()
