"""The solver of one's own in docs/solvers.md works as it is printed: one file, one word."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.errors import UserError
from ltpipe.solving import solvers
from ltpipe.solving.pattern import Pattern
from ltpipe.solving.solver import pruned_by, solver_named, solver_names

DOCS = Path(__file__).parents[2] / "docs/solvers.md"


@pytest.fixture
def printed(tmp_path, monkeypatch):
    (found,) = re.findall(r"here\s`(\w+\.py)`[^`]*```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / found[0]).write_text(found[1], encoding="utf-8")
    monkeypatch.setattr(solvers, "__path__", [*solvers.__path__, str(tmp_path)])
    solver_names.cache_clear()
    yield
    solver_names.cache_clear()


@pytest.mark.usefixtures("printed")
def test_the_printed_solver_is_found_and_solves():
    assert "rescaled" in solver_names()
    draw = np.random.default_rng(0).standard_normal
    weight, inputs = draw((6, 32)), draw((80, 32)) @ draw((32, 32))
    gram = inputs.T @ inputs
    pattern = Pattern.of("row", Sparsity.of("0.5"), {})
    rule = solver_named("rescaled")
    kept, values = rule.solve(weight.copy(), gram.copy(), pattern, rule.options())
    plain, _ = pruned_by("wanda-sequential", weight, gram, pattern)
    assert np.array_equal(kept, plain)
    for row in range(6):
        outputs, sparse = inputs @ weight[row], inputs @ (weight[row] * kept[row])
        (scale,), *_ = np.linalg.lstsq(sparse[:, None], outputs, rcond=None)
        assert np.allclose(np.where(kept[row], values[row], 0), scale * weight[row] * kept[row])


@pytest.mark.usefixtures("printed")
def test_others_may_go_after_it():
    rule = solver_named("reconstruct")
    draw = np.random.default_rng(0).standard_normal
    weight, gram = draw((6, 32)), np.eye(32)
    pattern = Pattern.of("row", Sparsity.of("0.5"), {})
    found = rule.solve(weight.copy(), gram.copy(), pattern, rule.options(after="rescaled"))
    assert np.array_equal(found[1], pruned_by("rescaled", weight, gram, pattern)[1])


@pytest.mark.parametrize("solver", ["swaps", "reconstruct", "admm-reconstruct"])
@pytest.mark.parametrize("after", ["wanda", "reconstruct", "nonsense"])
def test_what_nothing_can_go_after(solver, after):
    with pytest.raises(
        UserError, match=f"after: '{after}' is not allowed; use magnitude, admm, alps, sparsegpt, swaps"
    ):
        solver_named(solver).options(after=after)


@pytest.mark.parametrize(
    ("base", "options", "said"),
    [
        ("Solver", "NoOptions", "have to extend SolverOptions"),
        ("Reconstruct", "SolverOptions", "have to extend TrainingOptions"),
        ("TrainingSolver", "TrainingOptions", "no method reconstruct"),
    ],
)
def test_what_the_walk_would_miss_is_named(base, options, said, tmp_path, monkeypatch):
    (tmp_path / "partial_one.py").write_text(f"""
from ltpipe.runtime.options import NoOptions
from ltpipe.solving.solver import Solver, SolverOptions, TrainingOptions, TrainingSolver
from ltpipe.solving.solvers.reconstruct import Reconstruct
class Partial({base}):
    options = {options}
    @staticmethod
    def solve(weight, gram, pattern, options):
        return weight != 0, weight
SOLVER = Partial
""")
    monkeypatch.setattr(solvers, "__path__", [*solvers.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "ltpipe.solving.solvers.partial_one", raising=False)
    solver_names.cache_clear()
    with pytest.raises(UserError, match=said):
        solver_named("partial-one")
    monkeypatch.undo()
    solver_names.cache_clear()
