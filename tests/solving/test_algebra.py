"""Products and factors: equal to numpy's, and the same to the byte with any number of threads at usual widths."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ltpipe.solving.algebra import energy, gram_matrix, product, subtract_product, upper_of_inverse

DRAW = np.random.default_rng(0).standard_normal
MATRIX = DRAW((192, 640))
GRAM = (lambda inputs: inputs.T @ inputs)(DRAW((900, 640)))


def subtracted() -> np.ndarray:
    found = MATRIX.copy()
    subtract_product(found[:, 128:], MATRIX[:, :128], GRAM[:128, 128:])
    return found


CALCULATIONS = {
    "product": lambda: product(MATRIX, GRAM),
    "difference": subtracted,
    "Gram matrix": lambda: gram_matrix(torch.from_numpy(MATRIX).float()).numpy(),
    "factor": lambda: upper_of_inverse(GRAM.copy()),
    "energy": lambda: np.array(energy(MATRIX, GRAM)),
}
THREADS = (1, 2, 3, 5)


@pytest.fixture
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("calculate", CALCULATIONS.values(), ids=CALCULATIONS)
def test_the_same_bytes_with_any_number_of_threads(calculate: Callable[[], np.ndarray]):
    found = set()
    for threads in THREADS:
        torch.set_num_threads(threads)
        found.add(calculate().tobytes())
    assert len(found) == 1


def test_products_are_numpys():
    assert np.allclose(product(MATRIX, GRAM), MATRIX @ GRAM, rtol=1e-12, atol=1e-9)
    wanted = np.hstack([MATRIX[:, :128], MATRIX[:, 128:] - MATRIX[:, :128] @ GRAM[:128, 128:]])
    assert np.allclose(subtracted(), wanted, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("columns", [1, 3, 4, 67, 640])
def test_the_gram_matrix_is_symmetric_and_whole(columns):
    rows = torch.from_numpy(MATRIX[:, :columns]).float()
    found = gram_matrix(rows)
    assert torch.allclose(found, rows.T @ rows, rtol=1e-5, atol=1e-4)
    assert torch.equal(found, found.T)


@pytest.mark.parametrize("columns", [1, 64, 101, 256, 257, 640])
def test_the_energy_is_the_squared_norm_of_the_outputs(columns):
    matrix, gram = MATRIX[:, :columns], GRAM[:columns, :columns]
    assert energy(matrix, gram) == pytest.approx(np.trace(matrix @ gram @ matrix.T), rel=1e-12)


@pytest.mark.parametrize("rows", [1, 2, 99, 100, 101, 202, 640])
def test_the_factor_is_that_of_the_inverse(rows):
    gram = GRAM[:rows, :rows]
    upper = upper_of_inverse(gram.copy())
    assert np.allclose(upper, np.linalg.cholesky(np.linalg.inv(gram)).T, rtol=1e-9, atol=1e-12)
    assert not np.tril(upper, -1).any()


@pytest.mark.parametrize("rows", [3, 150, 640])
@pytest.mark.parametrize("last", [0.0, -1.0])
def test_a_matrix_without_a_factor_is_seen_on_the_diagonal(rows, last):
    gram = GRAM[:rows, :rows].copy()
    gram[rows // 2] = gram[:, rows // 2] = 0
    gram[rows // 2, rows // 2] = last
    assert not np.isfinite(np.diag(upper_of_inverse(gram))).all()
