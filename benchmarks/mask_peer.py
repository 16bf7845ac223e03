"""ltpipe against torch.nn.utils.prune.global_unstructured(L1Unstructured) on the same weights."""

from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import stages
from benchmarks.processes import Worker
from benchmarks.report import Bar, Samples, Table
from ltpipe.checkpoints.filenames import WEIGHTS
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.pruning.masks import unpack

_LIMIT = 250.0
_PEER, _OURS = "peer", "ltpipe"
_REPEATS = {
    _PEER: 1,
    _OURS: 5,
}  # per process: the peer can prune a module only once; a single run of a tenth of a second is noise


def against_torch(folder: Path, small: Path, scratch: Path, threads: int, rounds: int) -> tuple[Table, Bar]:
    """Prune half of a checkpoint's linear weights globally in both ways, each time in a fresh process."""
    total = sum(stages.open_keys(folder, stages.prunable(folder, "linear")).sizes)
    masks = {method: scratch / f"{method}-mask.safetensors" for method in (_PEER, _OURS)}

    def worker(method: str) -> Worker:
        options = {"method": method, "checkpoint": folder, "small": small, "output": masks[method], "threads": threads}
        return Worker("pruning_worker", options)

    seconds: dict[str, list[float]] = {}
    for _ in range(rounds):
        for method in masks:
            with worker(method) as process:
                taken = {method: median(process.ask(wish="prune")["seconds"] for _ in range(_REPEATS[method]))}
                if method == _OURS:
                    taken |= process.ask(wish="extras")
            for name, value in taken.items():
                seconds.setdefault(name, []).append(value)
    extra, kept = {}, {}
    for method in masks:  # sampling memory costs time, so it gets its own round
        with worker(method) as process:
            before = process.memory()
            _, peak = process.ask_watched(wish="prune")
            extra[method] = peak.anonymous - before.anonymous
            kept[method] = process.ask(wish="save")["kept"]
    return _result(
        total,
        {name: Samples(tuple(values)) for name, values in seconds.items()},
        extra,
        kept,
        _disagreement(folder, masks),
    )


def _result(
    total: int, seconds: dict[str, Samples], extra: dict[str, int], kept: dict[str, int], disagreement: str
) -> tuple[Table, Bar]:
    names = {
        _PEER: "torch.nn.utils.prune.global_unstructured",
        _OURS: "**ltpipe: count + threshold + pack in memory**",
        "schedule": "ltpipe: a mask of a schedule of nine sparsities, counted once",
        "file": "ltpipe: … + write + fsync",
        "masked": "ltpipe: … + write + fsync + masked copy of every weight",
    }
    table = Table(
        f"torch.nn.utils.prune: {total / 1e6:.1f} M bfloat16 weights, half of them pruned, global",
        ("Method", "Seconds: median (min–max)", "ns a weight", "Extra memory, bytes a weight", "Kept", "× as fast"),
        [
            (
                name,
                seconds[key].text(),
                f"{seconds[key].median / total * 1e9:.2f}",
                f"{extra[key] / total:+.2f}" if key in extra else "",
                f"{kept[key]:,}" if key in kept else "",
                seconds[_PEER].over(seconds[key]).text(".0f"),
            )
            for key, name in names.items()
        ],
        [
            "Extra memory is the growth of private memory (RssAnon) while pruning, relative to a process that holds "
            "the weights (torch) or has the file mapped (ltpipe). torch leaves masks and masked weights in the "
            "modules, at two bytes per weight each; ltpipe leaves packed masks. For nine sparsities torch prunes nine "
            "times, whereas ltpipe counts once. The last ltpipe line does what torch does.",
            disagreement,
        ],
    )
    faster = seconds[_PEER].over(seconds[_OURS])
    return table, Bar("speed a weight ÷ torch's global_unstructured", faster, _LIMIT, at_most=False, form=".0f")


def _disagreement(folder: Path, masks: dict[str, Path]) -> str:
    """Describe where both masks differ. Both prune exactly half but may choose differently among equal magnitudes.

    Raises:
        RuntimeError: the masks differ in weights of unequal magnitude.
    """
    keys = stages.open_keys(folder, stages.prunable(folder, "linear"))
    ours, theirs = (TensorFile(masks[method]) for method in (_OURS, _PEER))
    different, magnitudes = 0, set()
    weights = TensorFile(folder / WEIGHTS)
    for name, shape in zip(keys.names, keys.shapes, strict=True):
        differ = unpack(ours.array(name) ^ theirs.array(name), shape)
        different += int(differ.sum())
        magnitudes |= set(np.unique(weights.array(name)[differ] & 0x7FFF).tolist())
    if len(magnitudes) > 1:
        raise RuntimeError(f"the masks differ in weights of {len(magnitudes)} magnitudes, not only at the threshold")
    if not different:
        return "Both masks are the same."
    return (
        f"The masks differ in {different:,} weights, all of which have the threshold's magnitude: among equals torch's "
        "topk takes any, and ltpipe takes the first in canonical order."
    )
