"""Mixed precision, and several processes."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
import torch
import trainings
from trainings import half_mask, settings, toy

from ltpipe.runtime.errors import UserError
from ltpipe.training.computing import TrainingCompute
from ltpipe.training.loop import train
from ltpipe.training.state import read_state, rewind, start_of

TASK = toy("lenet-300-100")
START = rewind(start_of(TASK.build(0)), half_mask(TASK.build(0)))
GENTLE = settings(optimizer="sgd", learning_rate=0.05)


def run(computing, batch=12):
    def loss(model, inputs, labels):
        assert len(labels) == batch
        return TASK.loss(model, inputs, labels)

    return train(TASK.build(0), TASK.train, loss, GENTLE, START, computing=computing)


def assert_masked_and_close(found, expected, tolerance):
    for name, kept in START.mask.items():
        assert not found.weights[name][~kept].any()
    for name, tensor in expected.weights.items():
        torch.testing.assert_close(found.weights[name], tensor, rtol=tolerance, atol=tolerance)
        assert found.weights[name].dtype == torch.float32


def test_threads_are_those_asked_for_and_put_back():
    before, seen = torch.get_num_threads(), []
    computing = TrainingCompute("cpu", threads=2)
    train(
        TASK.build(0), TASK.train, TASK.loss, GENTLE, START, [lambda _: seen.append(torch.get_num_threads())], 1,
        computing,
    )  # fmt: skip
    assert set(seen) == {2}
    assert torch.get_num_threads() == before


@contextmanager
def fresh_accelerator():
    """Accelerate keeps one precision a process; those of the other tests have theirs again afterwards."""
    from accelerate.state import AcceleratorState, PartialState

    with (
        mock.patch.dict(AcceleratorState._shared_state, clear=True),
        mock.patch.dict(PartialState._shared_state, clear=True),
    ):
        yield


def test_bfloat16_computes_and_float32_keeps():
    with fresh_accelerator():
        mixed = run(TrainingCompute("cpu", "bf16"))
    with fresh_accelerator():
        plain = run(TrainingCompute("cpu"))
    assert_masked_and_close(mixed, plain, 0.05)
    assert any(not torch.equal(mixed.weights[name], plain.weights[name]) for name in plain.weights)


def test_each_process_needs_a_device(monkeypatch):
    """On a machine without any they train on the CPU."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    TrainingCompute()._check_devices(1)
    TrainingCompute("cpu")._check_devices(2)
    with pytest.raises(UserError, match=r"^compute.processes: 2 needs a device per process but sees only 1; .* GPUS=2"):
        TrainingCompute()._check_devices(2)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    TrainingCompute()._check_devices(2)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """Up to the order of a sum: the mean of two half batches is that of the whole."""
    script = tmp_path / "two.py"
    script.write_text(
        "import sys; from pathlib import Path\n"
        "from test_computing import run; from ltpipe.training.computing import TrainingCompute\n"
        "from ltpipe.training.state import write_state\n"
        "computing = TrainingCompute('cpu'); assert computing.processes == 2\n"
        "state = run(computing, batch=6)\n"
        "if computing.is_first: write_state(Path(sys.argv[1]), state)\n"
    )
    here = Path(__file__).parent
    paths = [str(here), str(here.parent), str(Path(trainings.train.__code__.co_filename).parents[2])]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, tmp_path / "state"], check=True, timeout=200, env=environment)
    assert_masked_and_close(read_state(tmp_path / "state"), run(TrainingCompute("cpu")), 1e-4)


@pytest.mark.slow
def test_processes_end_with_their_killed_launcher(tmp_path):
    """It has the slots of their devices; they would compute on devices that are free for others."""
    script = tmp_path / "stay.py"
    script.write_text(
        "import os, time; from ltpipe.training.computing import TrainingCompute\n"
        "TrainingCompute('cpu').placed_on; print(os.getpid(), flush=True); time.sleep(100)\n"
    )
    source = str(Path(trainings.train.__code__.co_filename).parents[2])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", script]
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    launcher = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    worker = Path("/proc", launcher.stdout.readline().strip())
    assert worker.exists()
    launcher.kill()
    launcher.wait()
    for _ in range(100):
        if not worker.exists() or "State:\tZ" in (worker / "status").read_text():
            return
        time.sleep(0.05)
    os.kill(int(worker.name), signal.SIGKILL)
    pytest.fail("the process goes on without its launcher")
