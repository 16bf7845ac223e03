"""Write the page on the cost of a large study, from plans of published models alone."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import Table
from ltpipe.planning.cost import ANALYSES, GATHERING, Cost, cost
from ltpipe.planning.stages import StagePlan
from ltpipe.planning.study import plan_study
from ltpipe.runtime.memory import GIB
from ltpipe.workflow.config import check_config

VARIANTS = {
    "HuggingFaceTB/SmolLM2-135M": 20,
    "Qwen/Qwen2.5-0.5B": 20,
    "Qwen/Qwen2.5-1.5B": 20,
    "Qwen/Qwen2.5-7B": 20,
    "meta-llama/Meta-Llama-3-8B": 10,
    "Qwen/Qwen2.5-32B": 5,
    "meta-llama/Meta-Llama-3-70B": 5,
}
"""The study's models: seven published ones whose shapes ltpipe knows, with their numbers of variants, 100 in all."""

SPEEDS = (10, 50, 200)
"""Speeds, in tera-operations per second, to estimate hours for."""

_CRITERIA = [
    *("magnitude", "random", "wanda", "snip", "taylor", "fisher", "fisher-batch", "fisher-clipped", "gradient-norm"),
    "synflow",
]
_MARKER = "<!-- Written by python -m benchmarks.study_cost (make study-cost); edit what is above. -->\n"


@dataclass(frozen=True)
class Model:
    """One published model of the study, in several variants.

    Attributes:
        name: repository name.
        variants: number of models with these shapes.
        plan: the plan of one of them.
    """

    name: str
    variants: int
    plan: tuple[StagePlan, ...]

    @property
    def cost(self) -> Cost:
        """Cost of one variant, analyses included."""
        return cost(self.plan) + Cost(jobs=ANALYSES)


def study(source: str, text: Path) -> dict[str, Any]:
    """Return the configuration of one model: 10 criteria, one scope, 20 sparsities, 256 x 512 tokens."""
    return {
        "models": {"model": {"source": source, "dtype": "bfloat16"}},
        "data": {
            "text": {"source": str(text), "documents": "evaluation"},
            "calibration": {"source": str(text), "documents": "calibration"},
        },
        "grid": {
            "criteria": _CRITERIA,
            "scopes": ["layer"],
            "sparsities": [round(number / 25, 2) for number in range(1, 21)],
            "seeds": [0],
        },
        "evaluate": {"num_sequences": 256, "sequence_length": 512},
        "score": {"data": "calibration", "num_sequences": 64, "sequence_length": 512},
    }


def planned(variants: Mapping[str, int], text: Path) -> list[Model]:
    """Return the study's models with their plans, in the given order."""
    return [
        Model(name, count, tuple(plan_study(check_config(study(f"hub:{name}@main", text)), peaks=False)))
        for name, count in variants.items()
    ]


def tables(models: list[Model]) -> list[Table]:
    """Return jobs, disk and hours for each model, each kind of stage, and in total."""
    whole = sum((model.cost * model.variants for model in models), start=Cost(jobs=GATHERING))
    rows = [_row(f"{model.name}, {model.variants} ×", model.cost * model.variants) for model in models]
    by_stage: dict[str, Cost] = {}
    for model in models:
        for stage in model.plan:
            kind = stage.stage.split(" ")[0].rstrip(",")
            by_stage[kind] = by_stage.get(kind, Cost()) + cost([stage]) * model.variants
    variants = sum(model.variants for model in models)
    by_stage["overlap, validation, tables"] = Cost(jobs=ANALYSES * variants)
    by_stage["report, target"] = Cost(jobs=GATHERING)
    speeds = [f"hours at {speed}" for speed in SPEEDS]
    note = (
        "Hours are operations / (tera-operations per second × 10^12 × 3600), an estimate; no GPU has run any of it. "
        "Disk is what the plan knows about, in TiB; metrics, logs and tables are small compared with it."
    )
    return [
        Table(
            "By model", ("Model", "jobs", "disk, TiB", "operations", *speeds), [*rows, _row("**all**", whole)], [note]
        ),
        Table(
            "By stage",
            ("Stage", "jobs", "disk, TiB", "operations", *speeds),
            [_row(kind, spent) for kind, spent in by_stage.items()],
        ),
    ]


def _row(name: str, spent: Cost) -> tuple[str, ...]:
    hours = (f"{spent.hours(speed):,.0f}" if spent.operations else "" for speed in SPEEDS)
    disk = f"{spent.disk / GIB / 1024:,.2f}" if spent.disk else ""
    return name, f"{spent.jobs:,}", disk, f"{spent.operations:.1e}" if spent.operations else "", *hours


def with_tables(page: str, made: list[Table]) -> str:
    """Return the page with new tables after its marker."""
    return "\n\n".join([page.partition(_MARKER)[0] + _MARKER, *(table.markdown() for table in made)]) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study_cost", description=__doc__)
    parser.add_argument("--page", type=Path, default=Path("docs/large-studies.md"), help="the page to update")
    page = parser.parse_args().page
    found = planned(VARIANTS, Path("README.md"))
    page.write_text(with_tables(page.read_text(encoding="utf-8"), tables(found)), encoding="utf-8")
