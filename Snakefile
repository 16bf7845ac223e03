import os
import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.20")
sys.path.insert(0, str(Path(workflow.basedir) / "src"))

from ltpipe.runtime.errors import UserError
from ltpipe.workflow.configfile import read_config
from ltpipe.workflow.console import Console

# Jobs are named when they start, and Ctrl-C is one line.
if workflow.is_main_process and not workflow.dryrun:
    console = Console.of(logger, quiet="rules" in map(str, workflow.output_settings.quiet or ()))

# Strictly: Snakemake itself takes the last of two equal keys.
try:
    for file in workflow.config_settings.configfiles or ["config/config.yaml"]:
        read_config(Path(file))
except UserError as error:
    sys.exit(f"error: {error}")

# Snakemake would merge a --configfile into this one, key by key; a study is what one file says.
if not workflow.config_settings.configfiles:

    configfile: "config/config.yaml"


# The system that the locked dependencies are tested on. Without --software-deployment-method nothing is pulled.
container: "docker://python:3.11-bookworm"


include: "workflow/rules/common.smk"
include: "workflow/rules/prepare.smk"
include: "workflow/rules/scores.smk"
include: "workflow/rules/oneshot.smk"
include: "workflow/rules/iterative.smk"
include: "workflow/rules/studies.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/robustness.smk"
include: "workflow/rules/analysis.smk"
include: "workflow/rules/export.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/plan.smk"


rule all:
    default_target: True
    input:
        rules.report.output,


onsuccess:
    # make prints the table itself, since this is not run when there was nothing to do. A plan has no table.
    if "MAKELEVEL" not in os.environ and Path(rules.report.output.sums).exists():
        folder = Path(rules.report.output.sums).parent
        shell("python scripts/print_table.py --report {folder:q}")


onerror:
    if console.interrupted:
        sys.exit(130)
