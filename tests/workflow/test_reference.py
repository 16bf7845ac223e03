"""The reference of configuration keys says what the schema says."""

from pathlib import Path

import yaml

from ltpipe.workflow.reference import keys, reference

ROOT = Path(__file__).parents[2]
SCHEMA = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")


def described(schema) -> list[str]:
    """Descriptions of all values of a schema that hold no others."""
    if not isinstance(schema, dict):
        return []
    properties = schema.get("properties", {})
    named = schema.get("additionalProperties")
    inside = [*properties.values(), *(named,) * isinstance(named, dict), *schema.get("$defs", {}).values()]
    own = [schema["description"]] if "default" in schema and not properties and schema["default"] != {} else []
    return own + [text for part in inside for text in described(part)]


def test_the_page_is_current():
    assert reference(SCHEMA) == PAGE, "run make reference"


def test_every_value_with_a_default_stands_in_the_page():
    texts = described(SCHEMA)
    assert len(texts) > 60
    assert [text for text in texts if text.replace("|", "\\|") not in PAGE] == []


def test_a_key_that_may_be_absent_and_holds_others_stands_above_them():
    schema = {
        "description": "when to stop",
        "default": None,
        "required": ["after"],
        "properties": {
            "after": {"description": "steps | epochs", "type": "integer"},
            "rule": {"$ref": "#/$defs/rule"},
            "kind": {"const": "own"},
        },
    }
    rows = keys("stop", schema, {"rule": {"description": "of <stopping>", "default": "first"}})
    assert [str(row) for row in rows] == [
        "| `stop` | when to stop | `null` |",
        "| `stop.after` | steps \\| epochs | required |",
        '| `stop.rule` | of &lt;stopping> | `"first"` |',
    ]
