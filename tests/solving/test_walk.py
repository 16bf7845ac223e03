"""The solve stage on whole models: block by block behind pruned blocks, as a plain loop over a live model does it."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import random_model, save_tiny, tiny_model, tiny_tokenizer
from transformers import LlamaConfig

import ltpipe
from ltpipe.analysis.validation import validate_files
from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import TOKENIZER
from ltpipe.checkpoints.load import load_checkpoint
from ltpipe.checkpoints.prunable import Selection
from ltpipe.data.sequences import TokenSequences
from ltpipe.evaluation.computing import ComputeSettings
from ltpipe.evaluation.evaluate import evaluate_checkpoint
from ltpipe.exporting.formats import export_ticket
from ltpipe.pruning.build import make_mask
from ltpipe.pruning.histogram import make_histogram
from ltpipe.pruning.layout import Layout
from ltpipe.pruning.masking_kernels import scattered
from ltpipe.pruning.masks import load_mask, pack, read_mask
from ltpipe.pruning.solution import read_solution
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import sha256_of
from ltpipe.runtime.sources import Source
from ltpipe.solving.pattern import Pattern
from ltpipe.solving.solve import solve_checkpoint
from ltpipe.solving.solver import TrainingSolver, solver_named, solver_names

NAMES = {"model": "m", "data": "d"}
COMBINED = ("admm-reconstruct",)
"""Solvers that are made of others."""
CPU = ComputeSettings(device="cpu", threads=1)


def quick_solvers() -> list:
    return [pytest.param(name, marks=pytest.mark.slow) if name in COMBINED else name for name in solver_names()]


@pytest.fixture
def text(canonical_folder, tmp_path):
    """Function from an architecture to a file of sequences."""

    def write(architecture: str, count: int = 12) -> Path:
        ids = np.random.default_rng(3).integers(3, 90, (count, 24), dtype=np.int32)
        path = tmp_path / f"{architecture}-{count}.safetensors"
        TokenSequences(ids, count, 1, sha256_of(canonical_folder(architecture) / TOKENIZER)).write(path)
        return path

    return write


def solved(
    folder: Path, text: Path, place: Path, solver: str, scope: str, sparsity: str, settings=CPU, selection=None
) -> tuple[Path, Path]:
    mask, solution = place / f"{solver}-{scope}.mask", place / f"{solver}-{scope}.solution"
    solve_checkpoint(
        Checkpoint.open(folder), solver, scope, sparsity, text, mask, solution, selection or Selection(), settings
    )
    return mask, solution


def by_hand(
    architecture: str,
    folder: Path,
    text: Path,
    solver: str,
    scope: str,
    sparsity: str,
    stages: Sequence[tuple[str, ...]] = (("",),),
) -> torch.nn.Module:
    """The model whose blocks were pruned one after the other, with hooks on its linear layers."""
    model, checkpoint = tiny_model(architecture), Checkpoint.open(folder)
    layout, names = Layout.of(checkpoint.manifest), Selection().names(checkpoint.manifest)
    pattern, rule = Pattern.of(scope, Sparsity.of(sparsity), {}), solver_named(solver)
    ids = torch.from_numpy(TokenSequences.read(text).input_ids.astype(np.int64))
    weights, modules = dict(model.named_parameters()), dict(model.named_modules())
    blocks = list(dict.fromkeys(checkpoint.manifest.block_of(name) for name in names))
    for block in sorted(blocks, key=lambda name: int(name.rpartition(".")[2])):
        inside = [name for name in names if checkpoint.manifest.block_of(name) == block]
        for stage in [[name for name in inside if name.endswith(ends)] for ends in stages]:
            seen: dict[str, torch.Tensor] = {}
            hooks = [
                modules[name.removesuffix(".weight")].register_forward_pre_hook(
                    lambda _, given, name=name, seen=seen: seen.update({name: given[0].detach()})
                )
                for name in stage
            ]
            with torch.no_grad():
                model(ids)
                for hook in hooks:
                    hook.remove()
                for name in stage:
                    inputs = seen[name].reshape(-1, seen[name].shape[-1]).double()
                    flat = weights[name].double().numpy().reshape(-1)
                    matrix = layout.matrices(name, tuple(weights[name].shape), flat)[0]
                    gram = (inputs.T @ inputs).numpy()
                    kept, values = rule.solve(matrix.copy(), gram, pattern, rule.options())
                    new = np.where(kept, values, 0).astype(np.float32)
                    weights[name].copy_(torch.from_numpy(new.T.copy() if name in layout.inputs_first else new))
        if issubclass(rule, TrainingSolver):
            train_by_hand(tiny_model(architecture), model, block, inside, ids)
    return model


def train_by_hand(
    dense: torch.nn.Module, model: torch.nn.Module, name: str, inside: list[str], ids: torch.Tensor
) -> None:
    """Two epochs of Adam on the kept weights, in units of their root mean square, from 0.005 by a cosine to 0."""
    seen: list[torch.Tensor] = []

    def output(of: torch.nn.Module, part: torch.Tensor) -> torch.Tensor:
        module = of.get_submodule(name)
        hook = module.register_forward_hook(lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out))
        of(part)
        hook.remove()
        return seen.pop()

    weights = [model.get_parameter(each) for each in inside]
    kept = [(weight != 0).float() for weight in weights]
    sizes = [(weight.square().sum() / mask.sum()).sqrt().detach() for weight, mask in zip(weights, kept, strict=True)]
    units = [(weight / size).detach() for weight, size in zip(weights, sizes, strict=True)]
    first, second = ([torch.zeros_like(unit) for unit in units] for _ in range(2))
    for weight in weights:
        weight.requires_grad_(True)
    step, steps = 0, 2 * 3
    for _ in range(2):
        for part in ids.split(4):
            with torch.no_grad():
                target = output(dense, part)
            error = (output(model, part) - target).square().sum() / target.square().sum()
            gradients = torch.autograd.grad(error, weights)
            rate, step = 0.005 * 0.5 * (1 + math.cos(math.pi * step / steps)), step + 1
            for index, gradient in enumerate(gradients):
                gradient = gradient * sizes[index] * kept[index]
                first[index] += 0.1 * (gradient - first[index])
                second[index] += 0.05 * (gradient.square() - second[index])
                move = first[index] / (1 - 0.9**step) / ((second[index] / (1 - 0.95**step)).sqrt() + 1e-8)
                units[index] -= rate * move
                with torch.no_grad():
                    weights[index].copy_(units[index] * sizes[index])
    for weight in weights:
        weight.requires_grad_(False)


@pytest.mark.parametrize("solver", quick_solvers())
@pytest.mark.parametrize("architecture", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_equal_to_a_loop_over_a_live_model(architecture, solver, canonical_folder, text, tmp_path):
    folder, calibration = canonical_folder(architecture), text(architecture)
    mask, solution = solved(folder, calibration, tmp_path, solver, "row", "0.5")
    model = by_hand(architecture, folder, calibration, solver, "row", "0.5")
    wanted = dict(model.named_parameters())
    same, total = 0, 0
    for name, kept in load_mask(mask).items():
        same += int((kept == (wanted[name] != 0)).sum())
        total += kept.numel()
    assert same >= 0.999 * total, "rounding of Gram matrices may decide near-ties"
    ids = torch.from_numpy(TokenSequences.read(calibration).input_ids.astype(np.int64))
    found = ticket(folder, calibration, tmp_path, mask, solution)
    with torch.no_grad():
        loss = model(ids, labels=ids).loss.item()
    assert found.loss == pytest.approx(loss, rel=2e-3)


def test_matrices_may_be_pruned_in_the_order_of_their_use(canonical_folder, text, tmp_path):
    folder, calibration = canonical_folder("llama"), text("llama")
    mask, solution = tmp_path / "mask", tmp_path / "solution"
    solve_checkpoint(
        Checkpoint.open(folder), "sparsegpt", "row", "0.5", calibration, mask, solution, Selection(), CPU,
        {"true_sequential": "true"},
    )  # fmt: skip
    stages = (("q_proj.weight", "k_proj.weight", "v_proj.weight"), ("o_proj.weight",),
              ("gate_proj.weight", "up_proj.weight"), ("down_proj.weight",))  # fmt: skip
    wanted = by_hand("llama", folder, calibration, "sparsegpt", "row", "0.5", stages)
    plain = by_hand("llama", folder, calibration, "sparsegpt", "row", "0.5")
    found = load_mask(mask)
    agree, other = (
        sum(int((kept == (model.get_parameter(name) != 0)).sum()) for name, kept in found.items())
        for model in (wanted, plain)
    )
    total = sum(kept.numel() for kept in found.values())
    assert agree >= 0.999 * total
    assert other < agree


def ticket(folder: Path, text: Path, place: Path, mask: Path, solution: Path | None):
    dense = place / "dense.json"
    if not dense.exists():
        evaluate_checkpoint(Checkpoint.open(folder), text, CPU, NAMES).write(dense)
    return evaluate_checkpoint(Checkpoint.open(folder), text, CPU, NAMES, mask, dense, solution=solution)


@pytest.mark.parametrize("solver", ["wanda-sequential", "sparsegpt", "admm", "swaps"])
@pytest.mark.parametrize(("scope", "sparsity"), [("row", "0.6"), ("layer", "0.37"), ("2of4", "0.5")])
@pytest.mark.parametrize("architecture", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_masks_are_what_they_promise(architecture, solver, scope, sparsity, canonical_folder, text, tmp_path):
    folder = canonical_folder(architecture)
    mask, _ = solved(folder, text(architecture), tmp_path, solver, scope, sparsity)
    verdicts = validate_files([mask], Checkpoint.open(folder))
    assert not any(verdict.broken for verdict in verdicts), verdicts


@pytest.mark.parametrize(
    ("architecture", "scope"), [("llama", "erk"), ("llama", "importance-row"), ("mixtral", "erk-row")]
)
def test_each_tensor_loses_what_an_allocation_says(architecture, scope, canonical_folder, text, tmp_path):
    folder, checkpoint = canonical_folder(architecture), Checkpoint.open(canonical_folder(architecture))
    make_histogram(checkpoint, "magnitude", None, Selection()).write(tmp_path / "histogram")
    allocation, mask, other = (tmp_path / name for name in ("allocation", "mask", "other"))
    make_mask(checkpoint, tmp_path / "histogram", scope, "0.6", allocation)
    make_mask(checkpoint, tmp_path / "histogram", scope, "0.5", other)

    def solve(sparsity: str, by: Path | None) -> None:
        solve_checkpoint(
            checkpoint, "sparsegpt", scope, sparsity, text(architecture), mask, tmp_path / "solution", Selection(),
            CPU, allocation=by,
        )  # fmt: skip

    solve("0.6", allocation)
    assert read_mask(mask).kept == read_mask(allocation).kept
    (verdict,) = validate_files([mask], Checkpoint.open(folder))
    assert not verdict.broken
    with pytest.raises(UserError, match="a mask of another checkpoint, scope, sparsity or selection"):
        solve("0.6", other)
    with pytest.raises(UserError, match=f"scope '{scope}': a solver takes the numbers of weights from a mask; give"):
        solve("0.6", None)


def test_values_of_a_solver_that_changes_none_do_not_count(canonical_folder, text, tmp_path, monkeypatch):
    """The blocks behind would see weights that the ticket does not have."""
    folder, rule = canonical_folder("llama"), solver_named("wanda-sequential")
    plain, _ = solved(folder, text("llama"), tmp_path, "wanda-sequential", "row", "0.5")
    wanted, own = plain.read_bytes(), rule.solve
    monkeypatch.setattr(rule, "solve", staticmethod(lambda *given: (own(*given)[0], given[0] * 3 + 1)))
    again, _ = solved(folder, text("llama"), tmp_path, "wanda-sequential", "row", "0.5")
    assert again.read_bytes() == wanted


def test_experts_are_solved_over_their_own_tokens(canonical_folder, text, tmp_path):
    folder = canonical_folder("mixtral")
    mask, solution = solved(folder, text("mixtral"), tmp_path, "sparsegpt", "row", "0.5")
    errors = read_solution(solution, read_mask(mask), mask, Checkpoint.open(folder).manifest.tensors).errors
    experts = [pair for name, pair in errors.items() if "experts" in name]
    assert experts
    assert all(after < before for before, after in experts)
    with pytest.raises(UserError, match="4 matrices, which solvers prune one by one; use scope row or NofM"):
        solved(folder, text("mixtral"), tmp_path, "sparsegpt", "layer", "0.5")
    with pytest.raises(UserError, match=r"no calibration token reaches 'model\.layers"):
        solved(folder, one_token(folder, tmp_path), tmp_path, "sparsegpt", "row", "0.5")


def one_token(folder: Path, place: Path) -> Path:
    path = place / "one.safetensors"
    TokenSequences(np.full((1, 2), 7, np.int32), 1, 1, sha256_of(folder / TOKENIZER)).write(path)
    return path


@pytest.mark.parametrize("precision", ["bfloat16"])
def test_the_new_values_are_smaller_errors_and_a_smaller_loss(precision, canonical_folder, text, tmp_path):
    folder, settings = canonical_folder("llama"), replace(CPU, precision=precision)
    mask, solution = solved(folder, text("llama"), tmp_path, "sparsegpt", "row", "0.5", settings)
    opened = read_mask(mask)
    errors = read_solution(solution, opened, mask, Checkpoint.open(folder).manifest.tensors).errors
    assert errors.keys() == opened.bits.keys()
    assert all(after < before for before, after in errors.values())


def test_a_ticket_is_the_model_with_these_values(canonical_folder, text, tmp_path, caplog):
    """As plain transformers loads it from the export, bit for bit; without the solution it is refused."""
    from transformers import AutoModelForCausalLM

    folder = canonical_folder("llama")
    mask, solution = solved(folder, text("llama"), tmp_path, "sparsegpt", "2of4", "0.5")
    export_ticket("hf", mask, Checkpoint.open(folder), tmp_path / "ticket", solution)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "ticket", dtype=torch.float32).eval()
    opened = read_mask(mask)
    values = read_solution(solution, opened, mask, Checkpoint.open(folder).manifest.tensors).values
    for name, kept in load_mask(mask).items():
        weight = model.get_parameter(name)
        assert torch.equal(weight[kept], torch.from_numpy(values[name].copy()))
        assert not weight[~kept].any()
    ids = torch.from_numpy(TokenSequences.read(text("llama")).input_ids.astype(np.int64))
    with torch.no_grad():
        loss = model(ids, labels=ids).loss.item()
    assert ticket(folder, text("llama"), tmp_path, mask, solution).loss == pytest.approx(loss, rel=1e-6)
    with pytest.raises(UserError, match="also changed the weights that its mask keeps; give --solution"):
        ticket(folder, text("llama"), tmp_path, mask, None)
    with pytest.raises(UserError, match="give --solution"):
        export_ticket("hf", mask, Checkpoint.open(folder), tmp_path / "again")
    with caplog.at_level("WARNING"):
        ltpipe.load_mask(mask)
    assert "sparsegpt also changed the weights that its mask keeps" in caplog.text
    with pytest.raises(UserError, match="use format hf"):
        export_ticket("torch-prune", mask, Checkpoint.open(folder), tmp_path / "again")


def test_a_solution_of_another_mask_is_refused(canonical_folder, text, tmp_path):
    folder = canonical_folder("llama")
    mask, _ = solved(folder, text("llama"), tmp_path, "sparsegpt", "row", "0.5")
    (tmp_path / "other").mkdir()
    _, other = solved(folder, text("llama", 9), tmp_path / "other", "sparsegpt", "row", "0.5")
    with pytest.raises(UserError, match="solution of another mask than"):
        ticket(folder, text("llama"), tmp_path, mask, other)


def test_the_same_bytes_again_and_with_other_micro_batches_the_same_mask(canonical_folder, text, tmp_path):
    folder = canonical_folder("llama")
    for place in ("a", "b", "c"):
        (tmp_path / place).mkdir()
    calibration = text("llama")
    a, b = (solved(folder, calibration, tmp_path / place, "sparsegpt", "row", "0.5") for place in "ab")
    assert [path.read_bytes() for path in a] == [path.read_bytes() for path in b]
    c, _ = solved(folder, calibration, tmp_path / "c", "sparsegpt", "row", "0.5", replace(CPU, micro_batch=5))
    masks = [load_mask(path) for path in (a[0], c)]
    differing = sum(int((masks[0][name] != masks[1][name]).sum()) for name in masks[0])
    assert differing <= 0.001 * sum(mask.numel() for mask in masks[0].values())


@pytest.fixture(scope="module")
def usual_widths(tmp_path_factory) -> Path:
    """A Llama whose widths are multiples of 64, as those of most models."""
    sizes = {"hidden_size": 128, "intermediate_size": 320, "num_attention_heads": 2, "num_key_value_heads": 1}
    source, folder = (tmp_path_factory.mktemp("usual") / name for name in ("source", "canonical"))
    random_model(LlamaConfig(vocab_size=96, num_hidden_layers=2, **sizes), 0).save_pretrained(source)
    tiny_tokenizer().save_pretrained(source)
    load_checkpoint(Source(str(source)), None, "auto", folder)
    return folder


@pytest.mark.parametrize("solver", solver_names())
def test_the_same_bytes_with_any_number_of_threads(solver, usual_widths, tmp_path):
    ids, found = np.random.default_rng(3).integers(3, 90, (16, 128), dtype=np.int32), set()
    TokenSequences(ids, 16, 1, sha256_of(usual_widths / TOKENIZER)).write(tmp_path / "text")
    for threads in (1, 2, 4):
        place = tmp_path / str(threads)
        place.mkdir()
        settings = ComputeSettings(device="cpu", threads=threads)
        files = solved(usual_widths, tmp_path / "text", place, solver, "row", "0.6", settings)
        found.add(tuple(file.read_bytes() for file in files))
    assert len(found) == 1


def test_options_are_kept_with_the_mask(canonical_folder, text, tmp_path):
    folder, calibration = canonical_folder("llama"), text("llama")
    solve_checkpoint(
        Checkpoint.open(folder), "sparsegpt", "row", "0.5", calibration, tmp_path / "m", tmp_path / "s", Selection(),
        CPU, {"damping": "0.1"}, {"counts": "truncated"},
    )  # fmt: skip
    mask = read_mask(tmp_path / "m")
    assert mask.options["criterion"] == {"damping": 0.1}
    assert mask.options["scope"] == {"counts": "truncated"}
    found = read_solution(tmp_path / "s", mask, tmp_path / "m", Checkpoint.open(folder).manifest.tensors)
    assert found.options == {"true_sequential": False, "damping": 0.1, "block": 128}
    assert found.sequences == sha256_of(calibration)
    assert json.dumps(dict(mask.options))


@pytest.mark.parametrize(
    ("settings", "selection", "said"),
    [
        (replace(CPU, execution="in-memory"), Selection(), "prunes block by block, and the model does not run so"),
        (CPU, Selection(include=("lm_head.*",)), "prunes the blocks of model.layers only, and"),
        (CPU, Selection(preset="all-weights"), "is not the weight matrix of a linear layer"),
        (replace(CPU, device_memory=1e-5), Selection(), "device_memory allows"),
    ],
)
def test_what_solvers_cannot_do(settings, selection, said, canonical_folder, text, tmp_path):
    with pytest.raises(UserError, match=said):
        solved(canonical_folder("llama"), text("llama"), tmp_path, "sparsegpt", "row", "0.5", settings, selection)
    assert not list(tmp_path.glob("*.mask"))
    assert not list(tmp_path.glob("*.solution"))


def test_inputs_that_overflow_are_named(text, tmp_path):
    save_tiny("llama", tmp_path / "source")
    file = tmp_path / "source/model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.post_attention_layernorm.weight"][:] = 1e30
    save_file(tensors, file, {"format": "pt"})
    load_checkpoint(Source(str(tmp_path / "source")), None, "auto", tmp_path / "canonical")
    with pytest.raises(UserError, match=r"inputs of 'model\.layers\.1\.mlp\.down_proj\.weight' are infinite or not"):
        solved(tmp_path / "canonical", text("llama"), tmp_path, "sparsegpt", "row", "0.5")
    assert not list(tmp_path.glob("*.mask"))


@pytest.mark.parametrize("size", [0, 1, 7, 65_536, 200_003])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64])
def test_values_go_back_to_their_places(dtype, size):
    """In several parts, each of which several threads may write."""
    draw = np.random.default_rng(size)
    kept = draw.random(size) < 0.3
    values = (1 + np.arange(kept.sum()) % 60_000).astype(dtype)
    wanted = np.zeros(size, dtype)
    wanted[kept] = values
    assert np.array_equal(scattered(values, pack(kept), size), wanted)
