"""The tables of tickets, comparisons and curves from hand-made metrics, and the page's sections of them."""

import json
import re
from dataclasses import fields, replace
from importlib.util import module_from_spec, spec_from_file_location

import numpy as np
import pandas as pd
import pytest
from checkouts import ROOT
from reports import comparisons_frame, curves_frame, layers_frame

from ltpipe.analysis.overlap_tables import OVERLAP
from ltpipe.analysis.samples import samples
from ltpipe.analysis.validation_table import LAYERS, VALIDATION
from ltpipe.evaluation.metrics import Metrics, SequenceSums
from ltpipe.evaluation.quality import performance_retention
from ltpipe.pruning.solution import SolutionErrors
from ltpipe.reporting import reference
from ltpipe.reporting.cells import value
from ltpipe.reporting.mask_figures import reconstruction_figure
from ltpipe.reporting.page import Content, render_page
from ltpipe.reporting.provenance import Provenance
from ltpipe.reporting.recognise import read_tables
from ltpipe.reporting.registry import TABLES
from ltpipe.reporting.report import page_content
from ltpipe.reporting.sections import section
from ltpipe.reporting.table import Measured, Table
from ltpipe.reporting.tables import comparisons, costs, curves, layers, overlap, robustness, simulations, tickets
from ltpipe.reporting.tables.comparisons import comparisons_table
from ltpipe.reporting.tables.costs import evaluation_costs
from ltpipe.reporting.tables.curves import curves_table
from ltpipe.reporting.tables.reconstruction import reconstruction_table
from ltpipe.reporting.tables.robustness import robustness_table
from ltpipe.reporting.tables.tickets import tickets_table
from ltpipe.reporting.ticket_columns import best_tickets
from ltpipe.reporting.trainings import Trainings
from ltpipe.runtime.errors import DamagedFileError, UserError
from ltpipe.runtime.frames import csv_bytes, dtypes, frame, parquet_bytes, write_table

SEQUENCES = 12
TOKENS = [15] * SEQUENCES
HARDNESS = np.random.default_rng(0).normal(3, 0.8, SEQUENCES)


def metrics(shift=0.0, noise=0.0, **changes):
    """Metrics of a model whose loss is by `shift` above the dense one's, and scatters by `noise`."""
    generator = np.random.default_rng(sum(map(ord, str(sorted(changes.items())))))
    losses = (HARDNESS + shift + generator.normal(0, noise or 1e-9, SEQUENCES)) * TOKENS
    plain = dict.fromkeys((field.name for field in fields(Metrics)), 0)
    correct = [round(max(0, 6 - shift)) + index % 2 for index in range(SEQUENCES)]
    loss = float(losses.sum() / sum(TOKENS))
    described = {
        "model": "m", "data": "d", "criterion": None, "scope": None, "seed": None, "sparsity": None, "kept": 50,
        "perturbation": None, "perturbation_seed": None, "vocabulary": 49_152,
        "total": 100, "loss": loss, "perplexity": float(np.exp(loss)), "accuracy": sum(correct) / sum(TOKENS),
        "performance_retention": 1.0, "tokens": sum(TOKENS), "protocol": "documents", "precision": "float32",
        "device": "cpu",
        "execution": "streamed", "peak_device_bytes": None, "peak_device_reserved_bytes": None,
        "sequence_sums": SequenceSums(list(losses), correct, TOKENS),
        "provenance": {"inputs": {"checkpoint": "c", "sequences": "s"}},
    }  # fmt: skip
    return Metrics(**plain | described | changes)


DENSE = metrics()


def ticket(shift, criterion="magnitude", scope="global", seed=None, sparsity="0.5", **changes):
    made = metrics(shift, criterion=criterion, scope=scope, seed=seed, sparsity=sparsity, **changes)
    return replace(made, performance_retention=performance_retention(DENSE.loss, made.loss))


TICKETS = [
    ticket(0.1, sparsity="0.2", noise=0.1),
    ticket(1.0, noise=0.1),
    ticket(1.05, scope="layer", noise=0.4),
    ticket(4.0, criterion="random", seed=1, noise=0.2),
    ticket(4.1, criterion="random", seed=0, noise=0.2),
]


def test_tickets_have_their_paired_intervals():
    table = tickets_table(samples([DENSE], TICKETS[::-1]))
    assert list(table.columns) == list(tickets.TABLE.columns)
    assert list(table["seed"].fillna(-1)) == [-1, -1, -1, 0, 1]
    assert list(table["sparsity"]) == [0.2, 0.5, 0.5, 0.5, 0.5]
    for key in ("performance_retention", "loss_difference", "accuracy_difference"):
        assert (table[f"{key}_low"] <= table[key]).all()
        assert (table[key] <= table[f"{key}_high"]).all()
    assert table["loss_difference"].tolist() == pytest.approx((table["loss"] - DENSE.loss).tolist())
    first = table.iloc[0]
    # the tickets differ from the dense model by the same amount in every sequence, give or take the noise
    spread = np.std(np.array(TICKETS[0].sequence_sums.loss_sum) / 15 - HARDNESS)
    width = first["loss_difference_high"] - first["loss_difference_low"]
    assert width == pytest.approx(2 * 1.96 * spread / np.sqrt(SEQUENCES), rel=0.15)


def test_tables_do_not_depend_on_the_order_of_the_files():
    one, other = samples([DENSE], TICKETS), samples([DENSE], TICKETS[::-1])
    for table in (tickets_table, comparisons_table, curves_table):
        pd.testing.assert_frame_equal(table(one), table(other), check_exact=True)


def test_every_pair_of_one_sparsity_is_compared_once():
    table = comparisons_table(samples([DENSE], TICKETS))
    assert len(table) == 4 * 3 // 2
    assert set(table["sparsity"]) == {0.5}
    close = table[(table["scope_b"] == "layer")].iloc[0]
    assert (close["criterion_a"], close["significant"]) == ("magnitude", False)
    assert close["loss_difference_low"] < 0 < close["loss_difference_high"]
    far = table[(table["scope_a"] == "global") & (table["criterion_a"] == "magnitude") & (table["seed_b"] == 0)].iloc[0]
    assert far["significant"]
    assert far["loss_difference"] == pytest.approx(TICKETS[1].loss - TICKETS[4].loss)
    assert far["loss_difference_high"] < 0


def test_texts_are_not_compared_with_each_other():
    there = [replace(metrics, data="e") for metrics in (DENSE, *TICKETS)]
    here = comparisons_table(samples([DENSE], TICKETS))
    both = comparisons_table(samples([DENSE, there[0]], [*TICKETS, *there[1:]]))
    assert len(both) == 2 * len(here)
    pd.testing.assert_frame_equal(both[both["data"] == "d"], here)


def test_curves_one_for_each_criterion_scope_and_seed():
    table = curves_table(samples([DENSE], TICKETS))
    assert len(table) == 4
    first = table.iloc[0]
    r20, r50 = (one.performance_retention for one in TICKETS[:2])
    estimate = table["critical_sparsity_estimate"]
    assert estimate[0] == pytest.approx(0.2 + 0.3 * (r20 - 0.9) / (r20 - r50))
    assert first["area"] == pytest.approx(0.2 * (1 + r20) / 2 + 0.3 * (r20 + r50) / 2)
    assert (table["critical_sparsity_estimate_low"] < estimate).all()
    assert (estimate < table["critical_sparsity_estimate_high"]).all()
    assert (table["last_winning_sparsity"] < estimate).all()
    assert (estimate < table["first_losing_sparsity"]).all()
    assert first[["last_winning_sparsity", "last_winning_kept", "last_winning_significant"]].tolist() == [0.2, 50, True]
    dense = table.iloc[1]  # the dense model is no ticket
    assert dense["last_winning_sparsity"] == 0
    assert dense[["last_winning_kept", "last_winning_significant"]].isna().all()
    assert set(table["first_losing_sparsity"]) == {0.5}
    assert table["first_losing_significant"].all()
    assert set(table["crossings"]) == {1}
    assert set(table["largest_sparsity"]) == {0.5}


def test_a_scope_with_a_sparsity_of_its_own_gives_no_curve():
    measured = samples([DENSE], [*TICKETS, ticket(1.0, scope="2of4"), ticket(1.0, scope="imported")])
    assert set(curves_table(measured)["scope"]) == {"global", "layer", "imported"}
    assert len(tickets_table(measured)) == 7


def test_two_rows_of_one_cell_are_refused_by_name(tmp_path):
    """They are no seeds."""
    cell = r"one cell \(model m, data d, criterion random, scope global, seed 1, sparsity 0.5\)"
    again = replace(TICKETS[3], loss=TICKETS[3].loss + 1)
    with pytest.raises(UserError, match=f"tickets: two metrics of {cell}"):
        samples([DENSE], [*TICKETS, again])
    with pytest.raises(UserError, match=r"baselines: two metrics of one cell \(model m, data d\)"):
        samples([DENSE, DENSE], TICKETS)
    perturbed = replace(DENSE, perturbation="int4")
    with pytest.raises(UserError, match=r"perturbed: two metrics of one cell \(model m, data d, perturbation int4\)"):
        robustness_table([DENSE], TICKETS, [perturbed, perturbed])
    one, other = samples([DENSE], TICKETS), samples([DENSE], TICKETS[3:4])
    for table in (tickets.TABLE, curves.TABLE):
        paths = [tmp_path / f"{table.name}-{index}.parquet" for index in range(2)]
        for path, measured in zip(paths, (one, other), strict=True):
            write_table(path, parquet_bytes({"tickets": tickets_table, "curves": curves_table}[table.name](measured)))
        both = rf"{paths[0]} and {paths[1]}: two rows of one cell \(model m, .* seed 1"
        with pytest.raises(UserError, match=both):
            gathered(table, paths)
        assert len(gathered(table, paths[:1]))


def gathered(table: Table, paths):
    return table.joined(read_tables(paths)[table.name])


def test_tickets_without_their_dense_model_are_refused():
    with pytest.raises(UserError, match="no metrics of model 'm' on text 'd'"):
        samples([], TICKETS)
    other = replace(DENSE, provenance={"inputs": {"checkpoint": "c", "sequences": "z"}})
    with pytest.raises(UserError, match="baseline does not match the sequences"):
        samples([other], TICKETS)
    for none in ([], [DENSE]):
        with pytest.raises(UserError, match="metrics of at least one ticket"):
            samples([DENSE], none)


def test_what_was_written_is_read(tmp_path):
    table = tickets_table(samples([DENSE], TICKETS))
    write_table(tmp_path / "tickets.csv", csv_bytes(table))
    pd.testing.assert_frame_equal(tickets.TABLE.parsed(tmp_path / "tickets.csv"), table, check_exact=True)
    for name in "ab":
        write_table(tmp_path / name, csv_bytes(overlap.TABLE.empty))
    assert list(gathered(overlap.TABLE, [tmp_path / "a", tmp_path / "b"])) == list(OVERLAP)
    with pytest.raises(DamagedFileError, match="not a table of overlap of masks"):
        overlap.TABLE.parsed(tmp_path / "tickets.csv")
    kept = layers_frame()
    for model in "ab":
        half = kept[kept["sparsity"] == 0.5].assign(model=model).astype(dtypes(LAYERS))
        write_table(tmp_path / f"{model}.parquet", parquet_bytes(half))
    both = gathered(layers.TABLE, [tmp_path / "a.parquet", tmp_path / "b.parquet"])
    assert both.dtypes.astype(str).to_dict() == dtypes(LAYERS)
    assert both["model"].value_counts().to_dict() == {"a": 16, "b": 16}
    write_table(tmp_path / "other.csv", csv_bytes(pd.DataFrame({"other": [1]})))
    for path, words in (("other.csv", "not a table of a report"), ("absent.parquet", "no such file")):
        with pytest.raises(UserError, match=words):
            read_tables([tmp_path / path])


def test_costs_of_models_together_are_those_of_all():
    other = [replace(metrics, model="a", seconds=2.0) for metrics in (DENSE, *TICKETS)]
    own, others = evaluation_costs([DENSE], TICKETS, []), evaluation_costs(other[:1], other[1:], [])
    together = pd.concat([others, own], ignore_index=True)
    whole = evaluation_costs([DENSE, other[0]], [*TICKETS, *other[1:]], [])
    assert whole["stage"].tolist() == ["dense evaluation"] * 2 + ["ticket evaluation"] * 2
    pd.testing.assert_frame_equal(costs.TABLE.joined([("both", together)]), whole)


def test_tables_of_models_together_are_the_table_of_all(tmp_path):
    """The files of a report are the same to the byte, in however many parts its tickets were put in tables."""
    other = [replace(metrics, model="other", loss=metrics.loss + 0.125) for metrics in (DENSE, *TICKETS)]
    whole = samples([DENSE, other[0]], [*TICKETS, *other[1:]])
    parts = samples([DENSE], TICKETS), samples(other[:1], other[1:])
    built = (
        (tickets.TABLE, tickets_table), (comparisons.TABLE, comparisons_table), (curves.TABLE, curves_table),
    )  # fmt: skip
    for declared, table in built:
        paths = [tmp_path / f"{declared.name}-{index}.parquet" for index in range(len(parts))]
        for path, part in zip(paths, parts, strict=True):
            write_table(path, parquet_bytes(table(part)))
        together = gathered(declared, paths)
        for as_bytes in (csv_bytes, parquet_bytes):
            assert as_bytes(together) == as_bytes(table(whole))


def test_a_large_report_shows_the_best_tickets_and_says_so():
    table = pd.concat([tickets_table(samples([DENSE], TICKETS))] * 400, ignore_index=True)
    table["sparsity"] = np.arange(len(table)) % 40 / 50 + 0.01
    shown = best_tickets(table, 1000)
    assert len(shown) == 40
    highest = table.groupby("sparsity")["performance_retention"].max()
    assert shown.set_index("sparsity")["performance_retention"].equals(highest)
    assert best_tickets(table, len(table)) is table
    assert len(best_tickets(table, 7)) == 7
    long = section("Title", "Note.", table, {"model": value("model")}, file="long")
    html = render_page(
        Content(table, curves_frame().iloc[:0], comparisons_frame(), [], [long], Provenance(None, False, "", {}))
    )
    assert f"40 of {len(table):,} tickets" in html
    assert f'The first 1,000 of {len(table):,} rows; <a href="long.csv">' in html
    assert html.count("<tr") < 1100


def masks_tables():
    pair = {"model": "m", "criterion_a": "magnitude", "scope_a": "global", "sparsity_a": 0.5, "criterion_b": "random",
            "scope_b": "global", "seed_b": 3, "sparsity_b": 0.5, "jaccard": 0.4, "jaccard_chance": 1 / 3,
            "hamming": 0.3, "hamming_chance": 0.5}  # fmt: skip
    verdict = {"model": "m", "criterion": "magnitude", "scope": "global", "sparsity": 0.5, "verdict": "warnings"}
    noisy = {"model": "m", "criterion": "magnitude", "scope": "global", "sparsity": 0.5, "perturbation": "int4"}
    noisy |= {"loss": 3.0, "perturbed_dense_loss": 2.25, "performance_retention": 2 / 3}
    noisy |= {"loss_difference": 0.5, "loss_difference_low": 0.25, "loss_difference_high": 0.75}
    step = {"model": "m", "iteration": 3, "sparsity": 0.8, "loss": 3.0, "performance_retention": 0.75, "best": True}
    step |= {"ticket_sequences": 5, "peak_host_private_bytes": 3 * 2**20}
    return {
        "overlap": frame([pair], OVERLAP),
        "validation": frame([verdict | {"reasons": "<b>2 rows"}, verdict | {"verdict": "sound"}], VALIDATION),
        "robustness": frame([noisy, noisy | {"criterion": None}], robustness.COLUMNS),
        "simulations": frame([step], simulations.COLUMNS),
    }


def test_errors_of_solvers_are_rows_and_a_figure():
    errors = {f"model.layers.{block}.mlp.weight": (0.2 + block, 0.1 + block) for block in (0, 1, 2)}
    solutions = [SolutionErrors(DENSE.provenance["inputs"]["checkpoint"], name, "row", "0.5", errors) for name in "ab"]
    table = reconstruction_table([DENSE], solutions)
    assert table["error"].tolist() == 2 * [0.1, 1.1, 2.1]
    assert table["mask_error"].tolist() == 2 * [0.2, 1.2, 2.2]
    assert set(table["model"]) == {DENSE.model}
    (view,) = reconstruction_figure(table).views
    assert len(view.spec["concat"]) == 1
    assert '"error": 1.1' in json.dumps(view.spec)
    with pytest.raises(UserError, match=r"a solution of a, row, 0\.5 belongs to another checkpoint"):
        reconstruction_table([DENSE], [replace(solutions[0], checkpoint="other")])


def shown(tables):
    content = page_content(tables, Provenance(None, False, "", {}), Trainings([]))
    return content, {section.title: section for section in (*content.leading, *content.sections)}


def test_sections_show_every_row_with_its_interval_or_chance():
    measured = samples([DENSE], [*TICKETS, ticket(0.0, criterion="safe")])
    tables = masks_tables() | {
        "tickets": tickets_table(measured),
        "curves": curves_table(measured),
        "comparisons": comparisons_table(measured),
    }
    content, found = shown(tables)
    assert list(found) == [
        "What sparsity costs", "Critical sparsity", "Tickets against tickets", "Overlap of masks",
        "Validation of masks", "Robustness", "Simulation of iterative pruning",
    ]  # fmt: skip
    lines = {row[2]: row for row in found["Critical sparsity"].rows}
    assert lines["safe, global"][3:6] == ("50%", "none up to 50%", "–")
    assert lines["magnitude, global"][3:5] == ("20% (prunes 50.0%)", "50%")
    assert lines["random, global, seed 0"][3:5] == ("dense model", "50%")
    assert lines["random, global, seed 0"][5].count("%") == 3
    pair = found["Overlap of masks"].rows[0]
    assert pair[1:] == (
        "magnitude, global, 50%",
        "random, global, seed 3, 50%",
        "0.4000 [0.3333]",
        "0.3000 [0.5000]",
        "–",
    )
    assert [row[2:] for row in found["Validation of masks"].rows] == [("warnings", "<b>2 rows"), ("sound", "–")]
    changed = found["Robustness"].rows
    assert changed[0][2:] == (
        "magnitude, global, 50%",
        "int4",
        "3.0000",
        "+0.5000 [+0.2500, +0.7500]",
        "2.2500",
        "0.6667",
    )
    assert changed[1][2] == "dense"
    (iteration,) = found["Simulation of iterative pruning"].rows
    assert iteration[2:] == ("3 (best)", "80.0%", "3.0000", "0.7500", "5", "3")
    page = render_page(content)
    assert "&lt;b&gt;2 rows" in page
    assert all(f">{title}</h2>" in page for title in found)


def test_sections_without_rows_do_not_show():
    measured = samples([DENSE], TICKETS[:1])
    _, found = shown({"tickets": tickets_table(measured), "curves": curves_table(measured)})
    assert list(found) == ["What sparsity costs", "Critical sparsity"]


def test_the_page_of_tables_is_current():
    assert (ROOT / "docs/tables.md").read_text() == reference.page(), "make reference writes it"


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_column_is_said_once_and_no_two_tables_look_alike(table):
    assert all(column.meaning for column in table.columns.values())
    assert set(table.key) <= set(table.columns)
    assert [other.name for other in TABLES if list(other.columns) == list(table.columns)] == [table.name]


def test_the_printed_table_has_what_its_page_says(tmp_path):
    """The table of one's own in docs/extending.md works as it is printed: one file."""
    page = (ROOT / "docs/extending.md").read_text(encoding="utf-8").partition("## A table of the report\n")[2]
    (tmp_path / "unharmed.py").write_text(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], encoding="utf-8")
    specification = spec_from_file_location("unharmed", tmp_path / "unharmed.py")
    module = module_from_spec(specification)
    specification.loader.exec_module(module)
    tied = ticket(0, sparsity="0.1", sequence_sums=DENSE.sequence_sums)
    measured = [tied, *TICKETS]
    built = module.TABLE.measured(Measured([DENSE], measured, samples([DENSE], measured), [], []))
    write_table(tmp_path / "file", parquet_bytes(built))
    assert module.TABLE.parsed(tmp_path / "file").equals(module.TABLE.joined([("file", built)]))
    dense = np.array(DENSE.sequence_sums.loss_sum)
    expected = {
        (each.criterion, each.scope, each.seed, float(each.sparsity)): (each.sequence_sums.loss_sum <= dense).mean()
        for each in measured
    }
    found = {
        (row["criterion"], row["scope"], None if pd.isna(row["seed"]) else row["seed"], row["sparsity"]): row[
            "unharmed"
        ]
        for row in built.to_dict("records")
    }
    assert found == expected
    assert set(expected.values()) > {0.0, 1.0}
    shown = section(module.TABLE.title, "", built, module.TABLE.cells, module.TABLE.name)
    assert shown.headings == ("ticket", "unharmed")
    assert ("magnitude, global, 10%", "100%") in shown.rows
