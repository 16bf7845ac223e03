"""The robustness table: each perturbed model beside the losses that it is judged by."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from ltpipe.analysis.samples import samples
from ltpipe.evaluation.metrics import Metrics, SequenceSums
from ltpipe.reporting.tables.robustness import COLUMNS, robustness_table
from ltpipe.reporting.tables.tickets import tickets_table
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.frames import dtypes

INPUTS = {"inputs": {"checkpoint": "a", "sequences": "b"}}


def metrics(loss: float, **changes) -> Metrics:
    """Made-up metrics of a ticket."""
    spec = importlib.util.spec_from_file_location("made", Path(__file__).parents[1] / "evaluation/test_metrics.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return replace(made.METRICS, loss=loss, provenance=INPUTS, **changes)


DENSE = {"criterion": None, "scope": None, "seed": None, "sparsity": None}
NOISE = {"perturbation": "noise-0.1"}


@pytest.fixture
def models() -> dict[str, list[Metrics]]:
    dense, ticket = metrics(2.0, **DENSE), metrics(4.0)
    perturbed = [
        metrics(4.5, **NOISE, perturbation_seed=1),
        metrics(4.25, **NOISE, perturbation_seed=0),
        metrics(2.5, **NOISE, perturbation_seed=1, **DENSE),
        metrics(2.25, **NOISE, perturbation_seed=0, **DENSE),
    ]
    return {"baselines": [dense], "tickets": [ticket], "perturbed": perturbed}


def test_rows_and_the_losses_beside(models):
    table = robustness_table(**models)
    assert list(table["loss"]) == [2.25, 4.25, 2.5, 4.5], "the dense model leads, seed by seed"
    assert list(table["unperturbed_loss"]) == [2.0, 4.0, 2.0, 4.0]
    assert list(table["perturbed_dense_loss"]) == [2.25, 2.25, 2.5, 2.5]
    assert list(table["baseline_loss"]) == [2.0] * 4
    assert list(table["sparsity"]) == [0, 0.5, 0, 0.5]
    assert list(table["loss_difference"]) == [0.25, 0.25, 0.5, 0.5]


def test_intervals_are_paired_with_the_model_itself_and_retention_with_the_dense_one(models):
    """Losses of two sequences: the noise adds the same to both, so that its interval has no width."""
    spread = {"dense": [1.0, 3.0], "ticket": [3.0, 5.0], "noisy": [3.5, 5.5]}

    def of(name, metrics):
        count = [1] * 2
        return replace(metrics, sequence_sums=SequenceSums(spread[name], count, count))

    noisy_dense = replace(models["perturbed"][3], sequence_sums=SequenceSums([1.0, 3.0], [1, 1], [1, 1]))
    table = robustness_table(
        [of("dense", models["baselines"][0])],
        [of("ticket", models["tickets"][0])],
        [of("noisy", models["perturbed"][1]), noisy_dense],
    )
    row = table[table["criterion"].notna()].iloc[0]
    assert (row["loss_difference_low"], row["loss_difference_high"]) == (0.5, 0.5)
    assert row["performance_retention_low"] == pytest.approx(1 / 3.5)
    assert row["performance_retention_high"] == pytest.approx(3 / 5.5)


def test_no_perturbations_give_an_empty_table(models):
    table = robustness_table(models["baselines"], models["tickets"], [])
    assert len(table) == 0
    assert list(table.columns) == list(COLUMNS)
    assert table.dtypes.astype(str).to_dict() == dtypes(COLUMNS)


@pytest.mark.parametrize("missing", ["baselines", "tickets"])
def test_what_is_compared_with_has_to_be_there(models, missing: str):
    with pytest.raises(UserError, match=r"tiny on words, noise-0\.1: the metrics .* are missing"):
        robustness_table(**models | {missing: []})
    with pytest.raises(UserError, match="are missing"):
        robustness_table(models["baselines"], models["tickets"], models["perturbed"][:1])


def test_other_sequences_are_refused(models):
    other = [replace(models["tickets"][0], provenance={"inputs": {"checkpoint": "a", "sequences": "c"}})]
    with pytest.raises(UserError, match="baseline does not match the sequences"):
        robustness_table(**models | {"tickets": other})


def test_tickets_table_holds_agreement_and_divergence(models):
    table = tickets_table(samples(models["baselines"], models["tickets"]))
    assert table.loc[0, ["agreement", "kl"]].tolist() == [0.75, 0.1]
    silent = replace(models["tickets"][0], agreement=None, kl=None)
    alone = tickets_table(samples(models["baselines"], [silent]))
    assert pd.isna(alone.loc[0, "agreement"])
