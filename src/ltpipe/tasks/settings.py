"""What a study says of a task, and whether the harness that has the tasks is there."""

from dataclasses import dataclass
from importlib.util import find_spec

from ltpipe.runtime.errors import UserError


@dataclass(frozen=True)
class TaskSettings:
    """A task, or a group of tasks, of lm-evaluation-harness.

    Attributes:
        task: its name in the harness; in the folder, if there is one.
        num_fewshot: number of examples before each question; None takes the task's own.
        limit: number of documents, the first ones; None takes all.
        folder: source of a folder of YAML files with tasks of one's own.
    """

    task: str
    num_fewshot: int | None = None
    limit: int | None = None
    folder: str | None = None


def check_installed(where: str = "tasks") -> None:
    """Refuse tasks without the harness.

    Raises:
        UserError: lm-evaluation-harness is not installed; says how to get it.
    """
    if find_spec("lm_eval") is None:
        raise UserError(f"{where}: lm-evaluation-harness is not installed; pip install 'ltpipe[tasks]'")
