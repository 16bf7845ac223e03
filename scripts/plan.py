"""Plan what every stage of a study will need, and write the plan as JSON."""

from pathlib import Path

from ltpipe.planning.stages import fits
from ltpipe.planning.study import plan_study
from ltpipe.planning.table import print_plan, verdict, write_plan
from ltpipe.runtime import stage
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.jsonfiles import read_object
from ltpipe.workflow.config import check_config


def main(*, study: str, output: Path) -> None:
    """Plan what every stage of a study will need, and write the plan as JSON.

    Args:
        study: checked configuration, with all defaults, as JSON.
        output: JSON file to write.

    Raises:
        UserError: something does not fit.
    """
    try:
        config = read_object(study)
    except ValueError as error:
        raise UserError(f"study: not JSON ({error})") from None
    checked = check_config(config)
    plan = plan_study(checked)
    write_plan(plan, checked, output)
    print_plan(plan)
    if not fits(plan):
        raise UserError(verdict(plan))


if __name__ == "__main__":
    stage.run(main)
