"""The `ltpipe` command."""

import sys
from math import inf
from pathlib import Path

from ltpipe.runtime import stage
from ltpipe.runtime.errors import UserError


def plan(
    *,
    config: Path = Path("config/config.yaml"),
    schema: Path = Path("workflow/schemas/config.schema.yaml"),
    device_memory: float | None = None,
    output: Path | None = None,
) -> None:
    """Say what a study will need, from its configuration alone: no weights, no network, no accelerator.

    Prints, for each stage and model, the peaks of device and main memory, the disk space, and the batch sizes that
    fit. Ends with status 2 if something does not fit.

    Args:
        config: of the study.
        schema: of the configuration, in ltpipe's checkout.
        device_memory: GiB that tensors may take on the card; without it, what the configuration says.
        output: JSON file to write the plan to as well.
    """
    from ltpipe.planning.study import fits, plan_study
    from ltpipe.planning.table import print_plan, write_plan
    from ltpipe.workflow.config import check_config
    from ltpipe.workflow.configfile import read_config

    if device_memory is not None and not 0 < device_memory < inf:
        raise UserError(f"device_memory: {device_memory} is not allowed; allowed is a number of GiB above 0")
    checked = check_config(read_config(config), read_config(schema))
    planned = plan_study(checked, device_memory)
    if output is not None:
        write_plan(planned, output)
    print_plan(planned)
    if not fits(planned):
        sys.exit(2)


def check(
    *,
    config: Path = Path("config/config.yaml"),
    schema: Path = Path("workflow/schemas/config.schema.yaml"),
) -> None:
    """Check the configuration of a study, and run nothing.

    Snakemake reads a `--configfile` before it reads ltpipe: it takes the last of two equal keys, and evaluates a file
    that asks for it as Python. This command does neither.

    Args:
        config: of the study.
        schema: of the configuration, in ltpipe's checkout.
    """
    from ltpipe.workflow.config import check_config
    from ltpipe.workflow.configfile import read_config

    check_config(read_config(config), read_config(schema))


COMMANDS: dict[str, stage.Main] = {"plan": plan, "check": check}


def main() -> None:
    """Run the command that the arguments name."""
    stage.run(COMMANDS)


if __name__ == "__main__":
    main()
