"""The loss with a teacher, against the formula."""

import pytest
import torch
from torch.nn import functional
from trainings import noisy, toy

from ltpipe.runtime.errors import UserError
from ltpipe.training.distillation import Distillation, Teaching
from ltpipe.training.state import start_of


def values_of(model):
    state = start_of(model)
    return {**state.weights, **state.buffers}


@pytest.mark.parametrize(("temperature", "soft", "features"), [(2.0, 0.5, 0.0), (3.0, 1.0, 0.0), (1.0, 0.3, 0.7)])
def test_the_loss_is_that_of_the_papers(temperature, soft, features):
    task, teacher, student = toy(), noisy(5).eval(), noisy(0).eval()
    inputs, labels = task.train.inputs[:9], task.train.labels[:9]
    loss = Distillation(values_of(teacher), Teaching(temperature, soft, features)).loss(task, torch.device("cpu"))
    found = loss(student, inputs, labels)

    def penultimate(model):
        return torch.relu(model.norm(model.convolution(inputs))).flatten(1)

    targets = (teacher(inputs) / temperature).softmax(1)
    soft_loss = (targets * (targets.log() - (student(inputs) / temperature).log_softmax(1))).sum(1).mean()
    expected = (1 - soft) * functional.cross_entropy(student(inputs), labels) + soft * temperature**2 * soft_loss
    expected = expected + features * (penultimate(student) - penultimate(teacher)).square().mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    found.backward()
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_a_student_that_is_the_teacher_has_nothing_to_learn_from_it():
    task, model = toy(), noisy().eval()
    loss = Distillation(values_of(model), Teaching(2.0, 1.0, 1.0)).loss(task, torch.device("cpu"))
    assert loss(model, task.train.inputs, task.train.labels).item() == pytest.approx(0, abs=1e-6)


def test_the_teacher_neither_trains_nor_drops_out():
    task = toy()
    loss = Distillation(values_of(noisy(5)), Teaching(2.0, 1.0)).loss(task, torch.device("cpu"))
    student = noisy().eval()
    assert len({loss(student, task.train.inputs, task.train.labels).item() for _ in range(3)}) == 1


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"soft": 1.5}, {"features": -1.0}])
def test_what_cannot_be_meant_is_refused(wrong):
    with pytest.raises(UserError, match="use a temperature above 0"):
        Teaching(**wrong)
