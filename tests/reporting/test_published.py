"""Published numbers beside a report's: which belong together, and what is said of the difference."""

from pathlib import Path

import pytest
import yaml

from ltpipe import cli
from ltpipe.pruning.scopes import scope_named
from ltpipe.reporting.folder import CONFIG, ReportFolder, write_folder
from ltpipe.reporting.published import COLUMNS, beside_published, read_facts
from ltpipe.reporting.tables import tickets
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.frames import frame, parquet_bytes
from ltpipe.scoring.criterion import every_criterion
from ltpipe.solving.solver import solver_names
from ltpipe.workflow import grid
from ltpipe.workflow.config import load_config

STUDIES = sorted((Path(__file__).parents[2] / "config/published").glob("*.yaml"))


def report(folder, rows, length=4096):
    common = {"protocol": "wikitext2", "precision": "float16", "baseline_perplexity": 5.2, "data": "wikitext2"}
    table = frame([common | row for row in rows], tickets.TABLE.columns)
    config = yaml.safe_dump({"evaluate": {"sequence_length": length, "settings": {}}})
    write_folder(folder, {"tickets.parquet": parquet_bytes(table), CONFIG: config.encode()})
    return ReportFolder(folder)


def row(criterion, scope, perplexity, sparsity=0.5, **more):
    found = {"model": "llama-2-7b", "criterion": criterion, "scope": scope, "sparsity": sparsity}
    return found | {"perplexity": perplexity} | more


def test_same_methods_and_no_others(tmp_path):
    made = report(tmp_path, [
        row("wanda-sequential", "row", 6.42), row("sparsegpt", "row", 6.6), row("wanda", "row", 6.5),
        row("magnitude", "2of4", 60.0), row("magnitude", "2of4", 9.0, data="words", protocol="documents"),
    ])  # fmt: skip
    headings, rows = beside_published(made, read_facts())
    assert [line[:5] for line in rows] == [
        ["llama-2-7b", "dense", "5.20", "5.12", "1.016"],
        ["llama-2-7b", "wanda-sequential row 50%", "6.42", "6.42", "1.000"],
        ["llama-2-7b", "magnitude 2of4 50%", "60.00", "54.59", "1.099"],
    ]
    assert headings[5] == "what differs"
    assert [line[5].partition(":")[0] for line in rows] == ["none known", "calibration", "none known"]


def test_what_differs_is_said(tmp_path):
    made = report(tmp_path, [row("magnitude", "layer", 15.0, precision="bfloat16")], length=2048)
    _, rows = beside_published(made, read_facts())
    assert rows[-1][5] == "sequences of 2,048 tokens, published 4,096; bfloat16, published float16"


def test_one_line_without_such_tickets_or_facts(tmp_path, capsys):
    made = report(tmp_path / "report", [row("magnitude", "row", 15.0, model="mine")])
    with pytest.raises(UserError, match="no ticket with a published number; run a study of config/published"):
        beside_published(made, read_facts())
    with pytest.raises(UserError, match="cannot be read"):
        read_facts(tmp_path / "none.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="its columns are model, criterion"):
        read_facts(tmp_path / "other.csv")
    own = ",".join(COLUMNS) + "\nmine,magnitude,row,0.5,14,4096,float16,,me\n"
    (tmp_path / "own.csv").write_text(own)
    cli.published(tmp_path / "report", facts=tmp_path / "own.csv")
    assert "| 15.00 | 14.00 | 1.071 | none known | me |" in capsys.readouterr().out


def test_every_fact_is_of_a_ticket_that_a_study_makes():
    made = set()
    for study in STUDIES:
        config = load_config(study)
        made |= {(each.model, each.criterion, each.scope, float(each.sparsity)) for each in grid.tickets(config)}
        lengths = {fact.sequence_length for fact in read_facts() if fact.model in config["models"]}
        assert lengths == {config["evaluate"]["sequence_length"]}
    known = {*every_criterion(), *solver_names()}
    for fact in read_facts():
        assert fact.source
        if fact.criterion != "dense":
            assert fact.criterion in known
            scope_named(fact.scope)
            assert (fact.model, fact.criterion, fact.scope, fact.sparsity) in made
