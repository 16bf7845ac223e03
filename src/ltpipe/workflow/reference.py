"""The Markdown reference of configuration keys, made from the docstrings of the sections.

`make reference` writes docs/configuration.md.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import get_args

from ltpipe.runtime import stage
from ltpipe.runtime.files import atomic_write
from ltpipe.workflow.configuration.section import Key, Name, inner_section, keys, meaning
from ltpipe.workflow.configuration.study import StudySection
from ltpipe.workflow.configuration.training import TASKS

_INTRODUCTION = """\
# Configuration keys

{study}
[config/README.md](../config/README.md) explains how the keys work together. `<name>` stands for
your own name: {name}.

`make reference` makes this page from `src/ltpipe/workflow/configuration`.
"""
_TABLE = """\
| key | meaning | default |
|---|---|---|
{rows}
"""


def reference() -> str:
    """Return the page: all keys, a table for each key at the top and for each kind of task."""
    parts = [_INTRODUCTION.format(study=StudySection.__doc__, name=get_args(Name)[-1].description)]
    for name, field in StudySection.model_fields.items():
        text = meaning(field)
        absent = " Default: `null`." if field.default is None else ""
        section, between = inner_section(field.annotation)
        rows = keys(section, f"{name}{between}") if section else [Key(name, field)]
        parts.append(f"## {name}\n\n{text[0].upper()}{text[1:]}.{absent}\n\n{_table(rows)}")
    for kind, task in TASKS.items():
        rows = (key for key in keys(task) if key.path != "kind")
        parts.append(f"### A task of kind {kind}\n\n{_table(rows)}")
    return "\n".join(parts)


def row(key: Key) -> str:
    """Return a key's row of a table."""
    text = meaning(key.field).replace("|", "\\|").replace("<", "&lt;")
    default = "required" if key.field.is_required() else f"`{key.default}`"
    return f"| `{key.path}` | {text} | {default} |"


def _table(rows: Iterable[Key]) -> str:
    return _TABLE.format(rows="\n".join(map(row, rows)))


def main(*, output: Path) -> None:
    """Write the reference of configuration keys.

    Args:
        output: Markdown file to write.
    """
    with atomic_write(output) as file:
        file.write(reference().encode())


if __name__ == "__main__":
    stage.run(main)
