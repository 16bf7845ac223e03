"""The reference of configuration keys as Markdown, from the schema: what a key means is written there alone.

`make reference` writes docs/configuration.md.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltpipe.runtime import stage
from ltpipe.runtime.files import atomic_write
from ltpipe.workflow.code import SCHEMA
from ltpipe.workflow.configfile import read_config

Schema = dict[str, Any]

_INTRODUCTION = """\
# Configuration keys

{description}
[config/README.md](../config/README.md) explains how the keys work together. `<name>` stands for
your own name: {name}.

`make reference` makes this page from the schema.
"""
_TABLE = """\
| key | meaning | default |
|---|---|---|
{rows}
"""


@dataclass(frozen=True)
class Key:
    """A key that has a value of its own.

    Attributes:
        path: keys from the top, with dots between them.
        meaning: with what is allowed.
        default: as YAML has it, or `required`.
    """

    path: str
    meaning: str
    default: str

    def __str__(self) -> str:
        meaning = self.meaning.replace("|", "\\|").replace("<", "&lt;")
        return f"| `{self.path}` | {meaning} | {self.default} |"


def reference(schema: Schema) -> str:
    """All keys of a configuration, a table for each key at the top and for each kind of task."""
    definitions = schema["$defs"]
    parts = [_INTRODUCTION.format(description=schema["description"], name=definitions["name"]["description"])]
    for name, section in schema["properties"].items():
        rows = [*_inside(f"{name}.", section, definitions)] or [*keys(name, section, definitions)]
        parts.append(f"## {name}\n\n{_sentence(section)}\n\n{_table(rows)}")
        for kind, task in _kinds(section):
            options = [*_inside("", _resolved(task, definitions), definitions)]
            parts.append(f"### A task of kind {kind}\n\n{_table(options)}")
    return "\n".join(parts)


def keys(path: str, schema: Schema, definitions: Schema, required: bool = False) -> Iterator[Key]:
    """The key at `path`, unless it only holds others, and all below it."""
    schema = _resolved(schema, definitions)
    below = [*_inside(f"{path}.", schema, definitions)]
    if not below or schema.get("default", {}) is None:
        yield Key(path, schema["description"], "required" if required else _default(schema))
    yield from below


def _inside(prefix: str, schema: Schema, definitions: Schema) -> Iterator[Key]:
    needed = schema.get("required", [])
    for name, value in schema.get("properties", {}).items():
        if "const" not in value:
            yield from keys(f"{prefix}{name}", value, definitions, name in needed)
    yield from _inside(f"{prefix}<name>.", named, definitions) if (named := _named(schema)) else ()


def _named(schema: Schema) -> Schema:
    """The schema of what users give names of their own, where it has keys."""
    inside = schema.get("additionalProperties")
    return inside if isinstance(inside, dict) and "properties" in inside else {}


def _kinds(section: Schema) -> Iterator[tuple[str, Schema]]:
    """Kinds of task, and the schema of their options."""
    task = _named(section).get("properties", {}).get("task", {})
    for rule in task.get("allOf", []):
        yield rule["if"]["properties"]["kind"]["const"], rule["then"]


def _resolved(schema: Schema, definitions: Schema) -> Schema:
    reference = schema.get("$ref")
    return schema if reference is None else definitions[reference.rpartition("/")[2]]


def _table(rows: list[Key]) -> str:
    return _TABLE.format(rows="\n".join(map(str, rows)))


def _default(schema: Schema) -> str:
    return f"`{json.dumps(schema['default'], ensure_ascii=False)}`" if "default" in schema else ""


def _sentence(section: Schema) -> str:
    text = section["description"]
    absent = " Default: `null`." if section["default"] is None else ""
    return f"{text[0].upper()}{text[1:]}.{absent}"


def main(*, output: Path) -> None:
    """Write the reference of configuration keys.

    Args:
        output: Markdown file to write.
    """
    with atomic_write(output) as file:
        file.write(reference(read_config(SCHEMA)).encode())


if __name__ == "__main__":
    stage.run(main)
