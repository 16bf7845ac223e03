"""Findings on made-up studies in which they hold, do not hold, or cannot be told."""

import numpy as np
import pytest
from studies import KEPT, TOTAL, like_the_paper, line, record, study

from ltpipe.reporting.tables.findings import COLUMNS, findings_table
from ltpipe.reporting.trainings import Trainings

BRANCHES = ("ticket", "reinitialised-1", "reinitialised-2", "shuffled-1")
FASTER = "Tickets stop earlier than re-initialised tickets, at 21.1% of the weights"
BETTER = "Tickets are more accurate than re-initialised tickets, at 21.1% of the weights"
NO_WORSE = "Tickets are at most 0.2 points less accurate than the dense model, down to 8.7% of the weights"


def findings(records, lines=()):
    table = findings_table(Trainings(list(records)), list(lines))
    assert list(table.columns) == list(COLUMNS)
    return {row["finding"]: (row["holds"], row["evidence"]) for row in table.to_dict("records")}


def tickets(offsets, replicates=5, noise=0.0002):
    """Tickets whose accuracy differs from the dense one by `offsets` (points) at levels 1, 2, …, give or take noise."""
    noise = noise * np.array([[1, -1, 2, -2, 0]]).T
    for replicate in range(replicates):
        base = 0.97 + 0.005 * replicate
        yield record(replicate=replicate, accuracy=base)
        for level, offset in enumerate(offsets, 1):
            yield record("ticket", level, replicate, float(base + offset / 100 + noise[replicate, 0]))


def test_all_hold_where_tickets_are_like_the_papers():
    found = findings(
        study(like_the_paper, 5, range(13), BRANCHES), [line(rep, 0.005 + 0.001 * rep) for rep in range(5)]
    )
    assert {holds for holds, _ in found.values()} == {"yes"}
    assert list(found) == [
        NO_WORSE,
        *(
            f"Tickets {claim} than {control}, at {weights} of the weights"
            for control in ("re-initialised tickets", "shuffled masks")
            for weights in ("21.1%", "13.5%")
            for claim in ("stop earlier", "are more accurate")
        ),
        "Trainings from one rewinding point with different data orders are linearly connected (barrier below 2%), "
        "at level 0",
    ]


# Tickets no worse than the dense model


def test_no_worse_names_how_far_it_goes():
    holds, evidence = findings(tickets([0.0] * 11 + [-0.4]))[NO_WORSE]
    assert holds == "yes"
    assert evidence == (
        "Shown down to 8.7% of the weights (level 11); difference +0.00 points [-0.04, +0.04] (5 replicates) at 8.7% "
        "of the weights (level 11); difference -0.40 points [-0.44, -0.36] (5 replicates) at 7.0% of the weights "
        "(level 12)."
    )


@pytest.mark.parametrize(
    ("offset", "holds"),
    # the interval reaches 0.0393 points to either side: 2.7764 * 0.0158 / sqrt(5) of the noise above
    [(0.3, "yes"), (-0.155, "yes"), (-0.165, "undecided"), (-0.2, "undecided"), (-0.235, "undecided"), (-0.245, "no")],
)
@pytest.mark.parametrize("level", [1, 6, 11])
def test_one_level_decides_by_its_interval(offset, holds, level):
    offsets = [0.0] * 12
    offsets[level - 1] = offset
    found, evidence = findings(tickets(offsets))[NO_WORSE]
    assert found == holds
    if holds != "yes":
        goes_to = (
            f"Shown down to {100 * KEPT[level - 1] / TOTAL:.1f}% of the weights" if level > 1 else "Shown at no level"
        )
        assert evidence.startswith(goes_to)
        assert f"difference {offset:+.2f} points" in evidence


def test_levels_beyond_the_claim_do_not_decide_it():
    assert findings(tickets([0.0] * 11 + [-5.0]))[NO_WORSE][0] == "yes"


def test_a_level_that_refutes_counts_behind_one_that_is_undecided():
    holds, evidence = findings(tickets([0.0, -0.2, 0.0, -3.0] + [0.0] * 8))[NO_WORSE]
    assert holds == "no"
    assert evidence.startswith("Shown down to 80.0% of the weights (level 1)")
    assert "-3.00 points [-3.04, -2.96] (5 replicates) at 41.1%" in evidence


def test_a_study_that_ends_before_says_nothing():
    assert NO_WORSE in findings(tickets([0.0] * 11))
    assert NO_WORSE not in findings(tickets([0.0] * 10))
    assert findings(one for one in tickets([0.0] * 12) if one.level > 0) == {}


# Tickets against controls


def controlled(difference, stops, replicates=5, level=7):
    """A ticket, and two re-initialised ones that differ by `difference` points and stop `stops` later on average."""
    for replicate in range(replicates):
        accuracy, spread = 0.95 + 0.005 * replicate, (replicate - 2) * 0.0005
        yield record("ticket", level, replicate, accuracy, 1000 + 300 * replicate)
        for seed, off in ((1, 0.01), (2, -0.01)):
            stop = 1000 + 300 * replicate + stops + 50 * (replicate - 2)
            yield record(f"reinitialised-{seed}", level, replicate, accuracy - difference / 100 + off + spread, stop)


@pytest.mark.parametrize(
    ("difference", "stops", "better", "faster"),
    [
        (0.2, 150, "yes", "yes"),  # intervals reach 0.098 points and 98 iterations to either side
        (0.05, 50, "undecided", "undecided"),
        (-0.05, -50, "undecided", "undecided"),
        (-0.2, -150, "no", "no"),
        (0.2, -150, "yes", "no"),
    ],
)
def test_faster_and_better_are_two_findings(difference, stops, better, faster):
    found = findings(controlled(difference, stops))
    assert len(found) == 2
    assert found[FASTER][0] == faster
    assert found[BETTER][0] == better


def test_evidence_has_the_numbers():
    found = findings(controlled(0.2, 150))
    assert found[FASTER][1] == (
        "21.1% of the weights (level 7): early stop 1,600 against 1,750; difference -150 iterations [-248, -52] "
        "(5 replicates)."
    )
    assert found[BETTER][1] == (
        "21.1% of the weights (level 7): test accuracy 96.00% against 95.80%; difference +0.20 points [+0.10, +0.30] "
        "(5 replicates)."
    )


def test_means_are_of_the_replicates_that_are_compared():
    assert findings([*controlled(0.2, 150), record("ticket", 7, 9, 0.5, 4000)]) == findings(controlled(0.2, 150))


def test_seeds_do_not_pass_for_replicates():
    """Copies of a control's training are no more evidence than one."""
    copies = [one for one in controlled(0.05, 50) if one.branch != "reinitialised-2"]
    more = [record(f"reinitialised-{seed}", 7, one.replicate, one.test_accuracy, one.early_stop_iteration)
            for one in copies if one.branch != "ticket" for seed in range(2, 30)]  # fmt: skip
    assert findings(copies) == findings([*copies, *more])


@pytest.mark.parametrize(
    ("kept", "stated"), [(0.211, "21.1%"), (0.2215, "21.1%"), (0.2005, "21.1%"), (0.222, "22.2%"), (0.008, "0.8%")]
)
def test_a_level_that_is_not_near_the_papers_is_stated_as_it_is(kept, stated):
    records = [
        record(branch, 3, replicate, 0.97 + 0.001 * replicate, kept=round(kept * TOTAL))
        for branch in ("ticket", "shuffled-1")
        for replicate in range(3)
    ]
    found = findings(records)
    assert len(found) == 2
    assert all(finding.endswith(f"shuffled masks, at {stated} of the weights") for finding in found)


def test_every_control_that_was_run_has_findings():
    kept = {1: 0.2, 2: 0.04}  # no level is near the papers', so that the nearest is stated
    records = [
        record(branch, level, replicate, 0.97 + 0.01 * (branch == "ticket"), kept=round(kept[level] * TOTAL))
        for branch, levels in (("ticket", (1, 2)), ("random-1", (1, 2)), ("reinitialised-1", (2,)))
        for level in levels
        for replicate in range(3)
    ]
    assert {finding.partition(" than ")[2] for finding in findings(records)} == {
        "re-initialised tickets, at 4% of the weights",
        "random masks, at 20% of the weights",
    }


def test_the_nearest_of_two_levels_is_taken():
    kept = {1: 0.205, 2: 0.213}
    records = [
        record(branch, level, replicate, 0.97, kept=round(kept[level] * TOTAL))
        for branch in ("ticket", "shuffled-1")
        for replicate in range(3)
        for level in kept
    ]
    assert all("(level 2)" in evidence for _, evidence in findings(records).values())


def test_controls_and_studies_that_are_not_there_give_no_rows():
    assert findings([]) == {}
    assert findings([record("ticket", 7, replicate) for replicate in range(3)]) == {}
    apart = [*(record("ticket", 7, replicate) for replicate in (0, 1)), *(record("shuffled-1", 7, r) for r in (2, 3))]
    assert findings(apart) == {}
    other = [record("ticket", 7, replicate, training="a") for replicate in range(3)]
    assert findings([*other, *(record("shuffled-1", 7, replicate, training="b") for replicate in range(3))]) == {}


# Never a verdict without an interval


def test_a_single_replicate_decides_nothing():
    found = findings(study(like_the_paper, 1, range(13), BRANCHES), [line(0, 0.001)])
    assert len(found) == 10
    assert {holds for holds, _ in found.values()} == {"undecided"}
    assert all("(no interval: 1 replicate)" in evidence for _, evidence in found.values())


def test_replicates_that_are_all_equal_decide_nothing():
    found = findings(
        record(branch, 7, replicate, 0.98, stop)
        for branch, stop in (("ticket", 1000), ("shuffled-1", 2000))
        for replicate in range(5)
    )
    holds, evidence = found["Tickets stop earlier than shuffled masks, at 21.1% of the weights"]
    assert holds == "undecided"
    assert "difference -1,000 iterations (no interval: 5 replicates, all equal)" in evidence


# Linear mode connectivity


@pytest.mark.parametrize(
    ("height", "holds"), [(0.015, "yes"), (0.0190, "undecided"), (0.0210, "undecided"), (0.025, "no")]
)
def test_barriers_by_their_interval(height, holds):
    # barriers spread by 0.158 points: the interval reaches 0.196 to either side
    found = findings([], [line(replicate, height + 0.001 * (replicate - 2), level=3) for replicate in range(5)])
    ((finding, (verdict, evidence)),) = found.items()
    assert finding.endswith("(barrier below 2%), at level 3")
    assert verdict == holds
    assert evidence.startswith("Level 3: barrier ")


def test_barriers_say_where_and_orders_are_averaged():
    records = [record("ticket", level, replicate, k=500) for level in (0, 3) for replicate in range(2)]
    lines = [
        line(replicate, height + 0.002 * replicate + 0.01 * level, level, order)
        for level in (0, 3)
        for replicate in range(2)
        for order, height in ((1, 0.002), (2, 0.008))
    ]
    found = [evidence for finding, (_, evidence) in findings(records, lines).items() if "connected" in finding]
    assert found[0].startswith("Level 0, 100.0% of the weights, k = 500: barrier 0.60 points [")
    assert found[1].startswith("Level 3, 51.3% of the weights, k = 500: barrier 3.60 points [")
    assert all(evidence.endswith("(2 replicates).") for evidence in found)
    unknown = findings([record("ticket", 0, replicate, k=None) for replicate in range(2)], lines[:4])
    assert "k not recorded" in next(iter(unknown.values()))[1]
