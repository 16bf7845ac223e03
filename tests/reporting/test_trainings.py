"""Tables of trainings against means and intervals computed by hand from the records."""

import math
from statistics import mean, stdev

import numpy as np
import pandas as pd
import pytest
from studies import TOTAL, like_the_paper, line, record, study

from ltpipe.analysis.early_bird import EarlyBird
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.reporting.tables import connectivity, early_birds, levels, trainings
from ltpipe.reporting.tables.connectivity import connectivity_table
from ltpipe.reporting.tables.early_birds import early_birds_table
from ltpipe.reporting.tables.levels import levels_table
from ltpipe.reporting.tables.trainings import trainings_table
from ltpipe.reporting.trainings import Trainings
from ltpipe.runtime.errors import UserError

T975 = {4: 2.7764}
BRANCHES = ("ticket", "reinitialised-1", "reinitialised-2", "reinitialised-3", "transplanted-a", "transplanted-b-2")
RECORDS = list(study(like_the_paper, 5, range(4), BRANCHES))


def level_row(level, branch, donor=None, records=RECORDS):
    table = levels_table(Trainings(records))
    rows = table[(table["level"] == level) & (table["branch"] == branch)]
    rows = rows[rows["donor"].isna()] if donor is None else rows[rows["donor"] == donor]
    assert len(rows) == 1
    return rows.iloc[0]


def per_replicate(level, prefix, field="test_accuracy"):
    """By hand: mean over the seeds of each replicate."""
    return [
        mean(
            getattr(one, field)
            for one in RECORDS
            if one.level == level and one.replicate == replicate and one.branch.startswith(prefix)
        )
        for replicate in range(5)
    ]


def assert_is_mean(row, column, values):
    half = T975[4] * stdev(values) / math.sqrt(5)
    expected = (mean(values), mean(values) - half, mean(values) + half)
    assert tuple(row[[column, f"{column}_low", f"{column}_high"]]) == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_one_row_a_training():
    table = trainings_table(Trainings(RECORDS[::-1]))
    assert list(table.columns) == list(trainings.COLUMNS)
    assert len(table) == len(RECORDS) == 5 * (1 + 3 * 6)
    assert table["replicate"].is_monotonic_increasing
    third = table[(table["branch"] == "reinitialised") & (table["branch_seed"] == 3) & (table["level"] == 2)].iloc[4]
    origin = next(one for one in RECORDS if (one.branch, one.level, one.replicate) == ("reinitialised-3", 2, 4))
    assert third["test_accuracy"] == origin.test_accuracy
    assert third["final_test_loss"] == origin.final_test_loss
    assert third["weights_remaining"] == origin.kept / TOTAL
    at = origin.iterations.index(origin.early_stop_iteration)
    assert third["validation_loss"] == origin.validation_losses[at] == min(origin.validation_losses)
    assert third["validation_accuracy"] == origin.validation_accuracies[at]
    donors = table[table["branch"] == "transplanted"]
    assert set(donors["donor"]) == {"a", "b-2"}
    assert donors["branch_seed"].isna().all()


def test_levels_are_means_over_replicates():
    row = level_row(2, "ticket")
    assert row["replicates"] == 5
    assert row["weights_remaining"] == 170_538 / TOTAL
    for column in ("test_accuracy", "final_test_accuracy", "test_loss", "early_stop_iteration"):
        assert_is_mean(row, column, per_replicate(2, "ticket", column))


@pytest.mark.parametrize("column", ["test_accuracy", "final_test_accuracy", "test_loss", "early_stop_iteration"])
def test_seeds_of_a_control_are_one_value_a_replicate_and_differences_are_paired(column):
    row = level_row(3, "reinitialised")
    assert row["replicates"] == 5
    own, dense, ticket = (per_replicate(*key, column) for key in ((3, "reinitialised"), (0, "ticket"), (3, "ticket")))
    assert_is_mean(row, column, own)
    assert_is_mean(row, f"{column}_minus_dense", np.subtract(own, dense).tolist())
    assert_is_mean(row, f"{column}_minus_ticket", np.subtract(own, ticket).tolist())


def test_donors_are_treatments_of_their_own():
    assert_is_mean(level_row(1, "transplanted", "b-2"), "test_accuracy", per_replicate(1, "transplanted-b-2"))


def test_nothing_is_compared_with_itself():
    dense, ticket = level_row(0, "ticket"), level_row(1, "ticket")
    assert dense[[name for name in levels.COLUMNS if "_minus_" in name]].isna().all()
    assert ticket[[name for name in levels.COLUMNS if "_minus_ticket" in name]].isna().all()
    assert ticket[[name for name in levels.COLUMNS if "_minus_dense" in name]].notna().all()


def test_a_single_replicate_has_no_interval():
    alone = [one for one in RECORDS if one.replicate == 2]
    row = level_row(3, "reinitialised", records=alone)
    assert row["replicates"] == 1
    assert pd.notna(row["test_accuracy_minus_dense"])
    assert row[[name for name in levels.COLUMNS if name.endswith(("_low", "_high"))]].isna().all()


def test_only_replicates_that_have_both_are_paired():
    lacking = [one for one in RECORDS if (one.branch, one.level, one.replicate) != ("ticket", 3, 0)]
    row = level_row(3, "reinitialised", records=lacking)
    differences = np.subtract(per_replicate(3, "reinitialised"), per_replicate(3, "ticket"))
    assert row["replicates"] == 5
    assert row["test_accuracy_minus_ticket"] == pytest.approx(mean(differences[1:]))


def test_tables_do_not_depend_on_the_order_of_the_files():
    shuffled = [RECORDS[index] for index in np.random.default_rng(0).permutation(len(RECORDS))]
    for table in (trainings_table, levels_table):
        pd.testing.assert_frame_equal(table(Trainings(RECORDS)), table(Trainings(shuffled)), check_exact=True)


def test_a_training_that_is_there_twice_is_refused():
    with pytest.raises(
        UserError, match="two of training 'lenet', replicate 4, level 3, branch 'ticket'; give each once"
    ):
        Trainings([*RECORDS, record("ticket", 3, 4)])
    Trainings([*RECORDS, record("ticket", 3, 4, training="other")])


def test_lines_and_masks_have_a_row_a_point():
    table = connectivity_table([line(1, 0.01), line(0, 0.03, level=2)])
    assert list(table.columns) == list(connectivity.COLUMNS)
    assert table["replicate"].tolist() == [0] * 30 + [1] * 30
    assert table["alpha"].tolist()[:30] == [index / 29 for index in range(30)]
    assert table["error"].max() == pytest.approx(0.05, abs=1e-4)
    assert set(table["stable"][:30]) == {False}
    bird = EarlyBird("lenet", 0, Sparsity.of("0.9"), "hamming", 0.1, 3, 1, False, (5, 10, 15), (None, None, 0.05), 15)
    masks = early_birds_table([bird])
    assert list(masks.columns) == list(early_birds.COLUMNS)
    assert masks["distance"].isna().tolist() == [True, True, False]
    assert masks[["sparsity", "iteration", "converged"]].iloc[2].tolist() == [0.9, 15, 15]


def test_without_trainings_tables_are_empty_and_whole():
    nothing = Trainings([])
    found = trainings_table(nothing), levels_table(nothing), connectivity_table([]), early_birds_table([])
    declared = (trainings, levels, connectivity, early_birds)
    assert [list(table.columns) for table in found] == [list(module.COLUMNS) for module in declared]
    assert [len(table) for table in found] == [0] * 4
