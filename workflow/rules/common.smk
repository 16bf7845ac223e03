"""Shared by all rules: the jobs of the checked configuration, and the code that they run. Contains no rules."""

from ltpipe.evaluation.perturbation import NAME as PERTURBATION
from ltpipe.scoring.criterion import criterion_names
from ltpipe.solving.solver import solver_names
from ltpipe.workflow import grid, trainings
from ltpipe.workflow import report as reported
from ltpipe.workflow.code import shell_prefix
from ltpipe.workflow.commands import (
    COMPUTING,
    ENVIRONMENT,
    EVALUATION,
    FORKED,
    TOGETHER,
    WITH_DEVICES,
    evaluation_options,
    given,
    listed,
    recovery_option,
    seed_option,
)
from ltpipe.workflow.jobs import Jobs, any_of

shell.prefix(shell_prefix(jobs_here=not workflow.remote_exec))
jobs = Jobs.of(config, folder, workflow)
config = jobs.config
if workflow.is_main_process:
    for warning in jobs.outdated():
        logger.warning(warning)

SETTINGS = rf"(@({any_of(config['score']['settings'])}))?"
RECOVERY = rf"\+({any_of(config['recover'])})"
KINDS = {".csv": "table", ".svg": "figure", ".html": "page"}


def report_file(name: str, category: str):
    """Return a file of the report; with a category, it also appears in Snakemake's own report."""
    path = Path(reported.folder(config), name)
    if not category:
        return str(path)
    return report(
        str(path),
        caption=f"../report/{path.stem}.rst",
        category=category,
        labels={"what": path.stem.replace("_", " "), "kind": KINDS[path.suffix]},
    )


wildcard_constraints:
    model=any_of(config["models"]),
    data=any_of({*config["data"], *grid.evaluated_texts(config), *grid.calibration_texts(config)}),
    training=any_of(config["imp"]),
    task=any_of(config["evaluate"]["tasks"]),
    replicate=r"\d+",
    level=r"\d+",
    branch=any_of({cell.branch for cell in trainings.every_training(config)}),
    order=r"\d+",
    round=r"\d+",
    criterion=f"[a-z0-9-]+{SETTINGS}",
    recovery=any_of(config["recover"]),
    scope="[a-z0-9-]+",
    seed=rf"{grid.NO_SEED}|\d+",
    sparsity=r"0|1|0\.\d*[1-9]",
    perturbation=PERTURBATION,
    perturbation_seed=rf"{grid.NO_SEED}|\d+",
