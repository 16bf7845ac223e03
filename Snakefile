import os
import sys
from importlib.util import find_spec
from pathlib import Path

from snakemake.utils import min_version

min_version("9.20")

# A folder, or a URL if a module statement gives one. In a checkout, the Python code is in src.
HERE = Path(workflow.current_basedir.get_path_or_uri(secret_free=True))
if find_spec("ltpipe") is None:
    sys.path.insert(0, str(HERE / "src"))
try:
    from ltpipe.workflow.code import ROOT, check_workflow
    from ltpipe.workflow.configfile import check_files
    from ltpipe.workflow.console import Console
    from ltpipe.workflow.jobs import ending_in_one_line
except ImportError as error:
    sys.exit(f"error: {HERE}/Snakefile: {error}; pip install this ltpipe into {sys.executable}")

# One file defines a study, unless a module statement does.
files = workflow.config_settings.configfiles or [Path("config/config.yaml")]
with ending_in_one_line():
    check_workflow(HERE)
    folder = check_files([] if workflow.modifier.skip_configfile else files)

# Print a line when a job starts, and a single line on Ctrl-C.
if workflow.is_main_process and not workflow.dryrun and workflow.modifier.is_main_snakefile():
    console = Console.of(logger, quiet="rules" in map(str, workflow.output_settings.quiet or ()))

# Only without --configfile, which Snakemake would merge into this one key by key.
if not workflow.config_settings.configfiles:

    configfile: "config/config.yaml"


# The system that the locked dependencies are tested on. It is pulled only with --software-deployment-method.
container: "docker://python:3.11-bookworm"


include: ROOT / "workflow/rules/common.smk"
include: ROOT / "workflow/rules/prepare.smk"
include: ROOT / "workflow/rules/scores.smk"
include: ROOT / "workflow/rules/oneshot.smk"
include: ROOT / "workflow/rules/recovery.smk"
include: ROOT / "workflow/rules/iterative.smk"
include: ROOT / "workflow/rules/training.smk"
include: ROOT / "workflow/rules/robustness.smk"
include: ROOT / "workflow/rules/tasks.smk"
include: ROOT / "workflow/rules/analysis.smk"
include: ROOT / "workflow/rules/export.smk"
include: ROOT / "workflow/rules/report.smk"
include: ROOT / "workflow/rules/plan.smk"


rule all:
    default_target: True
    input:
        rules.report.output,


onstart:
    # Snakemake 9.27 keeps its default limit, 100 jobs a second, by a timer for every job that has started: each wakes
    # the scheduler once a second until the run ends. The limit is for queues of clusters, and others may set their own.
    limiter = getattr(workflow.scheduler, "job_rate_limiter", None)
    default = limiter and (limiter.max_jobs, limiter.timespan) == (100, 1)
    if default and workflow.local_exec:
        workflow.scheduler.job_rate_limiter = None


onsuccess:
    # `ltpipe run` prints the table itself, because this does not run if nothing was to do. A plan has no table.
    if "LTPIPE_RUN" not in os.environ and Path(rules.report.output.sums).exists():
        folder = Path(rules.report.output.sums).parent
        shell('python "$LTPIPE/scripts/print_table.py" --report {folder:q}')


onerror:
    if console.interrupted:
        console.say_stopped()
        sys.exit(130)
