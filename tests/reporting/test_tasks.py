"""The tables of tasks: what is paired with what, means over tasks, and the figure."""

import numpy as np
import pytest

from ltpipe.analysis.items import interval_over_tasks, mcnemar, paired_interval
from ltpipe.reporting.tables.task_comparisons import task_comparisons_table
from ltpipe.reporting.tables.tasks import MEAN, tasks_table
from ltpipe.reporting.task_figures import tasks_figure
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.frames import is_missing
from ltpipe.tasks.results import TaskResults, TaskScore

DENSE, WANDA, RANDOM = (None, None, None, None), ("wanda", "row", None, "0.5"), ("random", "row", 3, "0.5")
RIGHT = {DENSE: 0.8, WANDA: 0.7, RANDOM: 0.3}


def answers(task, cell, count=120):
    seed = [*map(ord, task), *map(ord, str(cell))]
    return (np.random.default_rng(seed).random(count) < RIGHT[cell]).astype(float).tolist()


def score(task, cell, metric="acc", **changes):
    items = answers(task, cell)
    axes = dict(zip(("criterion", "scope", "seed", "sparsity"), cell, strict=True))
    return TaskScore(**{
        **axes, "task": task, "version": "1", "num_fewshot": 0, "metric": metric, "filter": "none",
        "higher_is_better": True, "value": float(np.mean(items)), "stderr": 0.01, "items": items, "documents": 120,
        "available": 500, "chance": 0.25, **changes,
    })  # fmt: skip


def results(task, scores, name=None):
    return TaskResults(model="m", task=name or task, limit=None, scores=scores, provenance={})


@pytest.fixture
def found():
    perplexity = {"metric": "perplexity", "items": None, "higher_is_better": False, "chance": None}
    values = {DENSE: 9.0, WANDA: 11.0, RANDOM: 99.0}
    cloze = [score("cloze", cell) for cell in RIGHT]
    cloze += [score("cloze", cell, **perplexity, value=value) for cell, value in values.items()]
    return [results("arc", [score("arc", cell) for cell in RIGHT]), results("cloze", cloze)]


def the_row(table, task, criterion, metric="acc"):
    rows = table[(table["task"] == task) & (table["metric"] == metric)].to_dict("records")
    (row,) = (each for each in rows if (None if is_missing(each["criterion"]) else each["criterion"]) == criterion)
    return row


def test_differences_from_the_dense_model_are_paired(found):
    row = the_row(tasks_table(found), "arc", "wanda")
    ticket, dense = answers("arc", WANDA), answers("arc", DENSE)
    assert row["difference"] == pytest.approx(np.mean(ticket) - np.mean(dense))
    interval = paired_interval(ticket, dense)
    assert (row["difference_low"], row["difference_high"]) == (interval.low, interval.high)
    assert row["p_value"] == mcnemar(ticket, dense)
    assert (row["documents"], row["available"], row["chance"]) == (120, 500, 0.25)


def test_the_mean_over_tasks_is_of_metrics_that_all_have(found):
    table = tasks_table(found)
    assert set(table[table["task"] == MEAN]["metric"]) == {"acc"}
    row = the_row(table, MEAN, "random")
    pairs = [(answers(task, RANDOM), answers(task, DENSE)) for task in ("arc", "cloze")]
    assert row["value"] == pytest.approx(np.mean([np.mean(ticket) for ticket, _ in pairs]))
    assert row["difference"] == pytest.approx(np.mean([np.mean(a) - np.mean(b) for a, b in pairs]))
    interval = interval_over_tasks(pairs)
    assert (row["difference_low"], row["difference_high"]) == (interval.low, interval.high)
    assert is_missing(row["p_value"])
    assert not len(tasks_table(found[:1]).query("task == @MEAN"))


def test_a_metric_that_is_no_mean_has_no_interval(found):
    row = the_row(tasks_table(found), "cloze", "wanda", "perplexity")
    assert row["difference"] == 2.0
    assert is_missing(row["difference_low"])
    assert not row["higher_is_better"]


def test_tasks_of_a_group_and_filters_are_told_apart():
    group = results("", [score(task, cell) for task in ("anatomy", "law") for cell in (DENSE, WANDA)], "mmlu")
    strict = results("gsm", [score("gsm", cell, filter="strict-match") for cell in (DENSE, WANDA)])
    table = tasks_table([group, strict])
    assert {"mmlu/anatomy", "mmlu/law", "gsm"} <= set(table["task"])
    assert "acc,strict-match" in set(table["metric"])


def test_pairs_of_tickets(found):
    table = task_comparisons_table(found)
    assert table["task"].tolist() == ["arc", "cloze"], "perplexities have no documents"
    (row, _) = table.to_dict("records")
    assert (row["criterion_a"], row["criterion_b"], row["seed_a"]) == ("random", "wanda", 3)
    random, wanda = answers("arc", RANDOM), answers("arc", WANDA)
    assert row["difference"] == pytest.approx(np.mean(random) - np.mean(wanda))
    assert row["significant"]
    assert row["p_value"] == mcnemar(random, wanda)


def test_the_exact_test_decides_where_documents_are_few():
    """Four documents that only one gets right: the interval excludes 0, and the test does not."""
    right, wrong = [1.0] * 8 + [0.0] * 16, [1.0] * 4 + [0.0] * 20
    assert paired_interval(right, wrong).excludes(0.0)
    scores = [score("few", DENSE)]
    scores += [score("few", cell, items=items, value=float(np.mean(items)), documents=24)
               for cell, items in ((WANDA, right), (RANDOM, wrong))]  # fmt: skip
    (row,) = task_comparisons_table([results("few", scores)]).to_dict("records")
    assert row["p_value"] == pytest.approx(0.125)
    assert not row["significant"]


def test_what_does_not_belong_together_is_refused(found):
    with pytest.raises(UserError, match="no results of the dense model 'm'"):
        tasks_table([results("arc", [score("arc", WANDA)])])
    with pytest.raises(UserError, match="two results of task arc"):
        tasks_table([found[0], found[0]])


def test_the_figure_has_a_panel_for_each_task_and_the_mean(found):
    first = {"metric": "a_perplexity", "items": None, "value": 9.0}
    found[0].scores[:0] = [score("arc", cell, **first) for cell in RIGHT]
    svg = tasks_figure(tasks_table(found)).svg
    for title in (f"{MEAN}, acc", "arc, acc", "cloze, acc"):
        assert title in svg
    assert "wanda, row, 50%" in svg
    only_dense = [results("arc", [score("arc", DENSE)])]
    assert tasks_figure(tasks_table(only_dense)) is None
