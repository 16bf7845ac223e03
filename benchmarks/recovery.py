"""Benchmarks of recoveries: a step against a plain loop over the live model, and the memory of the modes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.evaluation import checkpoint_of, sequences_of
from benchmarks.processes import MB, watch_command
from benchmarks.report import Bar, Samples, Section, Table, in_turn
from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.prunable import Selection
from ltpipe.data.sequences import TokenSequences
from ltpipe.pruning.apply import fetch_from
from ltpipe.pruning.build import make_mask
from ltpipe.pruning.histogram import make_histogram
from ltpipe.pruning.masks import read_mask
from ltpipe.recovery.model import trained_model
from ltpipe.recovery.recover import in_micro_batches, next_token_loss
from ltpipe.recovery.settings import LEARNING_RATES, RecoverySettings
from ltpipe.streaming.skeleton import build_skeleton
from ltpipe.training.computing import TrainingCompute
from ltpipe.training.examples import Examples
from ltpipe.training.live import LiveTraining
from ltpipe.training.state import TrainingState

_STEP, _MEMORY = 1.15, 0.6
_BATCH, _MICRO_BATCH, _RANK = 8, 2, 16
_MODES = tuple(LEARNING_RATES)


@dataclass(frozen=True)
class Amount:
    """Rounds in which every contestant takes one step, and sequences of a step."""

    rounds: int
    batch: int


FULL = Amount(rounds=4, batch=_BATCH)
SMOKE = Amount(rounds=1, batch=2)


def run(
    amount: Amount, checkpoint: Path, sequences: Path, scratch: Path, threads: int, say: Callable[[str], None]
) -> Section:
    """Time steps of SmolLM2-135M at 50 % sparsity, and watch the stage in each mode."""
    scratch.mkdir(parents=True)
    checkpoint = checkpoint_of(checkpoint, scratch)
    text = sequences_of(sequences, checkpoint, scratch)
    opened, counts, mask = Checkpoint.open(checkpoint), scratch / "counts", scratch / "mask"
    make_histogram(opened, "magnitude", None, Selection()).write(counts)
    make_mask(opened, counts, "layer", "0.5", mask)
    seconds = {}
    for mode in _MODES:
        say(f"recovery: steps of mode {mode}")
        seconds |= _steps(mode, amount, opened, mask, text, threads)
    memory = {}
    for mode in _MODES:
        say(f"recovery: memory of mode {mode}")
        memory[mode] = _memory(mode, amount, checkpoint, mask, text, scratch, threads)
    rows = [(name, each.text(".2f")) for name, each in seconds.items()]
    taken = [(mode, f"{size / MB:,.0f}") for mode, size in memory.items()]
    ratios = {mode: seconds[_ours(mode)].over(seconds[_theirs(mode)]) for mode in _MODES}
    return Section(
        "Recovery",
        f"SmolLM2-135M at 50 % sparsity, steps of {amount.batch} sequences of 256 tokens in micro-batches of "
        f"{_MICRO_BATCH}, AdamW, float32, {threads} threads. The plain loops train the same parameters of the live "
        "model and hold no mask; that of lora adds x Dᵀ Uᵀ to each layer's output, as peft does, so its gradients need "
        "no product of whole weights. Memory is that of the stage's process, without pages of mapped files.",
        [
            Table("Steps", ("Contestant", "Seconds a step: median (min–max)"), rows),
            Table("Memory", ("Mode", "Private memory at the peak, MB"), taken),
        ],
        [
            *(
                Bar(f"recovery, {mode}: step ÷ plain loop", ratio, _STEP, at_most=True)
                for mode, ratio in ratios.items()
            ),
            Bar(
                "recovery: private memory of lora ÷ full",
                Samples((memory["lora"] / memory["full"],)),
                _MEMORY,
                at_most=True,
            ),
        ],
    )


def _ours(mode: str) -> str:
    return f"ltpipe, {mode}"


def _theirs(mode: str) -> str:
    return f"plain loop, {mode}"


def _steps(
    mode: str, amount: Amount, checkpoint: Checkpoint, mask: Path, text: Path, threads: int
) -> dict[str, Samples]:
    ids = torch.from_numpy(TokenSequences.read(text).input_ids[: amount.batch].astype(np.int64))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    ours, theirs = _recovery(mode, checkpoint, mask, ids, threads), _plain(mode, checkpoint, mask, ids)
    contestants = {_ours(mode): lambda: next(ours), _theirs(mode): lambda: next(theirs)}
    try:
        in_turn(contestants, 1)  # the first step makes the optimizer's state
        return in_turn(contestants, amount.rounds)
    finally:
        torch.set_num_threads(before)


def _recovery(mode: str, checkpoint: Checkpoint, mask: Path, ids: torch.Tensor, threads: int) -> Iterator[None]:
    """Take a step of the stage's own loop each time."""
    settings = RecoverySettings(mode, 1e-5, 1000, len(ids), _MICRO_BATCH, rank=_RANK)
    ticket = trained_model(checkpoint, read_mask(mask), None, settings, torch.device("cpu"))
    model = ticket.model
    start = TrainingState(dict(model.named_parameters()), dict(model.named_buffers()), {}, 0, ticket.masks)
    computing = TrainingCompute("cpu", threads=threads)
    live = LiveTraining(model, settings.training, start, computing)
    examples, trainer = Examples(ids, ids[:, 1:]), in_micro_batches(_MICRO_BATCH)
    while True:
        trainer(live, examples, next_token_loss, live.iteration + 1)
        yield


def _plain(mode: str, checkpoint: Checkpoint, mask: Path, ids: torch.Tensor) -> Iterator[None]:
    """Take a step of a plain torch loop each time."""
    model = build_skeleton(checkpoint, torch.float32)
    fetch = fetch_from(checkpoint.weights, read_mask(mask), torch.device("cpu"), torch.float32)
    weights = {name: nn.Parameter(fetch(name).clone()) for name, _ in model.named_parameters()}
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    model.train().requires_grad_(mode == "full")
    if mode == "norms-and-biases":
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.dim() <= 1)
    if mode == "lora":
        for block in model.model.layers:
            for layer in [module for module in block.modules() if isinstance(module, nn.Linear)]:
                _adapt(layer)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], 1e-5, fused=True)
    while True:
        optimizer.zero_grad()
        for part in ids.split(_MICRO_BATCH):
            logits = model(input_ids=part, use_cache=False).logits[:, :-1]
            loss = functional.cross_entropy(logits.flatten(0, -2), part[:, 1:].flatten())
            (loss * len(part) / len(ids)).backward()
        optimizer.step()
        yield


def _adapt(layer: nn.Linear) -> None:
    """Add a change of low rank to a layer's output."""
    layer.down = nn.Parameter(torch.randn(_RANK, layer.in_features) * 0.02)
    layer.up = nn.Parameter(torch.zeros(layer.out_features, _RANK))
    own = layer.forward
    layer.forward = lambda inputs: own(inputs) + 2 * (inputs @ layer.down.T) @ layer.up.T


def _memory(mode: str, amount: Amount, checkpoint: Path, mask: Path, text: Path, scratch: Path, threads: int) -> int:
    """Return the largest private memory of a stage of two steps, bytes."""
    files = {"checkpoint": checkpoint, "sequences": text, "mask": mask, "output": scratch / mode}
    settings = {"mode": mode, "learning-rate": 1e-5, "steps": 2, "batch-size": amount.batch, "rank": _RANK}
    computing = {"micro-batch": _MICRO_BATCH, "device": "cpu", "threads": threads, "record": scratch / f"{mode}.json"}
    words = [str(word) for key, value in (files | settings | computing).items() for word in (f"--{key}", value)]
    return watch_command(["scripts/recover.py", *words]).peak.anonymous
