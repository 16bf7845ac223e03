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
from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.prunable import Selection
from ltpipe.evaluation.computing import ComputeSettings
from ltpipe.evaluation.evaluate import evaluate_checkpoint
from ltpipe.pruning.build import make_mask
from ltpipe.pruning.histogram import make_histogram
from ltpipe.runtime.errors import UserError
from ltpipe.workflow.closure import import_closure

ROOT = Path(__file__).parents[2]
SIGNATURES = {
    "create_magnitude_mask": "model, sparsity, use_histogram=True, histogram_bins=1000, only_weights=True, preset=None",
    "compute_lottery_ticket_quality": (
        "model, mask, dataloader, baseline_performance=None, max_batches=None, precision_mode='high'"
    ),
    "ensure_deterministic_pruning": "seed=42",
    "compute_histogram_quantile": "values, q, bins=1000",
    "compute_magnitude_importance": "model",
    "compute_iterative_magnitude_pruning": (
        "model, dataloader, target_sparsity=0.9, num_iterations=10, trainer_fn=None, *, train=False, keep_masks=False"
    ),
    "create_mask": (
        "model, sparsity, criterion='magnitude', scope='global', dataloader=None, *, preset=None, include=(), "
        "exclude=(), seed=None, options=mappingproxy({}), scope_options=mappingproxy({})"
    ),
    "compute_importance": (
        "model, criterion, dataloader=None, *, preset=None, include=(), exclude=(), seed=None, options=mappingproxy({})"
    ),
    "compute_ticket_overlap": "mask_a, mask_b",
    "EarlyBirdDetector": "rule='spearman', threshold=None, window=None, patience=1, chance_corrected=False",
    "validate_ticket": "model, mask, *, sparsity=None, scope=None",
    "save_mask": "mask, path, model=None, *, criterion=None, scope=None, sparsity=None, seed=None",
    "load_mask": "path",
    "masked": "model, mask",
}


@pytest.mark.parametrize(("name", "signature"), SIGNATURES.items())
def test_names_and_defaults(name, signature):
    parameters = inspect.signature(getattr(ltpipe, name)).parameters.values()
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    assert str(inspect.Signature(bare)) == f"({signature})"
    assert set(SIGNATURES) == set(ltpipe.__all__) - {"__version__"}
    assert name in dir(ltpipe)
    assert name in ltpipe.__all__


def run(program: str, place: Path = ROOT, **environment: str) -> str:
    command, settings = [sys.executable, "-c", program], {**os.environ, **environment}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=settings, cwd=place)
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


SEEDS = (0, 42, -1, 1, 2**40, -(2**40), 2**32, 2**63, 2**70, -(2**63) + 1)


@pytest.fixture
def global_randomness():
    """Brings back what the call changes in the process."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    flags = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = flags


def test_ensure_deterministic_pruning(global_randomness):  # noqa: ARG001
    def draw():
        return random.random(), float(np.random.random()), float(torch.rand(()))

    draws = {}
    for seed in SEEDS:
        for again in (seed, np.int64(seed) if abs(seed) < 2**63 else seed):
            ltpipe.ensure_deterministic_pruning(again)
            draws.setdefault(seed, set()).add(draw())
    assert torch.are_deterministic_algorithms_enabled()
    assert all(len(drawn) == 1 for drawn in draws.values())
    assert draws[-1] != draws[1], "the sign counts"


@pytest.mark.parametrize("seed", [1.0, "1", None, True, np.True_, np.float32(2), torch.ones(2)], ids=str)
def test_a_seed_that_is_no_integer_is_refused_before_anything_is_seeded(seed, global_randomness):  # noqa: ARG001
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = states(), torch.are_deterministic_algorithms_enabled()
    with pytest.raises(UserError, match="is not allowed; use an integer"):
        ltpipe.ensure_deterministic_pruning(seed)
    assert (states(), torch.are_deterministic_algorithms_enabled()) == before


@pytest.fixture
def results(canonical_folder, calibration, tmp_path):
    """A folder in which the pipeline has left a mask, the metrics of its ticket and a table."""
    import pandas as pd

    folder, masks = canonical_folder("llama"), tmp_path / "results/masks/m/magnitude/global/seed-none"
    tickets = tmp_path / "results/tickets/m/text/magnitude/global/seed-none"
    for path in (masks, tickets, tmp_path / "results/report"):
        path.mkdir(parents=True)
    make_histogram(Checkpoint.open(folder), "magnitude", None, Selection()).write(tmp_path / "counts")
    make_mask(Checkpoint.open(folder), tmp_path / "counts", "global", "0.5", masks / "0.5.safetensors")
    names, data, settings = {"model": "m", "data": "text"}, calibration("llama"), ComputeSettings(device="cpu")
    evaluate_checkpoint(Checkpoint.open(folder), data, settings, names).write(tmp_path / "dense")
    ticket = evaluate_checkpoint(
        Checkpoint.open(folder), data, settings, names, masks / "0.5.safetensors", tmp_path / "dense"
    )
    ticket.write(tickets / "0.5.json")
    pd.DataFrame({"sparsity": [0.5]}).to_parquet(tmp_path / "results/report/tickets.parquet")
    return tmp_path


def test_every_snippet_of_the_page_runs_as_it_is_printed(source_folder, results):
    page = (ROOT / "docs/api.md").read_text()
    fences = re.findall(r"^```(\S*)$", page, re.MULTILINE)
    snippets = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert fences == ["python", ""] * len(snippets), "there is no other code on the page"
    program = "\n".join(snippets).replace('"my-model"', repr(str(source_folder("llama"))))
    out = run(program, results, TRANSFORMERS_VERBOSITY="error")
    assert "simulation: nothing was trained" in out
    assert re.search(r"sparsity 0\.50, loss \d", out)
    assert "True [] []" in out, "the ticket is valid"
    assert "converged after epoch 1" in out


def test_the_quick_start_of_the_reference(source_folder, global_randomness):  # noqa: ARG001
    """In the words of its documents."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source_folder("llama"))
    loader = [{"input_ids": torch.arange(3, 19).view(2, 8), "labels": torch.arange(3, 19).view(2, 8)}]
    ltpipe.ensure_deterministic_pruning(seed=42)
    mask = ltpipe.create_magnitude_mask(model, sparsity=0.5, use_histogram=True, histogram_bins=1000, only_weights=True)
    baseline = ltpipe.compute_lottery_ticket_quality(model, {}, loader)
    quality = ltpipe.compute_lottery_ticket_quality(model, mask, loader, baseline_performance=baseline)
    assert quality["quality_score"] == baseline["loss"] / quality["loss"]
    again = ltpipe.compute_lottery_ticket_quality(
        model, mask, loader, baseline_performance={"loss": 2.5}, max_batches=5, precision_mode="high"
    )
    assert again["performance_retention"] == 2.5 / quality["loss"]
