"""Images as examples, and the task as a file."""

import numpy as np
import pytest
import torch

from ltpipe.data.images import Pixels, Split
from ltpipe.runtime.errors import DamagedFileError, UserError
from ltpipe.training.task import read_task, task_named, write_task
from ltpipe.training.tasks.images import ImageTask


@pytest.fixture
def task():
    generator = np.random.default_rng(0)
    parts = {}
    for name, count in (("train", 40), ("validation", 9), ("test", 7)):
        images = generator.integers(0, 200, (count, 2, 6, 5), np.uint8)
        images[:, 1] //= 3
        parts[name] = Pixels(images, (np.arange(count) % 4).astype(np.uint8))
    return ImageTask.of("lenet-300-100", Split(**parts))


def test_training_images_are_standardised_and_others_alike(task):
    assert task.train.inputs.dtype == torch.float32
    assert task.train.labels.dtype == torch.int64
    assert task.train.inputs.double().mean((0, 2, 3)).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert task.train.inputs.double().std((0, 2, 3), correction=0).tolist() == pytest.approx([1, 1], abs=1e-6)
    pixels = task.pixels.train.images.astype(np.float64) / 255
    mean, deviation = (function((0, 2, 3), keepdims=True) for function in (pixels.mean, pixels.std))
    expected = (task.pixels.test.images / 255 - mean) / deviation
    np.testing.assert_allclose(task.test.inputs.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert (task.shape, task.classes) == ((2, 6, 5), 4)


def test_the_file_holds_the_whole_task(task, tmp_path):
    write_task(tmp_path / "task", "images", task)
    again = read_task(tmp_path / "task")
    assert again.identity == task.identity
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(again, part).inputs, getattr(task, part).inputs)
        assert torch.equal(getattr(again, part).labels, getattr(task, part).labels)
    assert torch.equal(again.build(3)[1].weight, task.build(3)[1].weight)
    other = ImageTask.of("conv-2", task.pixels)
    assert other.identity != task.identity
    (tmp_path / "task").write_bytes((tmp_path / "task").read_bytes()[:-1])
    with pytest.raises(DamagedFileError, match="truncated"):
        read_task(tmp_path / "task")


def test_unknown_tasks_are_refused():
    with pytest.raises(UserError, match="task 'audio' is unknown; use images"):
        task_named("audio")
