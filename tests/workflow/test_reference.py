"""The reference of configuration keys says what the sections say."""

from pathlib import Path

from pydantic import Field

from ltpipe.workflow.configuration.section import Section, keys, meaning
from ltpipe.workflow.configuration.study import StudySection
from ltpipe.workflow.configuration.training import TASKS
from ltpipe.workflow.reference import reference, row

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")


class Rule(Section):
    """Of stopping."""

    kind: str = Field("first", description="of <stopping>")


class Stop(Section):
    """When to stop."""

    after: int = Field(description="steps | epochs")
    rule: Rule = Rule()


class Study(Section):
    """A study."""

    stop: Stop | None = None
    named: dict[str, Rule] = Field({}, description="rules by name")


def test_the_page_is_current():
    assert reference() == PAGE, "run make reference"


def test_every_key_has_a_meaning_that_stands_in_the_page():
    found = [*keys(StudySection), *(key for task in TASKS.values() for key in keys(task))]
    assert len(found) > 100
    texts = [meaning(key.field) for key in found]
    assert all(texts)
    assert [text for text in texts if text.replace("|", "\\|") not in PAGE and text.capitalize() not in PAGE] == []


def test_a_key_that_may_be_absent_and_holds_others_stands_above_them():
    assert [row(key) for key in keys(Study)] == [
        "| `stop` | when to stop | `null` |",
        "| `stop.after` | steps \\| epochs | required |",
        '| `stop.rule.kind` | of &lt;stopping> | `"first"` |',
        '| `named.<name>.kind` | of &lt;stopping> | `"first"` |',
    ]
