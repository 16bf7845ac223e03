"""The criteria of one's own in docs/criteria.md work as they are printed: one file, one word."""

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.prunable import Selection
from ltpipe.evaluation.computing import ComputeSettings
from ltpipe.pruning.scorefile import ScoreFile
from ltpipe.runtime.errors import UserError
from ltpipe.scoring import criteria
from ltpipe.scoring.criterion import criterion_names, scored_criterion
from ltpipe.scoring.score import score_checkpoint

DOCS = Path(__file__).parents[2] / "docs/criteria.md"


@pytest.fixture
def printed(tmp_path, monkeypatch):
    """All of them, each in the file that the page names."""
    found = re.findall(r"here\s`(\w+\.py)`[^`]*```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert [name for name, _ in found] == ["curvature.py", "root_wanda.py", "relative.py"]
    (tmp_path / "criteria").mkdir()
    for name, code in found:
        (tmp_path / "criteria" / name).write_text(code, encoding="utf-8")
    monkeypatch.setattr(criteria, "__path__", [*criteria.__path__, str(tmp_path / "criteria")])


@pytest.mark.usefixtures("printed")
def test_the_printed_criterion_scores(canonical_folder, calibration, plain, token_ids, tmp_path):
    assert "curvature" in criterion_names()
    folder, path = canonical_folder("llama"), tmp_path / "scores"
    score_checkpoint(
        Checkpoint.open(folder), "curvature", path, Selection(), calibration("llama"), ComputeSettings(device="cpu")
    )
    found = ScoreFile(path)
    model, name = plain("llama"), found.names[0]
    weight, wanted = model.get_parameter(name), 0
    for ids in token_ids.split(1):
        (gradient,) = torch.autograd.grad(model(input_ids=ids, labels=ids).loss * 23, [weight])
        wanted = wanted + (weight * gradient).square()
    expected = wanted.detach().numpy()
    np.testing.assert_allclose(found.array(name), expected, rtol=1e-3, atol=1e-4 * expected.max())


@pytest.mark.usefixtures("printed")
def test_the_printed_criterion_of_activations_scores(canonical_folder, calibration, plain, tmp_path):
    folder, scores = canonical_folder("llama"), {}
    for name in ("wanda", "root-wanda"):
        path = tmp_path / name
        score_checkpoint(
            Checkpoint.open(folder), name, path, Selection(), calibration("llama"), ComputeSettings(device="cpu")
        )
        scores[name] = ScoreFile(path)
    tensor = scores["wanda"].names[0]
    weight = plain("llama").get_parameter(tensor).abs().detach().numpy()
    wanda, root = (scores[name].array(tensor).reshape(weight.shape) for name in ("wanda", "root-wanda"))
    np.testing.assert_allclose(root**2, weight * wanda, rtol=1e-4, atol=1e-9)


@pytest.mark.usefixtures("printed")
def test_the_printed_criterion_of_weights_scores_without_data(canonical_folder, plain, tmp_path):
    path = tmp_path / "scores"
    score_checkpoint(
        Checkpoint.open(canonical_folder("llama")), "relative", path, Selection(), None, ComputeSettings(device="cpu")
    )
    found = ScoreFile(path)
    weight = plain("llama").get_parameter(found.names[0]).abs().detach().numpy()
    expected = weight / weight.mean()
    np.testing.assert_allclose(found.array(found.names[0]).reshape(weight.shape), expected, rtol=1e-5)


@pytest.mark.parametrize(("base", "method"), [("GradientCriterion", "add"), ("ActivationCriterion", "combine")])
def test_a_criterion_without_its_method_is_refused(base, method, tmp_path, monkeypatch):
    name = f"empty_{method}"
    code = f"from ltpipe.scoring.criterion import {base}\nclass Empty({base}):\n    pass\nCRITERION = Empty\n"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setattr(criteria, "__path__", [*criteria.__path__, str(tmp_path)])
    with pytest.raises(UserError, match=f"has no method {method}; write it"):
        scored_criterion(name.replace("_", "-"))


_ACTIVATION = "from ltpipe.scoring.criterion import ActivationCriterion\nclass Mine(ActivationCriterion):\n"
_GRADIENT = "from ltpipe.scoring.criterion import GradientCriterion\nclass Mine(GradientCriterion):\n"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            f"{_ACTIVATION}    def combine(self, weight, norms): ...\nCRITERION = Mine\n",
            "found `def combine(self, weight, norms)`; write `@staticmethod def combine(weight, norms)`",
        ),
        (
            f"{_ACTIVATION}    @staticmethod\n    def combine(weight): ...\nCRITERION = Mine\n",
            "found `@staticmethod def combine(weight)`; write `@staticmethod def combine(weight, norms)`",
        ),
        (
            f"{_GRADIENT}    def add(self, gradient): ...\nCRITERION = Mine\n",
            "found `def add(self, gradient)`; write `def add(self, weight, gradient)`",
        ),
        (
            f"{_GRADIENT}    def add(self, w, g): ...\n    result = 3\nCRITERION = Mine\n",
            "found `result = …`; write `def result(self)`",
        ),
        (f"{_GRADIENT}    def add(self, w, g): ...\n", "mine.py does not define CRITERION; end it with CRITERION = …"),
        ("CRITERION = 3\n", "CRITERION is 3; make it a class that extends one of ltpipe.scoring.criterion"),
        ("import zork\n", "mine.py cannot be imported (ModuleNotFoundError: No module named 'zork'); fix it"),
        ("1 / 0\n", "mine.py cannot be imported (ZeroDivisionError: division by zero); fix it"),
    ],
)
def test_a_damaged_criterion_is_named_when_it_is_imported(code, message, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.setattr(criteria, "__path__", [*criteria.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, f"{criteria.__name__}.mine", raising=False)
    importlib.invalidate_caches()
    with pytest.raises(UserError) as caught:
        scored_criterion("mine")
    assert str(caught.value).startswith("criterion 'mine': ")
    assert str(caught.value).endswith(message)


def test_other_names_and_more_arguments_with_defaults_are_a_criterions_own_affair(tmp_path, monkeypatch):
    code = f"{_ACTIVATION}    @staticmethod\n    def combine(w, n, more=1): ...\nCRITERION = Mine\n"
    (tmp_path / "free.py").write_text(code)
    monkeypatch.setattr(criteria, "__path__", [*criteria.__path__, str(tmp_path)])
    assert scored_criterion("free").__name__ == "Mine"


@pytest.mark.parametrize("criterion", criterion_names())
def test_the_page_names_every_criterion(criterion):
    assert f"| `{criterion}` |" in DOCS.read_text(encoding="utf-8")
