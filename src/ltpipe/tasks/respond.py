"""The stage that answers the requests of a task: a checkpoint, dense or masked, walked as in any evaluation."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import TOKENIZER
from ltpipe.evaluation.computing import ComputeSettings, Computing, backing_off
from ltpipe.evaluation.inputs import open_ticket
from ltpipe.evaluation.loss import cross_entropy
from ltpipe.evaluation.plan import BatchSizes, EvaluationPlanner
from ltpipe.pruning.apply import fetch_from
from ltpipe.pruning.solution import criterion_of
from ltpipe.runtime.device import device_peak
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import sha256_of
from ltpipe.runtime.memory import PrivateMemory
from ltpipe.runtime.progress import track
from ltpipe.runtime.provenance import provenance
from ltpipe.streaming.model import CausalModel
from ltpipe.streaming.skeleton import build_skeleton, other_dtypes
from ltpipe.tasks.answers import Responses
from ltpipe.tasks.generate import generated
from ltpipe.tasks.requests import Requests

_PADDED = 0.75
"""A pass takes no windows shorter than this share of its longest, if it has enough tokens without them."""
_ENOUGH = 8
"""Micro-batches whose arithmetic outweighs fetching the weights once more."""


def respond(
    checkpoint: Checkpoint,
    requests: Path,
    settings: ComputeSettings,
    names: Mapping[str, str],
    mask: Path | None = None,
    solution: Path | None = None,
    code: str | None = None,
) -> Responses:
    """Answer the requests of a task by a canonical checkpoint, masked if `mask` is given.

    Args:
        checkpoint: the model's checkpoint.
        requests: requests made with the checkpoint's tokenizer.
        settings: how to compute.
        names: names of `model` and `task`.
        mask: mask file made from this checkpoint.
        solution: file with new values of the weights, if a solver or a recovery changed them.
        code: digest of the code, for the provenance.

    Raises:
        UserError: mask, solution or requests belong to another model, or a log-likelihood is not finite.
    """
    asked = Requests.read(requests)
    if asked.tokenizer != checkpoint.manifest.files.get(TOKENIZER):
        raise UserError(
            f"{requests}: not made with the tokenizer of {checkpoint.folder}; run the requests stage with this model"
        )
    pruning, solved, hashes = open_ticket(checkpoint, mask, solution)
    here = Computing.of(settings, checkpoint)
    skeleton = build_skeleton(checkpoint, here.dtype)
    start = time.perf_counter()
    with PrivateMemory() as private:
        rows = Rows.of(asked)
        sizes, planner = BatchSizes(1, 1, 1), None
        if rows.inputs:
            longest = len(rows.inputs[0])
            planner = EvaluationPlanner(
                skeleton, checkpoint.manifest, pruning.bits if pruning else (), here.dtype, here.accelerator,
                here.streamed, kept=here.kept(checkpoint.manifest), solved=solved.values if solved else (),
            )  # fmt: skip
            wanted = BatchSizes.generous(len(rows.inputs), longest, settings.micro_batch)
            sizes, _ = planner.fit(wanted, longest, here.limit)
        fetch = fetch_from(
            checkpoint.weights, pruning, here.device, here.dtype, other_dtypes(skeleton, here.dtype), solved
        )
        model = CausalModel(
            skeleton,
            checkpoint.manifest,
            fetch,
            here.device,
            here.streamed,
            planner.division if planner else None,
            here.shards,
        )
        loglikelihoods, greedy, happened = answered(model, rows, sizes)
        texts = generated(model, checkpoint, asked)
    if not np.isfinite(loglikelihoods).all():
        raise UserError(
            "a log-likelihood is infinite or not a number; evaluate with precision float32, or check the checkpoint"
        )
    peak = device_peak(here.devices)
    inputs = {"checkpoint": checkpoint.fingerprint, "requests": sha256_of(requests)}
    return Responses(
        model=names["model"],
        task=names["task"],
        criterion=criterion_of(pruning, solved),
        scope=pruning.scope if pruning else None,
        seed=pruning.seed if pruning else None,
        sparsity=pruning.sparsity.canonical if pruning else None,
        loglikelihoods=loglikelihoods.tolist(),
        greedy=greedy.tolist(),
        texts=texts,
        tokens=int(sum(map(len, rows.inputs))),
        precision=here.precision,
        device=", ".join(map(str, here.devices)),
        execution=model.execution,
        threads=here.threads,
        out_of_memory=happened,
        peak_host_private_bytes=private.peak,
        peak_device_bytes=peak.allocated if peak else None,
        seconds=time.perf_counter() - start,
        provenance=provenance(inputs | hashes, asdict(settings)) | {"code": code},
    )


@dataclass(frozen=True)
class Rows:
    """What goes through the model: windows without their last token, equal ones once, the longest first.

    Choices of one token share their context, and so a row.

    Attributes:
        inputs: token ids of each row.
        of_window: int64 [windows], the row of each window that predicts; -1 for others.
        targets: predicted token ids of each window.
        requests: int64 [windows], their requests.
        count: number of requests.
    """

    inputs: list[np.ndarray]
    of_window: np.ndarray
    targets: list[np.ndarray]
    requests: np.ndarray
    count: int

    @classmethod
    def of(cls, asked: Requests) -> "Rows":
        """Return the rows of requests."""
        windows, known = asked.windows(), dict[bytes, int]()
        keys = [
            known.setdefault(tokens[:-1].tobytes(), len(known)) if predicted else -1
            for tokens, predicted in zip(windows, asked.predicted, strict=True)
        ]
        found = [np.frombuffer(key, np.int32) for key in known]
        order = sorted(range(len(found)), key=lambda row: -len(found[row]))
        place = np.empty(len(found) + 1, np.int64)
        place[order], place[-1] = np.arange(len(found)), -1
        targets = [
            tokens[len(tokens) - predicted :] for tokens, predicted in zip(windows, asked.predicted, strict=True)
        ]
        return cls(
            [found[row] for row in order],
            place[np.array(keys, np.int64)],
            targets,
            asked.requests.astype(np.int64),
            asked.count,
        )


def answered(model: CausalModel, rows: Rows, sizes: BatchSizes) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return the log-likelihood of each request, float64, whether it is greedy, bool, and back-offs in words.

    Args:
        model: the model.
        rows: what goes through it.
        sizes: batch sizes for rows as long as the longest; shorter ones get more of them, with as many tokens.
    """
    loglikelihoods, greedy = np.zeros(rows.count), np.ones(rows.count, np.bool_)
    asking = np.zeros(rows.count, np.bool_)
    asking[rows.requests[rows.of_window >= 0]] = True
    by_row = np.argsort(rows.of_window, kind="stable")
    edges = np.searchsorted(rows.of_window[by_row], np.arange(len(rows.inputs) + 1))
    happened: list[str] = []
    longest = len(rows.inputs[0]) if rows.inputs else 1
    for start, stop in track(list(_passes([len(row) for row in rows.inputs], sizes, longest)), "answering", "pass"):
        windows = by_row[edges[start] : edges[stop]]
        attempt = partial(_pass, model, rows, start, stop, windows, longest)
        (sums, hits), sizes, lines = backing_off(sizes, attempt)
        np.add.at(loglikelihoods, rows.requests[windows], sums)
        np.logical_and.at(greedy, rows.requests[windows], hits)
        happened += lines
    return loglikelihoods, greedy & asking, happened


def _passes(lengths: Sequence[int], sizes: BatchSizes, longest: int) -> Iterator[tuple[int, int]]:
    """Yield the rows of each pass over the model's weights: as many as fit, of similar lengths if they are enough."""
    most, enough = sizes.super_batch * longest, _ENOUGH * sizes.micro_batch * longest
    start = 0
    while start < len(lengths):
        length = lengths[start]
        fitting = min(len(lengths), start + max(1, most // length))
        stop = start + 1
        while stop < fitting and ((stop - start) * length < enough or lengths[stop] >= _PADDED * length):
            stop += 1
        yield start, stop
        start = stop


def _pass(
    model: CausalModel, rows: Rows, start: int, stop: int, windows: np.ndarray, longest: int, sizes: BatchSizes
) -> tuple[np.ndarray, np.ndarray]:
    """Return the log-likelihoods and hits of the windows of some rows."""
    sums, hits = np.zeros(len(windows)), np.ones(len(windows), np.bool_)
    length = len(rows.inputs[start])
    size = max(1, sizes.super_batch * longest // length)
    micro_batch = max(1, sizes.micro_batch * longest // length)
    for first in range(start, stop, size):
        last = min(first + size, stop)
        chosen = np.flatnonzero((rows.of_window[windows] >= first) & (rows.of_window[windows] < last))
        found = _predicted(model, rows, first, last, windows[chosen], micro_batch, sizes.chunk)
        for place, losses, correct in found:
            np.add.at(sums, chosen[place], -losses)
            np.logical_and.at(hits, chosen[place], correct)
    return sums, hits


@torch.inference_mode()
def _predicted(
    model: CausalModel, rows: Rows, start: int, stop: int, windows: np.ndarray, micro_batch: int, chunk: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield the places in `windows` of predicted tokens, their losses in float64, and whether they are hits.

    Rows are padded at their end, which no causal model sees from before.
    """
    inputs = rows.inputs[start:stop]
    ids = torch.zeros((len(inputs), len(inputs[0])), dtype=torch.long)
    for row, tokens in enumerate(inputs):
        ids[row, : len(tokens)] = torch.from_numpy(tokens.astype(np.int64))
    hidden_states = model.hidden_states(ids, micro_batch)
    counts = np.array([len(rows.targets[window]) for window in windows], np.int64)
    place = np.repeat(np.arange(len(windows)), counts)
    row = rows.of_window[windows][place] - start
    ends = np.array([len(tokens) for tokens in inputs], np.int64)[row]
    position = ends - np.repeat(np.cumsum(counts), counts) + np.arange(len(place))
    targets = torch.from_numpy(np.concatenate([rows.targets[window] for window in windows]).astype(np.int64))
    with model.head():
        for first, last in model.parts(len(place), chunk):
            where = torch.from_numpy(row[first:last]), torch.from_numpy(position[first:last])
            losses, correct = cross_entropy(model.logits(hidden_states[where]), targets[first:last])
            yield place[first:last], losses.double().numpy(), correct.numpy()
