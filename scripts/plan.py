"""Say what every stage of a study will need, and write it as JSON."""

import json
from pathlib import Path

from ltpipe.planning.study import fits, plan_study
from ltpipe.planning.table import print_plan, verdict, write_plan
from ltpipe.runtime import stage
from ltpipe.runtime.errors import UserError


def main(*, study: str, output: Path) -> None:
    """Say what every stage of a study will need, and write it as JSON.

    Args:
        study: checked configuration, with all defaults, as JSON.
        output: JSON file to write.

    Raises:
        UserError: something does not fit.
    """
    plan = plan_study(json.loads(study))
    write_plan(plan, output)
    print_plan(plan)
    if not fits(plan):
        raise UserError(verdict(plan))


if __name__ == "__main__":
    stage.run(main)
