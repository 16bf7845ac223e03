"""Made-up tables of a report, and what a page of them would hold."""

import math
from itertools import combinations

import numpy as np
import pandas as pd
from studies import like_the_paper, line, study

from ltpipe.analysis.early_bird import EarlyBird
from ltpipe.analysis.overlap_tables import OVERLAP
from ltpipe.analysis.validation_table import LAYERS
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.reporting.tables.comparisons import COLUMNS as COMPARISONS
from ltpipe.reporting.tables.connectivity import connectivity_table
from ltpipe.reporting.tables.costs import COLUMNS as COSTS
from ltpipe.reporting.tables.curves import COLUMNS as CURVES
from ltpipe.reporting.tables.early_birds import early_birds_table
from ltpipe.reporting.tables.findings import findings_table
from ltpipe.reporting.tables.levels import levels_table
from ltpipe.reporting.trainings import Trainings
from ltpipe.runtime.frames import frame as typed

BRANCHES = ("ticket", "reinitialised-1", "reinitialised-2", "shuffled-1", "transplanted-a", "transplanted-b")
TRAININGS = Trainings(list(study(like_the_paper, 5, range(13), BRANCHES)))
LEVELS = levels_table(TRAININGS)
LINES = [
    line(replicate, 0.005 + 0.001 * replicate + 0.03 * (level > 0), level) for replicate in (0, 1) for level in (0, 2)
]
BIRDS = [
    EarlyBird("lenet", replicate, sparsity, "hamming", 0.1, 2, 1, False, (5, 10, 15), (None, 0.3, value), converged)
    for sparsity, value, converged in ((Sparsity.of("0.5"), 0.05, 15), (Sparsity.of("0.9"), 0.2, None))
    for replicate in (0, 1)
]


def ticket(retention, **changes):
    row = {
        "model": "org/small", "data": "wiki", "criterion": "magnitude", "scope": "global", "seed": pd.NA,
        "sparsity": 0.5, "total": 1_000_000, "parameters": 1_200_000, "accuracy": 0.25, "baseline_loss": 3.0,
        "baseline_loss_low": 2.9, "baseline_loss_high": 3.1, "uniform_loss": math.log(49_152),
        "baseline_perplexity": math.exp(3.0), "baseline_accuracy": 0.4, "tokens": 16_368, "sequences": 16,
        "protocol": "documents", "precision": "float32", "device": "cpu", "execution": "streamed",
        "peak_host_bytes": 3 * 2**30,
        "planned_bytes": 2**27, "measured_bytes": 2**27 + 2**20, "peak_host_private_bytes": 2**29,
        "peak_device_reserved_bytes": pd.NA,
        "peak_device_bytes": pd.NA, "seconds": 12.5, "performance_retention": retention,
        "agreement": pd.NA, "kl": pd.NA, **changes,
    }  # fmt: skip
    loss = row["baseline_loss"] / retention if retention else math.inf
    row.setdefault("loss_difference", loss - row["baseline_loss"])
    row.setdefault("accuracy_difference", row["accuracy"] - row["baseline_accuracy"])
    for key, half in (("performance_retention", 0.01), ("loss_difference", 0.03), ("accuracy_difference", 0.02)):
        row.setdefault(f"{key}_low", row[key] - half)
        row.setdefault(f"{key}_high", row[key] + half)
    kept = round(row["total"] * (1 - row["sparsity"]))
    return {"kept": kept, "loss": loss, "perplexity": np.exp(loss), **row}


def frame(*rows):
    integers = dict.fromkeys(("seed", *(key for key in rows[0] if key.endswith("_bytes"))), "Int64")
    return pd.DataFrame(list(rows)).astype(integers)


def seeds(retentions, **changes):
    return [ticket(value, criterion="random", seed=seed, **changes) for seed, value in enumerate(retentions)]


def tickets_frame():
    """Eleven tickets of one model and text; three win, the sparsest at 50 %."""
    return frame(
        ticket(0.98, sparsity=0.3),
        ticket(0.92),
        ticket(0.25, sparsity=0.7),
        ticket(0.95, scope="layer", sparsity=0.3),
        ticket(0.85, scope="layer"),
        *seeds([0.5, 0.6, 0.55], sparsity=0.3),
        *seeds([0.3, 0.5, 0.4]),
    )


def curves_frame(**changes):
    """Two curves: one that falls below 0.9, and one that does not."""
    row = {"model": "org/small", "data": "wiki", "criterion": "magnitude", "largest_sparsity": 0.7, "area_low": 0.2,
           "total": 1_000_000}  # fmt: skip
    falls = {
        "scope": "global",
        "last_winning_sparsity": 0.5,
        "last_winning_kept": 500_000,
        "last_winning_significant": True,
        "first_losing_sparsity": 0.7,
        "first_losing_kept": 300_000,
        "first_losing_significant": True,
        "crossings": 1,
        "critical_sparsity_estimate": 0.51,
        "critical_sparsity_estimate_low": 0.48,
        "critical_sparsity_estimate_high": 0.53,
    }
    holds = {
        "scope": "layer",
        "last_winning_sparsity": 0.7,
        "last_winning_kept": 300_000,
        "last_winning_significant": False,
        "crossings": 0,
        "critical_sparsity_estimate_low": 0.66,
    }
    return typed([row | falls | changes, row | holds | changes], CURVES)


def comparisons_frame(tickets=(), apart=0.02):
    """All pairs of tickets of one model, text and sparsity, told apart where retentions differ by more than `apart`."""
    rows = [] if len(tickets) == 0 else tickets.to_dict("records")
    return typed(
        [
            {"model": a["model"], "data": a["data"], "sparsity": a["sparsity"],
             "loss_difference": a["loss"] - b["loss"],
             "significant": abs(a["performance_retention"] - b["performance_retention"]) > apart,
             **{f"{axis}_{side}": one[axis] for side, one in (("a", a), ("b", b))
                for axis in ("criterion", "scope", "seed")}}
            for a, b in combinations(rows, 2)
            if [a[key] for key in ("model", "data", "sparsity")] == [b[key] for key in ("model", "data", "sparsity")]
        ],
        COMPARISONS,
    )  # fmt: skip


def layers_frame(blocks=4, model="org/small", uneven=0.05):
    """Masks of two scopes: global ones prune later blocks more, those by layer all alike."""
    return typed(
        [
            {"model": model, "criterion": "magnitude", "scope": scope, "sparsity": sparsity, "weights": 10_000,
             "tensor": f"model.layers.{block}.{kind}.weight",
             "kept": round(10_000 * (1 - sparsity - (scope == "global") * uneven * (block - 1.5)))}
            for scope in ("global", "layer")
            for sparsity in (0.3, 0.5)
            for block in range(blocks)
            for kind in ("self_attn.q_proj", "mlp.up_proj")
        ],
        LAYERS,
    )  # fmt: skip


def overlap_frame():
    """Two scopes and seeds of one sparsity, and two sparsities of one mask."""
    masks = [
        ("magnitude", "global", None),
        ("magnitude", "layer", None),
        ("random", "global", 0),
        ("random", "global", 1),
    ]
    rows = [
        {"model": "org/small", "sparsity_a": sparsity, "sparsity_b": sparsity, "differs_in": "one", "jaccard": jaccard,
         "jaccard_chance": 0.33, **{f"{axis}_{side}": mask[place] for side, mask in (("a", a), ("b", b))
                                    for place, axis in enumerate(("criterion", "scope", "seed"))}}
        for sparsity in (0.3, 0.5)
        for a, b, jaccard in ((masks[0], masks[1], 0.8), (masks[0], masks[2], 0.34), (masks[0], masks[3], 0.32),
                              (masks[2], masks[3], 0.33))
    ]  # fmt: skip
    return typed([*rows, rows[0] | {"sparsity_b": 0.7}], OVERLAP)


def tables(tickets=None):
    """Tables of a report of tickets and of a study, by their names."""
    tickets = tickets_frame() if tickets is None else tickets
    return {
        "tickets": tickets,
        "comparisons": comparisons_frame(tickets),
        "curves": curves_frame(),
        "overlap": overlap_frame(),
        "layers": layers_frame(),
        "costs": typed(
            [
                {"stage": "ticket evaluation", "model": "org/small", "data": "wiki", "runs": 11, "seconds": 137.5,
                 "median_seconds": 12.5, "longest_seconds": 12.5, "planned_bytes": 2**27,
                 "measured_bytes": 2**27 + 2**20, "device": "cpu"},
                {"stage": "training", "model": "lenet", "runs": 60, "seconds": 3600.0, "median_seconds": 60.0,
                 "longest_seconds": 60.0},
            ],
            COSTS,
        ),
        "findings": findings_table(TRAININGS, LINES),
        "levels": LEVELS,
        "connectivity": connectivity_table(LINES),
        "early_birds": early_birds_table(BIRDS),
    }  # fmt: skip
