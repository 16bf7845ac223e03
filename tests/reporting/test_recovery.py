"""The table of recoveries: what is compared with what, on texts and tasks, and the figure."""

import numpy as np
import pytest
from reports import frame, ticket

from ltpipe.analysis.items import mcnemar, paired_interval
from ltpipe.evaluation.quality import perplexity
from ltpipe.recovery.record import RecoveryRecord
from ltpipe.reporting.recovery_figures import recovery_figure
from ltpipe.reporting.tables.comparisons import COLUMNS as COMPARISONS
from ltpipe.reporting.tables.curves import COLUMNS as CURVES
from ltpipe.reporting.tables.recovery import TABLE, recovery_table
from ltpipe.reporting.verdicts import verdicts
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.frames import frame as typed
from ltpipe.runtime.frames import is_missing
from ltpipe.tasks.results import TaskResults, TaskScore

WANDA, AFTER, CONTROL = ("wanda", "row", None, "0.50"), ("wanda+lora", "row", None, "0.5"), (
    "magnitude+lora", "layer", None, "0",
)  # fmt: skip
DENSE = (None, None, None, None)
RIGHT = {DENSE: 0.6, WANDA: 0.4, AFTER: 0.55, CONTROL: 0.65}


def record(cell, **changes):
    axes = dict(zip(("criterion", "scope", "seed", "sparsity"), cell, strict=True))
    return RecoveryRecord(**{
        "model": "m", **axes, "mode": "lora", "tokens": 512, "steps": 2, "trained": 9, "changed": 5, "threads": 1,
        "device": "cpu", "seconds": 3.0, "peak_host_private_bytes": 1, "provenance": {}, **changes,
    })  # fmt: skip


def answers(cell, count=200):
    return (np.random.default_rng([*map(ord, str(cell))]).random(count) < RIGHT[cell]).astype(float).tolist()


def results(cells=RIGHT):
    scores = []
    for cell in cells:
        axes = dict(zip(("criterion", "scope", "seed", "sparsity"), cell, strict=True))
        items = answers(cell)
        common = {"task": "arc", "version": "1", "num_fewshot": 0, "filter": "none", "documents": 200, "available": 200}
        scores += [
            TaskScore(**axes, **common, metric="acc", higher_is_better=True, value=float(np.mean(items)), stderr=0.1,
                      items=items, chance=0.5),
            TaskScore(**axes, **common, metric="perplexity", higher_is_better=False, value=9.0, stderr=None, items=None,
                      chance=None),
        ]  # fmt: skip
    return [TaskResults(model="m", task="arc", limit=None, scores=scores, provenance={})]


RECORDS = [record(AFTER), record(CONTROL)]


def test_a_task_is_compared_before_after_and_with_the_trained_dense_model():
    table = recovery_table([], results(), RECORDS)
    assert set(table["metric"]) == {"acc"}, "a metric that is no mean over documents has no pairs"
    ticket, control = table.sort_values("sparsity", ascending=False).to_dict("records")
    assert (ticket["criterion"], control["criterion"]) == ("wanda+lora", "magnitude+lora")
    before, after, dense, trained = (answers(cell) for cell in (WANDA, AFTER, DENSE, CONTROL))
    assert (ticket["before"], ticket["after"]) == pytest.approx((np.mean(before), np.mean(after)))
    assert ticket["change"] == pytest.approx(np.mean(after) - np.mean(before))
    interval = paired_interval(after, before)
    assert (ticket["change_low"], ticket["change_high"]) == (interval.low, interval.high)
    assert ticket["significant"] == (mcnemar(after, before) < 0.05)
    assert ticket["beyond_control"] == pytest.approx(np.mean(after) - np.mean(trained))
    assert (ticket["dense"], ticket["control"]) == pytest.approx((np.mean(dense), np.mean(trained)))
    assert (control["before"], control["after"]) == pytest.approx((np.mean(dense), np.mean(trained)))
    assert is_missing(control["control"])
    assert is_missing(control["beyond_control"])


def test_without_a_control_there_is_none():
    table = recovery_table([], results([DENSE, WANDA, AFTER]), RECORDS[:1])
    assert len(table) == 1
    assert table["control"].isna().all()
    assert recovery_figure(table) is not None
    assert recovery_figure(recovery_table([], results([DENSE, WANDA]), [])) is None


def test_the_control_is_the_trained_dense_model_though_others_prune_nothing_either(monkeypatch):
    """Tickets of sparsity 0 of other criteria, trained in the same way, are tickets."""
    before, after = ("wanda", "row", None, "0"), ("wanda+lora", "row", None, "0")
    monkeypatch.setitem(RIGHT, before, 0.6)
    monkeypatch.setitem(RIGHT, after, 0.62)
    table = recovery_table([], results([DENSE, CONTROL, before, after]), [record(CONTROL), record(after)])
    rows = table.set_index("criterion")
    assert rows.loc["wanda+lora", "control"] == rows.loc["magnitude+lora", "after"]
    assert is_missing(rows.loc["magnitude+lora", "control"])
    assert recovery_figure(table) is not None, "the workflow promises it"
    alone = recovery_table([], results([DENSE, before, after]), [record(after)])
    assert alone["control"].isna().all()


@pytest.mark.parametrize(
    ("cells", "records", "words"),
    [
        ([DENSE, WANDA, AFTER], [], "wanda\\+lora, row, 0.5 of model 'm': the recovery has no record"),
        ([DENSE, AFTER], RECORDS, "the recovery has no measurement from before it"),
    ],
)
def test_what_is_missing_is_one_line(cells, records, words):
    with pytest.raises(UserError, match=words):
        recovery_table([], results(cells), records)


def test_cells_of_the_page_say_a_loss_with_its_perplexity():
    row = {"metric": "loss", "before": 4.0, "after": 3.5}
    assert TABLE.cells["before"](row) == f"4.0000 ({perplexity(4.0):,.2f})"
    assert TABLE.cells["after"](row | {"metric": "acc", "after": 0.25}) == "0.2500"


def test_verdicts_are_of_tickets_that_were_not_trained():
    """A recovered ticket that beats the untrained dense model is no winning ticket."""
    rows = frame(ticket(0.8), ticket(1.2, criterion="magnitude+lora"), ticket(0.85, sparsity=0.25))
    (verdict,) = verdicts(rows, typed([], CURVES), typed([], COMPARISONS))
    assert verdict.winner is None
    assert verdict.evaluated == 2
    assert verdict.closest["performance_retention"] == 0.85
