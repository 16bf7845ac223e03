"""What `import ltpipe` offers, and the documentation's example."""

import inspect
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import ltpipe
from ltpipe.workflow.closure import import_closure

ROOT = Path(__file__).parents[2]
SIGNATURES = {
    "create_magnitude_mask": "model, sparsity, use_histogram=True, histogram_bins=1000, only_weights=True",
    "compute_lottery_ticket_quality": (
        "model, mask, dataloader, baseline_performance=None, max_batches=None, precision_mode='high'"
    ),
    "ensure_deterministic_pruning": "seed=42",
    "compute_histogram_quantile": "values, q, bins=1000",
    "compute_magnitude_importance": "model",
    "compute_iterative_magnitude_pruning": (
        "model, dataloader, target_sparsity=0.9, num_iterations=10, trainer_fn=None, *, train=False"
    ),
    "load_mask": "path",
    "masked": "model, mask",
}


@pytest.mark.parametrize(("name", "signature"), SIGNATURES.items())
def test_names_and_defaults(name, signature):
    parameters = inspect.signature(getattr(ltpipe, name)).parameters.values()
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    assert str(inspect.Signature(bare)) == f"({signature})"
    assert name in dir(ltpipe)
    assert name in ltpipe.__all__


def run(program: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_importing_ltpipe_imports_no_torch():
    loaded = json.loads(run("import ltpipe, sys, json; dir(ltpipe); print(json.dumps(list(sys.modules)))"))
    assert "ltpipe" in loaded
    assert not {"torch", "numpy", "numba", "transformers"} & set(loaded)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ltpipe.nothing


def test_no_stage_depends_on_the_api():
    for script in (ROOT / "scripts").glob("*.py"):
        closure = import_closure(script, ROOT / "src/ltpipe")
        assert not [path for path in closure if path.parent.name == "api"], script


PROGRAM = """
import hashlib, torch, ltpipe
from torch import nn
ltpipe.ensure_deterministic_pruning()
model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5))
mask = ltpipe.create_magnitude_mask(model, 0.7)
data = [(torch.randn(8, 20), torch.randint(5, (8,))) for _ in range(3)]
digest = hashlib.sha256(b"".join(n.encode() + k.numpy().tobytes() for n, k in mask.items())).hexdigest()
print(digest, ltpipe.compute_lottery_ticket_quality(model, mask, data))
"""


@pytest.mark.slow
def test_two_processes_find_the_same_bits():
    assert run(PROGRAM, PYTHONHASHSEED="1") == run(PROGRAM, PYTHONHASHSEED="2") != ""


def test_ensure_deterministic_pruning():
    def draw():
        return random.random(), float(np.random.random()), float(torch.rand(()))

    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    flags = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        draws = []
        for seed in (42, 2**40, 42):
            ltpipe.ensure_deterministic_pruning(seed)
            draws.append(draw())
        assert torch.are_deterministic_algorithms_enabled()
        assert draws[0] == draws[2] != draws[1]
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = flags


def test_the_quick_start_runs_as_it_is_printed(source_folder):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/api.md").read_text(), re.DOTALL)
    folder = source_folder("llama")
    program = code.replace('"my-model"', repr(str(folder)))
    assert program != code
    out = run(program, TRANSFORMERS_VERBOSITY="error")
    assert "simulation: nothing was trained" in out
    assert re.search(r"sparsity 0\.50, loss \d", out)
