"""Solvers on single matrices: equal to the published algorithms, exact in what they prune, and better than a mask."""

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.errors import UserError
from ltpipe.solving.pattern import Pattern
from ltpipe.solving.solver import pruned_by, solver_named, solver_names
from ltpipe.solving.solvers.sparsegpt import Options

PATTERNS = [("layer", "0.5"), ("layer", "0.7"), ("row", "0.6"), ("2of4", "0.5"), ("4of8", "0.5"), ("1of4", "0.75")]


def problem(rows: int = 40, columns: int = 320, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A weight, and the Gram matrix of correlated inputs."""
    draw = np.random.default_rng(seed).standard_normal
    inputs = draw((2 * columns, columns)) @ draw((columns, columns)) * 0.1
    return draw((rows, columns)), inputs.T @ inputs


def error(kept: np.ndarray, values: np.ndarray, weight: np.ndarray, gram: np.ndarray) -> float:
    change = np.where(kept, values, 0) - weight
    return float(np.vdot(change @ gram, change) / np.vdot(weight @ gram, weight))


def published(
    weight: np.ndarray, gram: np.ndarray, pattern: Pattern, block: int = 128, damping: float = 0.01
) -> tuple[np.ndarray, np.ndarray]:
    """SparseGPT as algorithm 1 of the paper has it, one column after the other, by torch in float64."""
    left, hessian = torch.from_numpy(weight.copy()), torch.from_numpy(gram.copy())
    hessian += damping * hessian.diag().mean() * torch.eye(len(hessian))
    inverse = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    rows, columns = left.shape
    pruned = torch.zeros(left.shape, dtype=torch.bool)
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        errors = torch.zeros(rows, stop - start, dtype=torch.float64)
        if pattern.each != "run":
            score = (left[:, start:stop] / inverse.diag()[start:stop]).square()
            count = pattern.pruned(rows, stop, columns) - pattern.pruned(rows, start, columns)
            chosen = pruned[:, start:stop]
            if pattern.each == "row":
                chosen.scatter_(1, score.topk(count // rows, 1, largest=False).indices, True)
            else:
                chosen.view(rows, -1)[tuple(_smallest(score, count))] = True
        for column in range(start, stop):
            if pattern.each == "run" and column % pattern.group == 0:
                run = slice(column, column + pattern.group)
                score = (left[:, run] / inverse.diag()[run]).square()
                least = score.topk(pattern.pruned(1, pattern.group), 1, largest=False).indices
                pruned[:, run].scatter_(1, least, True)
            gone = torch.where(pruned[:, column], left[:, column], 0.0) / inverse[column, column]
            errors[:, column - start] = gone
            left[:, column:stop] -= gone[:, None] * inverse[None, column, column:stop]
        left[:, stop:] -= errors @ inverse[start:stop, stop:]
    return (~pruned).numpy(), left.numpy()


def _smallest(score: torch.Tensor, count: int) -> Iterator[torch.Tensor]:
    flat = score.flatten().topk(count, largest=False).indices
    yield flat // score.shape[1]
    yield flat % score.shape[1]


@pytest.mark.parametrize(("scope", "sparsity"), PATTERNS)
def test_sparsegpt_is_the_published_algorithm(scope, sparsity):
    weight, gram = problem()
    pattern = Pattern.of(scope, Sparsity.of(sparsity), {})
    kept, values = solver_named("sparsegpt").solve(weight.copy(), gram.copy(), pattern, Options())
    wanted_kept, wanted = published(weight, gram, pattern)
    assert np.array_equal(kept, wanted_kept)
    assert np.allclose(np.where(kept, values, 0), np.where(kept, wanted, 0), rtol=0, atol=1e-7)


def test_the_block_and_the_damping_are_options():
    weight, gram = problem()
    pattern = Pattern.of("layer", Sparsity.of("0.5"), {})
    for options in (Options(block=32), Options(block=320), Options(damping=0.1)):
        kept, values = solver_named("sparsegpt").solve(weight.copy(), gram.copy(), pattern, options)
        wanted_kept, wanted = published(weight, gram, pattern, options.block, options.damping)
        assert np.array_equal(kept, wanted_kept)
        assert np.allclose(np.where(kept, values, 0), np.where(kept, wanted, 0), rtol=0, atol=1e-7)


@pytest.mark.parametrize("solver", solver_names())
@pytest.mark.parametrize(("scope", "sparsity"), [*PATTERNS, ("row", "0"), ("layer", "1"), ("layer", "0.333")])
def test_exactly_as_many_are_pruned_as_promised(solver, scope, sparsity):
    weight, gram = problem(rows=7)
    pattern = Pattern.of(scope, Sparsity.of(sparsity), {})
    rule = solver_named(solver)
    kept, _ = rule.solve(weight.copy(), gram.copy(), pattern, rule.options())
    runs = {"row": kept, "matrix": kept.reshape(1, -1), "run": kept.reshape(-1, pattern.group)}[pattern.each]
    assert set((~runs).sum(1)) == {Sparsity.of(sparsity).count(runs.shape[1])}
    assert (~kept).sum() == pattern.pruned(*weight.shape)


@pytest.mark.parametrize("solver", solver_names())
@pytest.mark.parametrize("scope", ["row", "layer", "2of4"])
@pytest.mark.parametrize(("rows", "columns"), [(3, 1408), (4096, 256)], ids=["Gram matrix", "matrix"])
def test_what_solving_takes_is_planned(solver, scope, rows, columns):
    rule, pattern = solver_named(solver), Pattern.of(scope, Sparsity.of("0.5"), {})
    options = rule.options()
    rule.solve(*problem(3, 256), pattern, options)  # compiled now
    weight, gram = problem(rows, columns)
    tracemalloc.start()
    rule.solve(weight, gram, pattern, options)
    _, taken = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    matrices, grams = rule.copies(options)
    of_few_columns = 3 * 128 * rows if "sparsegpt" in (solver, getattr(options, "after", "")) else 0
    planned = 8 * (matrices * rows * columns + grams * columns**2 + of_few_columns)
    assert 0.8 * planned <= taken <= 1.03 * planned + 100_000


def alternating(
    weight: np.ndarray, gram: np.ndarray, pattern: Pattern, steps: int = 20, rising: int = 15
) -> tuple[np.ndarray, np.ndarray]:
    """ADMM as the paper has it: with G = N H N, min |N W - Z|_H over W = Z and sparse Z, by torch in float64."""
    gram, weight = torch.from_numpy(gram), torch.from_numpy(weight)
    norms = gram.diag().sqrt()
    scaled = gram / torch.outer(norms, norms)
    hessian = scaled + 0.1 * scaled.diag().mean() * torch.eye(len(gram))
    dense = (weight * norms).T
    left, dual = dense.clone(), torch.zeros_like(dense)
    inverse = torch.linalg.inv(hessian + torch.eye(len(gram)))
    kept = torch.ones_like(dense, dtype=torch.bool)
    for step in range(steps):
        if step < rising:
            share = 1 - (1 - (step + 1) / rising) ** 3
            kept = _rising((left + dual).abs().T, pattern, share).T
        sparse = (left + dual) * kept
        dual = dual + left - sparse
        left = inverse @ (hessian @ dense + sparse - dual)
    return kept.T.numpy(), ((left + dual).T / norms).numpy()


def _rising(scores: torch.Tensor, pattern: Pattern, share: float) -> torch.Tensor:
    """The mask that keeps the largest scores, and all but a share of those that the final mask prunes."""
    rows, columns = scores.shape
    runs = {"row": scores, "matrix": scores.reshape(1, -1), "run": scores.reshape(-1, pattern.group)}[pattern.each]
    each = pattern.pruned(rows, columns) // len(runs)
    order = runs.argsort(1).argsort(1)
    if pattern.each != "run":
        return (order >= int(share * each)).reshape(rows, columns)
    last = torch.where(order < each, runs, torch.inf).reshape(-1)
    kept = torch.ones(rows * columns, dtype=torch.bool)
    kept[last.argsort()[: int(share * pattern.pruned(rows, columns))]] = False
    return kept.reshape(rows, columns)


@pytest.mark.parametrize(("scope", "sparsity"), PATTERNS)
def test_admm_is_the_published_algorithm(scope, sparsity):
    weight, gram = problem()
    pattern = Pattern.of(scope, Sparsity.of(sparsity), {})
    rule = solver_named("admm")
    kept, values = rule.solve(weight.copy(), gram.copy(), pattern, rule.options())
    wanted_kept, wanted = alternating(weight, gram, pattern)
    assert (kept == wanted_kept).mean() > 0.999, "scores are compared as float32"
    both = kept & wanted_kept
    assert np.allclose(values[both], wanted[both], rtol=0, atol=0.02)


def splitting(weight: np.ndarray, gram: np.ndarray, pattern: Pattern) -> tuple[np.ndarray, np.ndarray]:
    """ALPS as the paper has it, in the units in which the Gram matrix has a diagonal of 1, by torch in float64."""
    gram, weight = torch.from_numpy(gram), torch.from_numpy(weight)
    norms = gram.diag().sqrt()
    hessian = gram / torch.outer(norms, norms)
    hessian += 0.01 * hessian.diag().mean() * torch.eye(len(gram))
    dense = (weight * norms).T
    values, vectors = torch.linalg.eigh(hessian)
    prune, penalty, dual = pattern.pruned(*weight.shape), 0.1, torch.zeros_like(dense)

    def projected(of: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(pattern.keep(of.abs().T.numpy(), prune)).T

    kept = before = projected(dense)
    sparse = dense.clone()
    for step in range(1, 301):
        solved = vectors @ (vectors.T @ (hessian @ dense - dual + penalty * sparse) / (values + penalty)[:, None])
        kept = projected(solved + dual / penalty)
        sparse = kept * (solved + dual / penalty)
        dual = dual + penalty * (solved - sparse)
        if step % 3 == 0:
            changed = (kept & ~before).sum() / kept.sum()
            if not changed:
                break
            penalty *= 1.3 if changed >= 0.1 else 1.2 if changed >= 0.005 else 1.1
            before = kept
    for column in range(sparse.shape[1]):  # the least squares to which conjugate gradients go
        inside = kept[:, column]
        right = (hessian @ dense[:, column])[inside]
        sparse[inside, column] = torch.linalg.solve(hessian[inside][:, inside], right)
    return kept.T.numpy(), (sparse.T / norms).numpy()


@pytest.mark.parametrize(("scope", "sparsity"), PATTERNS)
def test_alps_is_the_published_algorithm(scope, sparsity):
    weight, gram = problem()
    pattern = Pattern.of(scope, Sparsity.of(sparsity), {})
    rule = solver_named("alps")
    kept, values = rule.solve(weight.copy(), gram.copy(), pattern, rule.options(steps=300))
    wanted_kept, wanted = splitting(weight, gram, pattern)
    assert (kept == wanted_kept).mean() > 0.999, "scores are compared as float32"
    same = (kept == wanted_kept).all(1)
    assert same.sum() > 20
    assert np.allclose(np.where(kept, values, 0)[same], np.where(wanted_kept, wanted, 0)[same], rtol=0, atol=1e-4)
    exact, few, none = (
        error(*rule.solve(weight.copy(), gram.copy(), pattern, rule.options(steps=steps)), weight, gram)
        for steps in (300, 10, 0)
    )
    assert exact < 1.001 * few  # what is smallest has the damping in it
    assert few < none


@pytest.mark.parametrize(("scope", "sparsity"), PATTERNS)
@pytest.mark.parametrize("after", ["magnitude", "wanda-sequential", "sparsegpt", "admm"])
def test_no_swap_is_left_that_would_help(scope, sparsity, after):
    weight, gram = problem(rows=9, columns=64)
    pattern = Pattern.of(scope, Sparsity.of(sparsity), {})
    rule = solver_named("swaps")
    start, _ = pruned_by(after, weight.copy(), gram.copy(), pattern)
    kept, values = rule.solve(weight.copy(), gram.copy(), pattern, rule.options(after=after))
    assert np.array_equal(values, weight)
    assert np.array_equal(kept.sum(1), start.sum(1))
    assert error(kept, weight, weight, gram) < error(start, weight, weight, gram)
    length = pattern.group if pattern.each == "run" else 64
    for row in range(9):
        lost = np.where(kept[row], 0, weight[row])
        least = lost @ gram @ lost
        for out in np.flatnonzero(kept[row]):
            for back in np.flatnonzero(~kept[row]):
                if out // length == back // length:
                    other = lost.copy()
                    other[out], other[back] = weight[row, out], 0
                    assert other @ gram @ other > least * (1 - 1e-9)


def test_swaps_end_after_their_rounds():
    weight, gram = problem(rows=9, columns=64)
    pattern = Pattern.of("row", Sparsity.of("0.6"), {})
    rule = solver_named("swaps")
    errors = [
        error(rule.solve(weight.copy(), gram.copy(), pattern, rule.options(rounds=rounds))[0], weight, weight, gram)
        for rounds in (1, 2, 100)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > errors[2]


@pytest.mark.parametrize(("scope", "sparsity"), PATTERNS)
def test_new_values_are_better_than_the_mask_alone(scope, sparsity):
    weight, gram = problem()
    pattern = Pattern.of(scope, Sparsity.of(sparsity), {})
    kept, values = solver_named("sparsegpt").solve(weight.copy(), gram.copy(), pattern, Options())
    plain, same = solver_named("wanda-sequential").solve(weight.copy(), gram.copy(), pattern, None)
    assert np.array_equal(same, weight)
    assert error(kept, values, weight, gram) < 0.8 * error(kept, weight, weight, gram)
    assert error(kept, values, weight, gram) < 0.8 * error(plain, weight, weight, gram)


def test_wanda_keeps_the_largest_products_of_each_row():
    weight, gram = problem()
    pattern = Pattern.of("row", Sparsity.of("0.6"), {})
    kept, _ = solver_named("wanda-sequential").solve(weight.copy(), gram.copy(), pattern, None)
    scores = np.abs(weight) * np.sqrt(np.diag(gram))
    wanted = np.argsort(np.argsort(scores, axis=1), axis=1) >= 192
    assert np.array_equal(kept, wanted)


def test_inputs_that_are_always_zero_lose_their_weights():
    weight, gram = problem()
    gram[:20], gram[:, :20] = 0, 0
    pattern = Pattern.of("layer", Sparsity.of("0.5"), {})
    kept, values = solver_named("sparsegpt").solve(weight.copy(), gram.copy(), pattern, Options())
    assert not values[:, :20].any()
    assert np.isfinite(values).all()
    assert not kept[:, :20].any()


def test_inputs_that_do_not_determine_a_weight_are_damped():
    """Fewer calibration tokens than inputs: the Gram matrix is singular."""
    weight, _ = problem()
    inputs = np.random.default_rng(1).standard_normal((30, 320))
    pattern = Pattern.of("layer", Sparsity.of("0.5"), {})
    _, values = solver_named("sparsegpt").solve(weight.copy(), inputs.T @ inputs, pattern, Options())
    assert np.isfinite(values).all()
    with pytest.raises(UserError, match="Gram matrix of its inputs is singular; use more calibration"):
        solver_named("sparsegpt").solve(weight.copy(), inputs.T @ inputs, pattern, Options(damping=1e-30))


@pytest.mark.parametrize(
    ("scope", "sparsity", "said"),
    [
        ("global", "0.5", "scope 'global': solvers cannot do it; use row, layer, NofM"),
        ("heads", "0.5", "cannot do it"),
        ("block16x16", "0.5", "cannot do it"),
        ("2of4", "0.6", "prunes exactly 0.5, not 0.6"),
        ("nonsense", "0.5", "unknown"),
    ],
)
def test_scopes_that_solvers_cannot_do(scope, sparsity, said):
    with pytest.raises(UserError, match=said):
        Pattern.of(scope, Sparsity.of(sparsity), {})


def test_an_allocated_number_is_spread_over_the_rows_of_a_tensor():
    """Of 3 matrices of 4 rows, the first 5 rows lose one more: those of the first, and one of the second."""
    pattern = Pattern.of("owl-row", Sparsity.of("0.5"), {})
    found = [pattern.of_tensor(12 * 7 + 5, 12, first, first + 4) for first in (0, 4, 8)]
    counts = [[(part.start, part.stop, each.count) for part, each in parts] for parts in found]
    assert counts == [[(0, 4, 8)], [(0, 1, 8), (1, 4, 7)], [(0, 4, 7)]]
    ((_, whole),) = Pattern.of("erk", Sparsity.of("0.5"), {}).of_tensor(89, 12, 0, 12)
    assert whole.pruned(12, 16) == 89
    assert whole.pruned(12, 8, 16) == 44


def test_rows_may_lose_the_papers_truncated_counts():
    pattern = Pattern.of("row", Sparsity.of("0.6"), {"counts": "truncated"})
    assert pattern.pruned(1, 576) == int(576 * 0.6)
    assert Pattern.of("row", Sparsity.of("0.6"), {}).pruned(1, 576) == 346


@pytest.mark.parametrize("options", [{"damping": 0}, {"damping": float("nan")}, {"block": 0}])
def test_options_that_are_not_allowed(options):
    with pytest.raises(UserError, match=r"is not allowed; use"):
        Options(**options)
