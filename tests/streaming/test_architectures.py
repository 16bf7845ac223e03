"""The page of architectures, against what the installed transformers gives."""

import re
from pathlib import Path

import pytest

from benchmarks.architectures import judge_class, names, page, sweep

PAGE = Path(__file__).parents[2] / "docs/architectures.md"


def written() -> dict[str, str]:
    """Verdicts of the page, by model type."""
    return dict(re.findall(r"^\| (\S+) \| \w+ \| ([^|]+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))


def test_the_page_has_every_causal_class_and_none_that_is_wrong():
    verdicts = written()
    assert list(verdicts) == list(names())
    assert set(verdicts.values()) <= {"equal", "in memory", "refused", "not built"}


def test_a_class_is_judged_on_the_way_that_a_user_goes(tmp_path):
    row = judge_class("llama", "LlamaForCausalLM", tmp_path)
    assert (row.verdict, row.reason) == ("equal", "")
    assert row.difference < 1e-5
    assert str(row) in page([row])


@pytest.mark.slow
def test_what_the_page_calls_equal_is_equal():
    expected = {name for name, verdict in written().items() if verdict == "equal"}
    assert {row.name for row in sweep(expected) if row.verdict == "equal"} == expected
