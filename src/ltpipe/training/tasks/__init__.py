"""The tasks, one file each: `my_task.py` is the task `my-task` of the configuration; its last line names the class."""

from pkgutil import iter_modules


def task_names() -> list[str]:
    """Names of all tasks; none of them is imported."""
    return sorted(name.replace("_", "-") for _, name, _ in iter_modules(__path__))
