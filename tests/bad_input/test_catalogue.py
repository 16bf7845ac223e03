"""Every case of the catalogue ends with one line and status 1, and writes and changes nothing."""

import pytest
from bad_input.case import command, expand
from bad_input.catalogue import CATALOGUE
from bad_input.page import PAGE, current
from bad_input.running import call, one_line

CASES = {name: case for cases in CATALOGUE.values() for name, case in cases.items()}


def test_the_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == current(), "run python -m bad_input.page in the folder tests"


def test_every_case_has_a_name_of_its_own():
    assert sum(map(len, CATALOGUE.values())) == len(CASES) > 100


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name, study, tmp_path):
    case, here, output = CASES[name], tmp_path / "in", tmp_path / "out"
    here.mkdir()
    case.make(here, study)
    given, before = sorted(here.rglob("*")), study.files()
    ended = call(case.script, *command(case, study, here, output))
    assert ended.code == 1, ended.err
    message = one_line(ended)
    assert [word for word in case.words if expand(word, study, here) not in message] == [], message
    assert ended.out == ""
    # transformers has its own say about a checkpoint; nothing else is on the terminal
    assert case.script == "checkpoint" or ended.err.count("\n") == 1
    assert sorted(here.rglob("*")) == given
    assert [path for path in output.rglob("*") if path.is_file()] == [], "half-written"
    assert [path.name for path in tmp_path.iterdir() if path not in (here, output)] == [], "half-written"
    assert study.files() == before
