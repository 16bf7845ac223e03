"""The plan of trainings, against trainings in earnest."""

from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from trainings import settings, toy

from ltpipe.planning.stages import StagePlan
from ltpipe.planning.study import plan_study
from ltpipe.planning.table import write_plan
from ltpipe.planning.trainings import step_of
from ltpipe.runtime.fake_device import ByteCounter
from ltpipe.training import levels
from ltpipe.training.computing import TrainingCompute
from ltpipe.training.live import LiveTraining
from ltpipe.training.run import Training, train_fully, train_to
from ltpipe.training.state import rewind, start_of
from ltpipe.workflow.config import check_config
from ltpipe.workflow.resources import read_plan

LENET = {"layers": (36, 300, 100, 4), "batch": 12}


def test_operations_of_a_step_are_two_a_weight_and_example_in_each_direction():
    first, *others = (inputs * outputs for inputs, outputs in zip(LENET["layers"], LENET["layers"][1:], strict=False))
    step = step_of(toy("lenet-300-100"), settings(batch_size=LENET["batch"]), "no", processes=1)
    # Forward, gradients of weights, and gradients of inputs, which the first layer's are not asked for.
    assert step.operations == 2 * LENET["batch"] * (2 * first + 3 * sum(others))
    assert step.looking == 2 * (first + sum(others))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("model", ["lenet-300-100", "resnet-20"])
def test_tensors_of_a_step_take_what_they_take_in_earnest(model: str, optimizer: str):
    task, chosen = toy(model), settings(optimizer=optimizer, momentum=0.9 if optimizer == "sgd" else 0)
    counter = ByteCounter(torch.device("cpu"))
    with counter:
        live_model = task.build(0)
        start = start_of(live_model)
        held = sum(tensor.nbytes for tensor in (*start.weights.values(), *start.buffers.values()))
        mask = levels.dense_mask(start.weights, task.kinds(live_model))
        live = LiveTraining(live_model, chosen, rewind(start, mask), TrainingCompute("cpu"))
        for _ in range(2):
            live.begin()
            live.step(task.loss(live.model, task.train.inputs[:12], task.train.labels[:12]))
    masks = sum(kept.nbytes for kept in mask.values())
    planned = step_of(task, chosen, "no", processes=1).peak.total
    assert planned == pytest.approx(counter.peak.total - held - 2 * masks, rel=0.02)


@pytest.fixture
def study(tmp_path: Path) -> dict:
    rows = np.c_[np.random.default_rng(0).integers(0, 256, (120, 36)), np.arange(120) % 4]
    np.savetxt(tmp_path / "digits.csv", rows, "%d", ",")
    task = {"kind": "images", "model": "lenet-300-100", "source": str(tmp_path / "digits.csv")}
    small = {
        "task": {**task, "validation": 20, "test": 20},
        "train": {"optimizer": "adam", "learning_rate": 0.01, "iterations": 40, "batch_size": 12, "evaluate_every": 5},
        "compute": {"device": "cpu"},
        "rewind": {"step": 2},
        "levels": 2,
        "replicates": [0, 1, 2],
        "branches": {"reinitialised": 1, "order": 1},
        "early_bird": {"sparsities": [0.5], "every": 4},
    }
    return {"imp": {"small": small}}


def by_stage(plan: list[StagePlan]) -> dict[str, StagePlan]:
    return {stage.stage: stage for stage in plan}


def test_study_without_a_grid_is_planned(study: dict, tmp_path: Path):
    config = check_config(study)
    plan = plan_study(config)
    jobs = {stage.stage: (stage.model, stage.jobs, stage.iterations) for stage in plan}
    assert jobs == {
        "task": ("small", 1, 0),
        "rewind point": ("small", 3, 6),
        "level mask": ("small", 6, 0),
        "training": ("small", 24, 18 * 38 + 6 * 40),  # the re-initialised train from step 0, the others from step 2
        "connectivity": ("small", 9, 0),
        "early bird, at most": ("small", 3, 120),
    }
    assert by_stage(plan)["training"].examples == (18 * 38 + 6 * 40) * 12
    assert by_stage(plan)["training"].operations > 0
    write_plan(plan, config, tmp_path / "plan.json")
    assert not read_plan(tmp_path / "plan.json", config).outdated


def test_files_are_as_large_as_planned(study: dict, tmp_path: Path):
    plan = by_stage(plan_study(check_config(study)))
    task, chosen = toy("lenet-300-100"), settings(iterations=40)
    model = task.start(0)
    point = train_to(Training(task, chosen, start_of(model)), 2, tmp_path / "point")
    mask = levels.dense_mask(point.weights, task.kinds(model))
    train_fully(Training(task, chosen, rewind(point, mask)), tmp_path / "state", tmp_path / "record")
    size = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert plan["rewind point"].disk == pytest.approx(3 * size["point"], rel=0.02)
    assert plan["training"].disk == pytest.approx(24 * (size["state"] + size["record"]), rel=0.02)


def test_language_model_is_planned_without_its_text(tmp_path: Path):
    (tmp_path / "text.txt").write_text("too little to train on")
    small = {
        "task": {
            "kind": "text",
            "source": str(tmp_path / "text.txt"),
            "architecture": {
                "model_type": "llama",
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
            },
            "sequence_length": 16,
            "vocabulary": 300,
        },
        "train": {"optimizer": "adamw", "learning_rate": 0.01, "iterations": 40, "batch_size": 4},
        "levels": 1,
    }
    stage = by_stage(plan_study(check_config({"imp": {"words": small}})))["training"]
    head = prod((2, 3, 300, 32, 4 * 15))
    assert stage.operations > stage.iterations * head
    assert stage.device.parts["weights"] > 4 * 300 * 32
