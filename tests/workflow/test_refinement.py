"""Rounds of refinement on made-up metrics, until nothing is missing."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from measured import METRICS

from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.errors import DamagedFileError, UserError
from ltpipe.workflow import grid
from ltpipe.workflow.refinement import Refinement, refined, refinement, rounds, tickets_at_most

FALLS = {"wanda": "0.435", "magnitude": "0.301", "random": "0.02"}
"""Up to where tickets of a criterion win."""


def study(to=0.01, **axes):
    spanned = {
        "criteria": ["wanda", "magnitude", "random"],
        "scopes": ["layer"],
        "sparsities": [0.3, 0.5],
        "seeds": [4],
    }
    return {
        "models": {"tiny": {}},
        "data": {"words": {}},
        "grid": {**spanned, "refine": to and {"to": to}, **axes},
        "evaluate": {"data": None, "settings": {}},
        "score": {"data": None, "hybrids": {}, "settings": {}},
        "recover": {},
    }


def measure(folder, tickets):
    """Metrics of tickets, each written once."""
    paths = [Path(folder, ticket.named(grid.TICKET)) for ticket in tickets]
    for path, ticket in zip(paths, tickets, strict=True):
        wins = Decimal(ticket.sparsity) <= Decimal(FALLS[ticket.criterion])
        seed = None if ticket.seed == grid.NO_SEED else int(ticket.seed)
        changes = {axis: getattr(ticket, axis) for axis in ("model", "data", "criterion", "scope", "sparsity")}
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(METRICS, **changes, seed=seed, performance_retention=0.95 if wins else 0.8).write(path)
    return paths


def run(folder, config):
    """All rounds, as the workflow makes them; the tickets that there are before each, and at the end."""
    present, before = [grid.tickets(config, "tiny")], None
    for number in range(rounds(config)):
        path = Path(folder, f"round-{number}.json")
        to = config["grid"]["refine"]["to"]
        seeds = tuple(config["grid"]["seeds"]) if "random" in config["grid"]["criteria"] else ()
        refinement("tiny", measure(folder, present[-1]), Sparsity.of(to).canonical, seeds, before).write(path)
        present.append(refined(config, "tiny", path))
        before = path
    return present


def sparsities(tickets, criterion, **axes):
    return [
        ticket.sparsity
        for ticket in tickets
        if ticket.criterion == criterion and all(getattr(ticket, axis) == value for axis, value in axes.items())
    ]


def test_every_curve_is_halved_until_its_bracket_is_narrow_and_winners_have_controls(tmp_path):
    config = study()
    present = run(tmp_path, config)
    assert rounds(config) == 6, "{0 to 0.3} takes five, and one is for controls"
    found = present[-1]
    assert sparsities(found, "wanda") == ["0.3", "0.4", "0.42", "0.43", "0.44", "0.45", "0.5"]
    assert sparsities(found, "magnitude") == ["0.3", "0.31", "0.32", "0.35", "0.4", "0.5"]
    assert sparsities(found, "random") == ["0.02", "0.03", "0.04", "0.08", "0.15", "0.3", "0.43", "0.5"]
    assert [len(tickets) for tickets in present] == sorted(len(tickets) for tickets in present)
    added = len(found) - len(present[0])
    assert added == 5 + 4 + 5 + 1 <= tickets_at_most(config, "tiny") == 3 * 5 + 2
    again = refinement("tiny", measure(tmp_path, found), "0.01", (4,), tmp_path / "round-5.json")
    assert again == Refinement.read(tmp_path / "round-5.json"), "a further round finds nothing"


def test_texts_and_seeds_are_refined_by_themselves(tmp_path):
    config = study(criteria=["wanda", "random"], seeds=[4, 7])
    config["data"]["prose"] = {}
    found = run(tmp_path, config)[-1]
    for data in ("words", "prose"):
        assert sparsities(found, "random", data=data, seed="7") == sparsities(found, "random", data=data, seed="4")
        assert "0.43" in sparsities(found, "random", data=data, seed="7")
    shared = {ticket.named(grid.MASK) for ticket in found}
    assert 2 * len(shared) == len(found), "texts share masks"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (study(to=None), 0),
        (study(to=0.5), 0),  # every bracket is as narrow
        (study(to=0.2), 2),  # {0 to 0.3} in one step, and controls
        (study(to=0.2, criteria=["wanda"]), 1),
        (study(scopes=["2of4"]), 0),  # patterns have one sparsity
        (study(scopes=["2of4", "heads"]), 6),
    ],
)
def test_rounds_follow_from_the_configuration(config, expected):
    assert rounds(config) == expected
    assert (tickets_at_most(config, "tiny") == 0) == (expected == 0)


def test_patterns_are_left_alone(tmp_path):
    config = study(scopes=["2of4", "layer"], criteria=["magnitude"])
    found = run(tmp_path, config)[-1]
    assert sparsities(found, "magnitude", scope="2of4") == ["0.5"]
    assert len(sparsities(found, "magnitude", scope="layer")) > 2


def test_what_was_found_for_another_configuration_is_not_known(tmp_path):
    config = study()
    present = run(tmp_path, config)
    path = tmp_path / "round-5.json"
    assert refined(config, "tiny", path) == present[-1]
    for other in (study(to=0.02), study(seeds=[4, 5]), study(criteria=["wanda"])):
        assert refined(other, "tiny", path) == grid.tickets(other, "tiny")
    assert refined(config, "tiny", tmp_path / "absent") == present[0]


def test_what_is_no_ticket_of_the_model_or_no_width_is_refused(tmp_path):
    (ticket, *_) = measure(tmp_path, grid.tickets(study(), "tiny"))
    with pytest.raises(UserError, match="not the metrics of a ticket of model 'other'"):
        refinement("other", [ticket], "0.01")
    for to in ("0", "0.0001", "2", "x"):
        with pytest.raises(UserError, match=to):
            refinement("tiny", [ticket], to)
    with pytest.raises(DamagedFileError):
        refined(study(), "tiny", ticket)
