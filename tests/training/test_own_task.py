"""The task of one's own in docs/extending.md works as it is printed: one file, one word."""

import re
from pathlib import Path

import pytest
import yaml

from ltpipe.training import levels, tasks
from ltpipe.training.run import Training, train_fully
from ltpipe.training.settings import TrainingSettings
from ltpipe.training.state import start_of
from ltpipe.training.task import prepared_task, read_task, write_task
from ltpipe.workflow.config import check_config

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8")


@pytest.fixture
def study(tmp_path, monkeypatch):
    """The printed study, its task being there."""
    (tmp_path / "own").mkdir()
    code = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]
    (tmp_path / "own/spirals.py").write_text(code, encoding="utf-8")
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path / "own")])
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    return check_config(yaml.safe_load(text))["imp"]["spirals"]


def test_the_printed_task_is_learned(study, tmp_path):
    options = {key: value for key, value in study["task"].items() if key != "kind"}
    task = prepared_task("spirals", options, "imp.spirals.task")
    write_task(tmp_path / "task", "spirals", task)
    read = read_task(tmp_path / "task")
    assert read.identity == task.identity
    train = study["train"]
    settings = TrainingSettings(train["optimizer"], train["learning_rate"], 500, train["batch_size"], 100, seed=0)
    start = start_of(read.start(0))
    record = train_fully(Training(read, settings, start), tmp_path / "state", tmp_path / "record")
    assert record.test_accuracy > 0.8
    kinds = read.kinds(read.build(0))
    mask = levels.prune_layers(
        levels.magnitudes(start.weights), levels.dense_mask(start.weights, kinds), dict.fromkeys(kinds, "0.5")
    )
    assert [int(kept.sum()) for kept in mask.values()] == [64, 2048, 64]
