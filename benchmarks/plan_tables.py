"""Write the page of planned device memory: models of all sizes on GPUs of all sizes, from shapes alone."""

import argparse
import math
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path

import torch

from benchmarks.report import Table
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.prunable import Selection
from ltpipe.evaluation.plan import ACTIVATIONS, BLOCK, HIDDEN, LOGITS, MASK, OUTSIDE, BatchSizes, EvaluationPlanner
from ltpipe.planning.architecture import architecture, foreseen, known_architectures
from ltpipe.runtime.fake_device import Peak
from ltpipe.runtime.sources import Source
from ltpipe.scoring.criteria.snip import Snip
from ltpipe.scoring.plan import ACCUMULATORS, GRADIENTS, ScorePlanner, smaller_scored

_GB = 10**9
_GPUS = (4, 8, 16, 24, 40, 80)
_USABLE = 0.9  # fraction of a GPU; evaluate.device_memory: auto uses the same fraction of free memory
_LENGTH = 128
_EVALUATED, _SCORED = BatchSizes.generous(256, _LENGTH), BatchSizes(32, 4, 64)
_PARTS = (BLOCK, OUTSIDE, MASK, HIDDEN, ACTIVATIONS, LOGITS, GRADIENTS, ACCUMULATORS)
_CLASSES = (("< 1B", 1e9, 10), ("1-3B", 3e9, 15), ("3-7B", 7e9, 25), ("> 7B", math.inf, 40))
"""The reference's model sizes: name, upper bound of the parameters, and required GB (H100 80 GB)."""

_INTRO = f"""\
# Planned memory of seven models

`make plan-tables` (`python -m benchmarks.plan_tables`) writes this page; run it again rather than edit
the page. [memory.md](memory.md) explains how a plan is made and what it leaves out.

**Every number here is planned on a fake accelerator, with tensors that have no contents. No GPU has run
any of it.** The exceptions are the reference's numbers, which are its own.

Models are in bfloat16, and weights are streamed one block at a time. GB are 10^9 bytes. The verdict
for a GPU assumes {_USABLE:.0%} of its memory, just as `evaluate.device_memory: auto` assumes {_USABLE:.0%} of what is
free; the driver's context is not counted. A cell shows *micro-batch · peak in GB*. It also shows the
super-batch or chunk if they had to shrink. If the model does not fit, it shows "no" and the lowest
peak that was found."""

Smaller = Callable[[BatchSizes, Mapping[str, int]], BatchSizes | None]


def cell(peak_of: Callable[[BatchSizes], Peak], wanted: BatchSizes, smaller: Smaller, limit: float) -> str:
    """Return whether and how something fits, from `wanted` sizes downwards, as `EvaluationPlanner.fit` does."""
    sizes: BatchSizes | None = wanted
    least = math.inf
    while sizes is not None:
        peak = peak_of(sizes)
        least = min(least, peak.total)
        if peak.total <= limit:
            shrunk = "".join(
                f", {word} {getattr(sizes, key)}"
                for key, word in (("super_batch", "super-batch"), ("chunk", "chunk"))
                if getattr(sizes, key) != getattr(wanted, key)
            )
            return f"{sizes.micro_batch} · {peak.total / _GB:.2f}{shrunk}"
        sizes = smaller(sizes, peak.parts)
    return f"no: {least / _GB:.2f}"


def class_of(manifest: Manifest) -> int:
    """Return the index of a model's size in the reference."""
    return next(index for index, (_, most, _) in enumerate(_CLASSES) if manifest.parameters < most)


def tables(planners: Mapping[str, EvaluationPlanner], models: Mapping[str, Manifest], sizes: BatchSizes) -> list[Table]:
    """Return what fits where, and what fills the device at the wanted sizes."""
    gradients = sizes is _SCORED
    task = "Gradient scores of the linear weights, " if gradients else "Evaluation with a mask of the linear weights, "
    task += f"{sizes.super_batch} × {_LENGTH} tokens"
    fitted, filled = [], []
    for name, planner in planners.items():
        peak_of = cache(partial(planner.peak, length=_LENGTH))
        smaller: Smaller = partial(smaller_scored, criterion=Snip) if gradients else BatchSizes.smaller
        cells = [cell(peak_of, sizes, smaller, _USABLE * size * _GB) for size in _GPUS]
        fitted.append((name, f"~{_CLASSES[class_of(models[name])][2]}", *cells))
        peak, weights = peak_of(sizes), sum(entry.size for entry in models[name].tensors.values())
        parts = [peak.parts.get(part, 0) for part in _PARTS]
        parts.append(peak.total - sum(parts))
        shares = [f"{part / _GB:.3f}" if part >= _GB / 2000 else "–" for part in parts]
        filled.append((name, f"{2 * weights / _GB:.2f}", f"{peak.total / _GB:.3f}", *shares))
        print(f"{task}: {name}", flush=True)
    what = "Gradient scores (taylor)" if gradients else "Evaluation"
    note = f"Wanted: {sizes}. " + (
        "All sequences stay one batch: only micro-batch and chunk shrink."
        if gradients
        else "They shrink as they do in the stage."
    )
    moment = (
        "The peak is at the final norm or the head, or where the weights of the next block arrive; "
        + (
            "by then activations are gone, and so are gradients, which are added up and freed one by one."
            if gradients
            else "activations are gone by then."
        )
        + " Hidden states are whole batches of them, and what the model makes from them outside its blocks."
    )
    gpus = [f"{size} GB GPU: {sizes.super_batch} × {_LENGTH} tokens" for size in _GPUS]
    return [
        Table(f"{what}: what fits", ("Model", "The reference asks for, GB", *gpus), fitted, [f"{task}. {note}"]),
        Table(
            f"{what}: parts of the peak, GB",
            ("Model", "All weights", f"Peak, {sizes.super_batch} × {_LENGTH} tokens", *_PARTS, "other"),
            filled,
            [f"{task}, with {sizes}. A dash is less than 0.0005 GB at the moment of the peak. {moment}"],
        ),
    ]


def page() -> str:
    """Return the page with all tables."""
    models, evaluations, scorings = {}, {}, {}
    for name in known_architectures():
        shapes = architecture(Source(f"hub:{name}@main", name))
        skeleton, models[name] = foreseen(shapes, torch.bfloat16)
        linear = Selection().names(models[name])
        evaluations[name] = EvaluationPlanner(skeleton, models[name], linear, torch.bfloat16, True)
        scorings[name] = ScorePlanner(skeleton, models[name], linear, Snip, torch.bfloat16, True)
    order = sorted(models, key=lambda name: models[name].parameters)
    made = [
        *tables({name: evaluations[name] for name in order}, models, _EVALUATED),
        *tables({name: scorings[name] for name in order}, models, _SCORED),
    ]
    members = [[name for name in order if class_of(models[name]) == index] for index in range(len(_CLASSES))]
    reference = Table(
        "The reference's own table",
        ("Parameters", "Required on an H100 80 GB, GB", "Models of that size above"),
        [(size, f"~{need}", ", ".join(names) or "–") for (size, _, need), names in zip(_CLASSES, members, strict=True)],
        [
            "On an A100 40 GB it runs out of memory above 7B. For its own case (Qwen2.5-1.5B, bfloat16, 256 × 128 "
            "tokens) it gives a peak of 25-27 GB before its work on memory and about 16 GB after it. "
            "It does not say which batch size the table's requirements are for.",
        ],
    )
    return "\n\n".join([_INTRO, *(table.markdown() for table in [*made, reference])]).replace("\n### ", "\n## ") + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan_tables", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/memory-tables.md"), help="the page to write")
    parser.parse_args().output.write_text(page(), encoding="utf-8")
