"""The tasks, one file each: `my_task.py` is the configuration's task `my-task`; its last line names the class."""

from pkgutil import iter_modules


def task_names() -> list[str]:
    """Return the names of all tasks without importing them."""
    return sorted(name.replace("_", "-") for _, name, _ in iter_modules(__path__))
