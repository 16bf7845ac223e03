"""The criteria of one's own in docs/criteria.md work as they are printed: one file, one word."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.prunable import Selection
from ltpipe.evaluation.computing import Settings
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
        Checkpoint.open(folder), "curvature", path, Selection(), calibration("llama"), Settings(device="cpu")
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
        score_checkpoint(folder, name, path, Selection(), calibration("llama"), Settings(device="cpu"))
        scores[name] = ScoreFile(path)
    tensor = scores["wanda"].names[0]
    weight = plain("llama").get_parameter(tensor).abs().detach().numpy()
    wanda, root = (scores[name].array(tensor).reshape(weight.shape) for name in ("wanda", "root-wanda"))
    np.testing.assert_allclose(root**2, weight * wanda, rtol=1e-4, atol=1e-9)


@pytest.mark.usefixtures("printed")
def test_the_printed_criterion_of_weights_scores_without_data(canonical_folder, plain, tmp_path):
    path = tmp_path / "scores"
    score_checkpoint(canonical_folder("llama"), "relative", path, Selection(), None, Settings(device="cpu"))
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


@pytest.mark.parametrize("criterion", criterion_names())
def test_the_page_names_every_criterion(criterion):
    assert f"| `{criterion}` |" in DOCS.read_text(encoding="utf-8")
