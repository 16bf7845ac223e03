"""What studies cost: sums of plans, and the page that is computed from them."""

from pathlib import Path

import pytest

from benchmarks.study_cost import planned, study, tables, with_tables
from ltpipe.planning.cost import ANALYSES, GATHERING, Cost, cost, cost_line
from ltpipe.workflow import grid
from ltpipe.workflow.config import check_config

ROOT = Path(__file__).parents[2]
NAME = "HuggingFaceTB/SmolLM2-135M"
PARAMETERS = 134_515_008


@pytest.fixture(scope="module")
def model():
    (found,) = planned({NAME: 3}, ROOT / "README.md")
    return found


def test_every_job_of_the_workflow_is_counted(model):
    """Against the grid, which the rules' targets come from, and what each target needs."""
    config = check_config(study(f"hub:{NAME}@main", ROOT / "README.md"))
    evaluated = len(grid.tickets(config)) + len(grid.baselines(config))
    masks, histograms = len(grid.masks(grid.tickets(config))), len(config["grid"]["criteria"])
    texts, scores = 2, len(grid.scored_criteria(config))
    assert model.cost.jobs == 1 + texts + scores + histograms + masks + evaluated + ANALYSES
    assert evaluated == masks + 1 == 201


def test_operations_are_two_a_parameter_and_token_and_eight_for_gradients(model):
    by_stage = {stage.stage: stage.operations for stage in model.plan}
    assert by_stage["evaluation"] == 2 * PARAMETERS * 256 * 512 * 201
    assert by_stage["score wanda"] == 2 * PARAMETERS * 64 * 512
    assert by_stage["score taylor"] == 8 * PARAMETERS * 64 * 512
    assert by_stage["score synflow"] == 8 * PARAMETERS * 2 * 100  # one sequence of two, a hundred rounds
    assert by_stage["mask"] == by_stage["checkpoint"] == 0


def test_the_page_has_the_sums(model):
    spent = model.cost * 3 + Cost(jobs=GATHERING)
    by_model, by_stage = tables([model])
    assert by_model.rows[-1][1] == f"{spent.jobs:,}"
    assert sum(int(row[1].replace(",", "")) for row in by_stage.rows) == spent.jobs
    assert by_model.rows[0][4] == f"{spent.operations / 10e12 / 3600:,.0f}"
    page = with_tables("# Title\n", [by_model, by_stage])
    assert with_tables(page, [by_model, by_stage]) == page, "renewing a page adds nothing"


def test_the_line_for_people():
    assert cost([]) == Cost()
    spent = Cost(3, 2**30, 72 * 10**15)
    assert cost_line(spent) == "total: 3 jobs, 1.00 GiB of disk, 7.2e+16 operations"
    assert cost_line(spent, 10).endswith("about 2.00 device hours at 10 tera-operations per second")
