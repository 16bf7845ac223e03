"""What all rules share: the checked configuration and the code that a stage depends on. No rules."""

import re
import shlex
from functools import cache

from ltpipe.data.rows import LAST_SUFFIXES
from ltpipe.evaluation.perturbation import NAME as PERTURBATION
from ltpipe.pruning.scopes import scope_named
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import check_writable
from ltpipe.runtime.sources import Source
from ltpipe.scoring.criterion import criterion_names, scored_criterion
from ltpipe.workflow import grid, refinement, resources, studies
from ltpipe.workflow.arguments import braced
from ltpipe.workflow.closure import digest, import_closure
from ltpipe.workflow.config import check_config
from ltpipe.workflow.configfile import read_config
from ltpipe.workflow.settings import Settings, level_mask_of, prunes_trained, rewinds_weights

# Jobs run the code of this checkout, with the Python that runs snakemake, whatever the caller's PATH says.
shell.prefix(
    f"set -euo pipefail; export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"
    f" PYTHONPATH={shlex.quote(f'{workflow.basedir}/src')}; "
)


def checked(config: dict) -> dict:
    """The configuration with its defaults; ends the run with one line if it cannot be run."""
    schema = Path(workflow.basedir, "workflow/schemas/config.schema.yaml")
    try:
        check_writable(Path("results"))  # snakemake would say it less clearly, or not in one line
        return check_config(config, read_config(schema))
    except UserError as error:
        sys.exit(f"error: {error}")  # a WorkflowError would add three lines about this file


config.update(checked(config))
SETTINGS = Settings(config)


@cache  # the same for every job of a rule
def code(script: str, *plugins: Path) -> str:
    """Digest of the modules that a script runs: editing one of them reruns the script's stage and what follows.

    A param, since Snakemake looks at every input of every job again and again, and a script has some 60 modules.
    Plugins are modules that it finds by name, which no import statement says.
    """
    package = Path("src/ltpipe")
    found = {path for file in (Path(script), *plugins) for path in import_closure(file, package)}
    return digest(found | set(plugins))


def no_modules(wildcards) -> list[Path]:
    return []


def settings(name: str, script: str, modules=no_modules, **texts: str):
    """The one param that Snakemake records of a rule, which is all that a job is told, with the code that it runs.

    A dict, since of several params Snakemake compares the set of their values: their names, order and number are
    lost. What else stands under `params` is made of input and output, and such params are not recorded.

    Args:
        name: of the rule; which keys of the configuration it depends on is in src/ltpipe/workflow/settings.py.
        script: that it runs.
        modules: those that the script of a job finds by name.
        texts: that the rule is told besides.
    """
    return lambda wildcards: {
        "code": code(script, *modules(wildcards)),
        **SETTINGS.of(name, dict(wildcards.items())),
        **texts,
    }


# Begins the command of every stage: where it writes its log to, and what its results are made with.
TOLD = "LTPIPE_LOG={log:q} LTPIPE_MADE_WITH={params.settings[made_with]:q} "


# Modules that find sources, which stages import by the names in the configuration.
PLACES = sorted(Path("src/ltpipe/runtime/places").glob("*.py"))


def places(wildcards) -> list[Path]:
    return PLACES


def model_sources(wildcards) -> list[Source]:
    """Where a model comes from, and its tokenizer if that lies elsewhere."""
    model = config["models"][wildcards.model]
    return [
        Source(model[key], f"models.{wildcards.model}.{key}")
        for key in ("source", "tokenizer")
        if model[key]
    ]


def text_source(wildcards) -> Source:
    return Source(config["data"][wildcards.data]["source"], f"data.{wildcards.data}.source")


def files_of(source: Source, *suffixes: str) -> list[str]:
    """The files of a source as inputs; ends the run with one line if Snakemake cannot name one."""
    try:
        return source.files(*suffixes)
    except UserError as error:
        sys.exit(f"error: {error}")


def on_cluster() -> bool:
    """Whether jobs run on other machines than this one, or this is such a job. It is not known before there are jobs."""
    return workflow.non_local_exec or workflow.remote_exec


def job_threads(wildcards) -> int:
    """Processors that the scheduler sets aside for a job that computes.

    On a cluster `auto` is --max-threads, which jobs are told: how many processors their node has is not for them.
    """
    if config["threads"] != "auto":
        return config["threads"]
    settings = workflow.resource_settings
    return (settings.max_threads if on_cluster() else settings.cores) or 1


def compute_threads(wildcards) -> int:
    """Threads that such a job starts, 0 for all it may use. A resource, since it must not rerun anything."""
    return 0 if config["threads"] == "auto" and not on_cluster() else job_threads(wildcards)


def device_memory() -> str:
    """GiB that an evaluation's tensors may take, 0 for what is free. A resource, since it changes no result."""
    allowed = config["evaluate"]["device_memory"]
    return "0" if allowed == "auto" else str(allowed)


def gpus() -> int:
    """Accelerators of an evaluation job."""
    settings = config["evaluate"]
    return {"cpu": 0, "auto-shard": settings["devices"]}.get(settings["device"], 1)


# Begins the command of a job that computes on devices: it gets some of its own (docs/gpus.md). Text of shell commands.
WITH_DEVICES = "python -S -m ltpipe.runtime.slots {resources.gpu} -- "


def study_plan() -> resources.Plan:
    """What `ltpipe plan` has found out, where it has. No input of any stage: a new plan must not rerun anything."""
    try:
        plan = resources.read_plan(Path(grid.PLAN, "plan.json"), config)
    except UserError as error:
        sys.exit(f"error: {error}")
    if workflow.is_main_process:
        for model, sections in plan.outdated.items():
            logger.warning(
                f"{grid.PLAN}/plan.json is not for this configuration of the model {model} ({', '.join(sections)}"
                " changed): what its jobs ask a cluster for is estimated from file sizes; make plan says it again"
            )
    return plan


PLAN = study_plan()


def job_gpus(wildcards, rule: str) -> int:
    """Accelerators of a job of any rule."""
    device = resources.STAGES[rule].device
    return {"": lambda _: 0, "evaluate": lambda _: gpus(), "imp": training_gpus}[device](wildcards)


def read_mb(input) -> float:
    """Size of what a job reads, MB, its code left out. `input.size_mb` says the same, and makes a large dry run half
    as slow again.
    """
    return sum(file_size(file) for file in input if not file.endswith(".py")) / 2**20


@cache
def file_size(path: str) -> int:
    return Path(path).stat().st_size


def memory(wildcards, input, attempt, rulename) -> int:
    """Main memory of a job, MB. Files that are not there yet have a size when the job is submitted."""
    planned = resources.planned_mb(PLAN, rulename, wildcards)
    size = 0 if planned else read_mb(input)
    return resources.memory_mb(rulename, planned, size, job_gpus(wildcards, rulename), attempt)


def runtime(wildcards, input, attempt, rulename, threads) -> int:
    """Minutes that a job may take."""
    return resources.minutes(
        config,
        rulename,
        wildcards,
        read_mb(input),
        job_gpus(wildcards, rulename),
        threads,
        attempt,
    )


def seed_option(axis: str, option: str):
    """A param: the option that says a seed; none where nothing is drawn. Made of the output's name, so not recorded."""

    def of(wildcards, output):
        seed = wildcards[axis]
        return "" if seed == grid.NO_SEED else f"--{option} {seed}"

    return of


def top_tokens() -> list[str]:
    """The file of a dense model's likeliest tokens; none where tickets are not compared with them."""
    return [grid.TOP_TOKENS] if config["evaluate"]["top_k"] else []


def top_tokens_option(files) -> str:
    return f"--top-tokens {files}" if files else ""


def criterion_file(criterion: str) -> Path:
    """The module of a criterion with a score stage."""
    return Path("src/ltpipe/scoring/criteria", criterion.replace("-", "_")).with_suffix(".py")


def criterion_files(wildcards) -> list[Path]:
    return [criterion_file(wildcards.criterion)]


def allocation_file(scope: str) -> list[Path]:
    """The module of a scope's allocation, for scopes that have one."""
    name = getattr(scope_named(scope), "allocation", None)
    return (
        [Path("src/ltpipe/pruning/allocations", name.replace("-", "_")).with_suffix(".py")]
        if name
        else []
    )


def allocation_files(wildcards) -> list[Path]:
    return allocation_file(wildcards.scope)


def all_allocation_files(wildcards) -> list[Path]:
    """Those of all scopes of the grid."""
    scopes = config["grid"]["scopes"] if config["grid"] else []
    return [file for scope in sorted(scopes) for file in allocation_file(scope)]


def score_file(wildcards) -> list[str]:
    """The scores that a criterion ranks by; none where it ranks the weights themselves."""
    return [grid.SCORES] if grid.has_scores(config, wildcards.criterion) else []


def tickets_after(model: str, number: int) -> list[grid.Ticket]:
    """The tickets of a model that are known of after so many rounds of refinement, those of the grid with none.

    Before that round has been, those that are known now: a checkpoint has what reads it asked again. It is read here,
    not by `checkpoints.refinement.get`: of a job that waits for a checkpoint Snakemake looks at no param, so that
    results without refinement would stay as they are.
    """
    rounds = round_file(model, number)
    try:
        return (
            refinement.refined(config, model, Path(rounds[0]))
            if rounds
            else grid.tickets(config, model)
        )
    except UserError as error:
        sys.exit(f"error: {error}")


def round_file(model: str, number: int) -> list[str]:
    """What a round has found; nothing before the first."""
    return [grid.REFINEMENT.format(model=model, round=number)] if number else []


def last_round(wildcards) -> list[str]:
    return round_file(wildcards.model, refinement.rounds(config))


def every_ticket(wildcards) -> list[grid.Ticket]:
    return tickets_after(wildcards.model, refinement.rounds(config))


def every_mask(wildcards) -> list[str]:
    return grid.masks(every_ticket(wildcards))


def listed(name: str):
    """A param: the input files of that name as one shell command can take them, thousands of them too."""
    return lambda wildcards, input: braced(input.get(name, []))


def any_of(names) -> str:
    """Regular expression of one of some names, or of nothing if there are none."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    model=any_of(config["models"]),
    data=any_of(config["data"]),
    study=any_of(config["imp"]),
    replicate=r"\d+",
    level=r"\d+",
    branch=any_of({cell.branch for cell in studies.trainings(config)}),
    order=r"\d+",
    round=r"\d+",
    criterion="[a-z0-9-]+",
    scope="[a-z0-9-]+",
    seed=rf"{grid.NO_SEED}|\d+",
    sparsity=r"0|1|0\.\d*[1-9]",
    perturbation=PERTURBATION,
    perturbation_seed=rf"{grid.NO_SEED}|\d+",
