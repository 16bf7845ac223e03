"""The exact set of jobs that each kind of change reruns, on a real small sweep that has been run."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import yaml
from checkouts import checkout, plain_environment, refused, reruns, restored, snakemake
from tiny import save_tiny

from ltpipe.workflow.plan import PlannedPeak, PlannedStage, StudyPlan

CONFIG = {
    "models": {"tiny": {"source": "../models/tiny", "prunable": {"include": ["*mlp*"], "exclude": []}}},
    "data": {"words": {"source": "../texts/words.txt"}},
    "grid": {"criteria": ["magnitude", "random"], "scopes": ["layer"], "sparsities": [0.25, 0.5], "seeds": [3]},
    "evaluate": {"sequence_length": 16, "num_sequences": 4, "micro_batch": 8, "top_k": 4, "tickets_per_pass": 3},
    "robustness": {"perturbations": []},
    "score": {},
    "threads": 2,
}
MAGNITUDE, RANDOM = "magnitude/layer/seed-none", "random/layer/seed-3"


def write_config(folder: Path, **changes: object) -> None:
    """Write the study's configuration, with whole sections merged with `changes`."""
    config = {
        key: {**value, **changes.get(key, {})} if isinstance(value, dict) else value for key, value in CONFIG.items()
    }
    config |= {key: value for key, value in changes.items() if key not in CONFIG}
    (folder / "config/config.yaml").write_text(yaml.safe_dump(config))


REPORT = {"report tickets"}
TABLES = {"tables tables/tiny/tickets"} | REPORT
CHECKPOINT = {"checkpoint tiny/model"}
SEQUENCES = {"sequences tiny/words"}
BASELINE = {"baseline tiny/words"}


def masks(*sparsities: str, draws: tuple[str, ...] = (MAGNITUDE, RANDOM)) -> set[str]:
    return {f"mask tiny/{draw}/{sparsity}" for draw in draws for sparsity in sparsities}


def tickets(*sparsities: str, draws: tuple[str, ...] = (MAGNITUDE, RANDOM)) -> set[str]:
    return {f"ticket tiny/words/{draw}/{sparsity}" for draw in draws for sparsity in sparsities}


MASK_ANALYSES = {"overlap overlap/tiny", "validation validation/tiny"}
AFTER_MASKS = MASK_ANALYSES | TABLES
HISTOGRAMS = {"histogram tiny/magnitude/seed-none", "histogram tiny/random/seed-3"}
EVALUATIONS = BASELINE | tickets("0.25", "0.5") | TABLES
EVERYTHING = CHECKPOINT | SEQUENCES | HISTOGRAMS | masks("0.25", "0.5") | MASK_ANALYSES | EVALUATIONS


def study(folder: Path) -> Path:
    """A checkout with a tiny model, a text and the study's configuration."""
    checkout(folder)
    save_tiny("llama", folder / "models/tiny")
    (folder / "texts").mkdir()
    words = (f"w{(7 * number) ** 2 % 93}" for number in range(500))
    (folder / "texts/words.txt").write_text(" ".join(words))
    write_config(folder)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that has been run; tests put back what they change."""
    folder = study(tmp_path_factory.mktemp("study"))
    assert reruns(folder) == EVERYTHING
    output = snakemake(folder, "--verbose")
    turns = output.count("Resources before job selection")
    assert turns <= len(EVERYTHING) + 3, "the scheduler wakes when a job ends, not once a second for each"
    assert "at least 0.9 wins" in output, "the run ends with the table of tickets"
    assert "report: results/report/index.html" in output
    return folder


@pytest.fixture
def edit(finished: Path):
    with restored(finished) as append:
        yield append


@pytest.fixture
def configure(finished: Path):
    yield lambda **changes: write_config(finished, **changes)
    write_config(finished)


def test_nothing_changed(finished: Path):
    assert reruns(finished) == set()


def test_every_file_touched(finished: Path):
    for path in finished.rglob("*"):
        if path.is_file() and path.parts[len(finished.parts)] not in (".snakemake", "results"):
            path.touch()
    assert reruns(finished) == set()


def test_fresh_checkout_with_results_kept(finished: Path, tmp_path: Path):
    fresh = checkout(tmp_path / "fresh")
    for name in ("results", ".snakemake", "models", "texts", "config"):
        shutil.copytree(finished / name, fresh / name, copy_function=shutil.copy2, dirs_exist_ok=True)
    assert reruns(fresh) == set()


def test_sparsity_added(finished: Path, configure: Callable):
    configure(grid={"sparsities": [0.25, 0.5, 0.75]})
    assert reruns(finished) == masks("0.75") | tickets("0.75") | AFTER_MASKS


def test_sparsity_removed(finished: Path, configure: Callable):
    configure(grid={"sparsities": [0.25]})
    assert reruns(finished) == AFTER_MASKS


def test_lists_reordered_and_written_otherwise(finished: Path, configure: Callable):
    configure(grid={"sparsities": [0.50, 0.250], "criteria": ["random", "magnitude"]})
    assert reruns(finished) == set()


def test_criterion_removed(finished: Path, configure: Callable):
    configure(grid={"criteria": ["magnitude"]})
    assert reruns(finished) == AFTER_MASKS


def test_scope_added(finished: Path, configure: Callable):
    """The histogram serves every scope: it is not counted again."""
    configure(grid={"scopes": ["layer", "global"]})
    added = tuple(draw.replace("layer", "global") for draw in (MAGNITUDE, RANDOM))
    assert reruns(finished) == masks("0.25", "0.5", draws=added) | tickets("0.25", "0.5", draws=added) | AFTER_MASKS


@pytest.mark.slow
def test_scores_are_made_once_for_all_scopes_and_sparsities(finished: Path, tmp_path: Path):
    """Calibration, one score a criterion, and what ranks by it; editing a criterion remakes its own score only."""
    folder = shutil.copytree(finished, tmp_path / "study")
    (folder / "texts/other.txt").write_text(" ".join(f"w{number**2 % 91}" for number in range(300)))
    hybrids = {"mix": {"snip": 1, "magnitude": 2}}
    score = {"data": "other", "sequence_length": 16, "num_sequences": 2, "hybrids": hybrids}
    data = {"other": {"source": "../texts/other.txt"}}

    def ask(sparsity: float, **settings: object) -> set[str]:
        grid = {"criteria": ["mix", "wanda"], "scopes": ["layer", "row"], "sparsities": [sparsity]}
        write_config(folder, data=data, score=score | settings, grid=grid)
        return reruns(folder)

    def edit(criterion: str) -> None:
        with (folder / f"src/ltpipe/scoring/criteria/{criterion}.py").open("a") as file:
            file.write("# edited\n")

    def below(sparsity: str, *criteria: str) -> set[str]:
        drawn = tuple(f"{name}/{scope}/seed-none" for name in criteria for scope in ("layer", "row"))
        return masks(sparsity, draws=drawn) | tickets(sparsity, draws=drawn) | AFTER_MASKS

    scores = {"score tiny/snip", "score tiny/wanda", "hybrid tiny/mix"}
    counted = {"histogram tiny/mix/seed-none", "histogram tiny/wanda/seed-none"}
    made = {"calibration tiny/other"} | scores | counted | below("0.5", "mix", "wanda")
    assert ask(0.5) == made
    snakemake(folder)
    assert ask(0.5) == set()
    assert ask(0.75) == below("0.75", "mix", "wanda")
    assert ask(0.5, num_sequences=3) == made
    assert ask(0.5, options={"synflow": {"iterations": 3}}) == {"report tickets"}, (
        "the page shows it; it is not asked for"
    )
    assert ask(0.5, options={"snip": {"mode": "eval"}}) == set(), "the default"
    assert ask(0.5, options={"snip": {"mode": "train"}}) == {
        "score tiny/snip", "hybrid tiny/mix", "histogram tiny/mix/seed-none",
    } | below("0.5", "mix")  # fmt: skip
    edit("fisher")
    assert ask(0.5) == set()
    edit("wanda")
    assert ask(0.5) == {"score tiny/wanda", "histogram tiny/wanda/seed-none"} | below("0.5", "wanda")


def test_seed_added(finished: Path, configure: Callable):
    """A deterministic criterion does not repeat itself for another seed."""
    configure(grid={"seeds": [3, 4]})
    added = (RANDOM.replace("3", "4"),)
    expected = masks("0.25", "0.5", draws=added) | tickets("0.25", "0.5", draws=added) | AFTER_MASKS
    assert reruns(finished) == expected | {"histogram tiny/random/seed-4"}


def test_evaluation_length_changed(finished: Path, configure: Callable):
    configure(evaluate={"sequence_length": 12})
    assert reruns(finished) == SEQUENCES | EVALUATIONS


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"sequence_length": 4, "num_sequences": 16}, SEQUENCES | EVALUATIONS),
        ({"num_sequences": 16}, SEQUENCES | EVALUATIONS),
        ({"micro_batch": 4, "top_k": 8}, EVALUATIONS),
    ],
    ids=["exchanged", "equal", "moved"],
)
def test_values_that_change_places_or_become_equal(finished: Path, configure: Callable, settings, expected):
    """Snakemake compares the set of a job's params: names, order and number of values are lost."""
    configure(evaluate=settings)
    assert reruns(finished) == expected


def test_patterns_that_change_places(finished: Path, configure: Callable):
    configure(models={"tiny": {"source": "../models/tiny", "prunable": {"include": [], "exclude": ["*mlp*"]}}})
    assert reruns(finished) == HISTOGRAMS | masks("0.25", "0.5") | tickets("0.25", "0.5") | AFTER_MASKS


@pytest.mark.slow
def test_numbers_of_a_simulation_that_change_places(finished: Path, tmp_path: Path):
    folder = shutil.copytree(finished, tmp_path / "study")
    write_config(folder, simulation={"iterations": 3, "batch": 2})
    snakemake(folder)
    write_config(folder, simulation={"iterations": 2, "batch": 3})
    assert reruns(folder) == {"simulation tiny/words"} | TABLES
    write_config(folder, simulation={"iterations": 3, "batch": 3})
    assert reruns(folder) == {"simulation tiny/words"} | TABLES


def test_old_numbers_are_refused_though_snakemake_was_told_that_they_are_new(finished: Path, tmp_path: Path):
    """After --touch nothing is to be done, and no stage hands on or prints what another configuration asked for."""
    folder = shutil.copytree(finished, tmp_path / "study")
    write_config(folder, evaluate={"num_sequences": "all"})
    snakemake(folder, "--touch")
    assert reruns(folder) == set()
    why = "made with evaluate.num_sequences 4, but the configuration asks for all; delete it and run again"
    table = ["--config", "config/config.yaml"]
    printed = subprocess.run(
        [sys.executable, folder / "scripts/print_table.py", *table],
        cwd=folder, env=plain_environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert printed.returncode == 1
    assert not printed.stdout
    assert printed.stderr.startswith(f"error: results/report/SHA256SUMS: {why}")
    for rule, first in (("report", "baselines/tiny/words.json"), ("tables", "baselines/tiny/words.json"),
                        ("baseline", "sequences/tiny/words.safetensors")):  # fmt: skip
        (error,) = set(refused(folder, "--forcerun", rule))  # a log may be shown besides
        assert error.startswith(f"results/{first}: {why}")


def test_precision_changed(finished: Path, configure: Callable):
    configure(evaluate={"precision": "bfloat16"})
    assert reruns(finished) == EVALUATIONS


@pytest.mark.parametrize("top_k", [0, 8])
def test_number_of_top_tokens_changed(finished: Path, configure: Callable, top_k: int):
    configure(evaluate={"top_k": top_k})
    assert reruns(finished) == EVALUATIONS


@pytest.mark.slow
def test_perturbations_added(finished: Path, configure: Callable):
    """Rounding has no seed; noise has one job for each."""
    configure(robustness={"perturbations": ["int4", "noise-0.1"], "seeds": [5, 6]})
    expected = set()
    for axes in ("int4/seed-none", "noise-0.1/seed-5", "noise-0.1/seed-6"):
        where = f"tiny/words/{axes}"
        expected.add(f"perturbed_dense {where}/dense")
        expected |= {
            f"perturbed_ticket {where}/{draw}/{sparsity}" for draw in (MAGNITUDE, RANDOM) for sparsity in (0.25, 0.5)
        }
    assert reruns(finished) == expected | TABLES


def test_prunable_weights_changed(finished: Path, configure: Callable):
    configure(models={"tiny": {"source": "../models/tiny", "prunable": {"preset": "all-weights"}}})
    assert reruns(finished) == HISTOGRAMS | masks("0.25", "0.5") | tickets("0.25", "0.5") | AFTER_MASKS


def test_a_tokenizer_that_lies_elsewhere_is_looked_at_too(finished: Path, configure: Callable):
    configure(models={"tiny": {"source": "../models/tiny", "tokenizer": "../models/words"}})
    (finished / "models/words").mkdir()
    (finished / "models/words/tokenizer.json").write_text("{}")
    assert re.search(r"input: .*models/words/tokenizer.json", snakemake(finished, "--dry-run", "--quiet", "host"))
    shutil.rmtree(finished / "models/words")


def test_text_added(finished: Path, configure: Callable):
    configure(data={"more": {"source": "../texts/words.txt"}})
    added = {job.replace("words", "more") for job in SEQUENCES | BASELINE | tickets("0.25", "0.5")}
    assert reruns(finished) == added | TABLES


def test_defaults_written_out_and_threads_changed(finished: Path):
    """What does not change a result reruns nothing."""
    config = {
        **CONFIG,
        "threads": 1,
        "evaluate": {**CONFIG["evaluate"], "precision": "auto", "device": "auto", "devices": 3},
    }
    (finished / "config/config.yaml").write_text(yaml.safe_dump(config))
    try:
        assert reruns(finished, "--set-resources", "baseline:gpu=3", "ticket:gpu=0") == set()
    finally:
        write_config(finished)


def test_sharing_a_pass_changes_no_result(finished: Path, configure: Callable):
    def found() -> dict[Path, dict]:
        paths = sorted((finished / "results/tickets").rglob("*.json"))
        return {path: json.loads(path.read_text()) for path in paths}

    shared = found()
    assert sorted(metrics["tickets"] for metrics in shared.values()) == [1, 3, 3, 3]
    configure(evaluate={"tickets_per_pass": 1})
    assert reruns(finished) == set()
    snakemake(finished, "--forcerun", "ticket")
    alone = found()
    for path, metrics in shared.items():
        assert alone[path]["tickets"] == 1
        for key in ("loss", "kl", "agreement", "sequence_sums", "micro_batch", "made_with"):
            assert alone[path][key] == metrics[key]
        assert alone[path]["provenance"]["inputs"] == metrics["provenance"]["inputs"]


def test_new_plan_and_other_resources(finished: Path):
    """What a job asks a scheduler for changes no result."""
    plan = finished / "results/plan/plan.json"
    stage = PlannedStage("mask", "tiny", None, 1, PlannedPeak(0, {}), 2**40, 0, None, "", "", 0, 0, 0)
    StudyPlan(True, {}, [stage]).write(plan)
    try:
        assert "Nothing to be done" in snakemake(
            finished, "--dry-run", "--set-resources", "ticket:mem_mb=9", "ticket:runtime=9"
        )
    finally:
        shutil.rmtree(plan.parent)


slow_case = partial(pytest.param, marks=pytest.mark.slow)  # like one that is not


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("src/ltpipe/checkpoints/load.py", EVERYTHING),
        ("src/ltpipe/data/sequences.py", SEQUENCES | EVALUATIONS),
        slow_case("src/ltpipe/data/documents.py", SEQUENCES | EVALUATIONS),
        ("src/ltpipe/pruning/histogram.py", HISTOGRAMS | masks("0.25", "0.5") | tickets("0.25", "0.5") | AFTER_MASKS),
        ("src/ltpipe/pruning/thresholds.py", masks("0.25", "0.5") | tickets("0.25", "0.5") | AFTER_MASKS),
        slow_case("src/ltpipe/pruning/build.py", masks("0.25", "0.5") | tickets("0.25", "0.5") | AFTER_MASKS),
        slow_case("src/ltpipe/streaming/blocks.py", EVERYTHING),
        ("src/ltpipe/evaluation/loss.py", EVALUATIONS),
        ("src/ltpipe/analysis/overlap_tables.py", {"overlap overlap/tiny"} | REPORT),
        slow_case("src/ltpipe/analysis/structure.py", {"validation validation/tiny"} | REPORT),
        ("src/ltpipe/analysis/confidence.py", TABLES),
        ("src/ltpipe/analysis/early_bird.py", REPORT),
        ("src/ltpipe/training/levels.py", set()),
        slow_case("src/ltpipe/reporting/figures.py", REPORT),
        ("src/ltpipe/reporting/page/page.html", REPORT),
        slow_case("src/ltpipe/reporting/terminal.py", set()),
        ("src/ltpipe/workflow/grid.py", set()),
        slow_case("src/ltpipe/runtime/slots.py", set()),
        ("scripts/mask.py", masks("0.25", "0.5") | tickets("0.25", "0.5") | AFTER_MASKS),
        ("models/tiny/model.safetensors", None),
        ("texts/words.txt", SEQUENCES | EVALUATIONS),
    ],
)
def test_file_edited(finished: Path, edit: Callable, module: str, expected: set[str] | None):
    edit(module, "  " if module.endswith(".json") else "w1" if module.endswith(".txt") else "# edited")
    assert reruns(finished) == (EVERYTHING if expected is None else expected)


@pytest.mark.slow
def test_smaller_checkpoint_is_made_where_asked_for(finished: Path):
    """Of a ticket that need not be in the grid; with `--force` once more, over the first."""
    place = finished / "results/smaller/tiny/magnitude/heads/seed-none/0.4"
    mask = finished / "results/masks/tiny/magnitude/heads"
    target = str((place / "model.safetensors").relative_to(finished))
    try:
        assert "29,408 → 24,800 parameters" in snakemake(finished, "--", target)
        assert json.loads((place / "config.json").read_text())["num_key_value_heads"] == 1
        assert "Nothing to be done" in snakemake(finished, "--dry-run", "--", target)
        assert reruns(finished) == set()
        assert "29,408 → 24,800 parameters" in snakemake(finished, "--force", "--", target)
    finally:
        shutil.rmtree(finished / "results/smaller", ignore_errors=True)
        shutil.rmtree(mask, ignore_errors=True)


@pytest.mark.slow
def test_two_runs_in_different_folders_are_equal(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Another folder, another hash seed, another number of threads: same masks to the byte, equal metrics."""
    other = study(tmp_path / "a folder with spaces")
    (other / "config/config.yaml").write_text(yaml.safe_dump({**CONFIG, "threads": 1}))
    monkeypatch.setenv("PYTHONHASHSEED", "123")
    snakemake(other)
    for kind in ("masks", "histograms", "sequences", "checkpoints"):
        files = sorted(path.relative_to(finished) for path in (finished / "results" / kind).rglob("*.safetensors"))
        assert files
        for file in files:
            assert (other / file).read_bytes() == (finished / file).read_bytes(), file
    for kind in ("baselines", "tickets"):
        for path in (finished / "results" / kind).rglob("*.json"):
            ours, theirs = (json.loads(file.read_text()) for file in (path, other / path.relative_to(finished)))
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-6)
            for key in ("correct", "tokens"):
                assert ours["sequence_sums"][key] == theirs["sequence_sums"][key]
            for key in ("kept", "total", "parameters", "sparsity", "seed", "criterion"):
                assert ours[key] == theirs[key]
            assert ours["provenance"]["inputs"] == theirs["provenance"]["inputs"]
