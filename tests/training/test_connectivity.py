"""Lines between weights whose error is known in closed form."""

import pytest
import torch

from ltpipe.runtime.errors import UserError
from ltpipe.training.connectivity import Connectivity, errors_along_line, interpolate

FIRST = {"w": torch.tensor([1.0, 0.1]), "count": torch.tensor(7)}
SECOND = {"w": torch.tensor([-1.0, 0.3]), "count": torch.tensor(9)}


def line_of(first, second, error):
    return Connectivity.of("lenet", 0, 0, ("ticket", "order-1"), errors_along_line(first, second, error))


def test_barrier_of_a_hill():
    """E = 0.2 + 0.1 w0 + 0.5 (1 - w0^2): 0.3 and 0.1 at the ends, and w0 = 2a - 1 between them."""
    asked = []

    def error(weights):
        place = float(weights["w"][0])
        asked.append(place)
        return 0.2 + 0.1 * place + 0.5 * (1 - place**2)

    line = line_of(FIRST, SECOND, error)
    assert asked == pytest.approx([2 * index / 29 - 1 for index in range(30)])
    assert line.alphas[0] == 0
    assert line.alphas[-1] == 1
    assert (line.errors[0], line.errors[-1]) == pytest.approx((0.1, 0.3))
    heights = [0.2 + 0.1 * place + 0.5 * (1 - place**2) for place in asked]
    assert line.barrier == pytest.approx(max(heights) - 0.2)
    assert not line.stable


def test_a_valley_has_no_barrier():
    line = line_of(FIRST, SECOND, lambda weights: float(weights["w"][0]) ** 2 / 10)
    assert line.barrier == pytest.approx(0)
    assert line.stable


def test_ends_are_exact_and_whole_numbers_are_not_mixed():
    for alpha, end in ((1.0, FIRST), (0.0, SECOND)):
        assert torch.equal(interpolate(FIRST, SECOND, alpha)["w"], end["w"])
    middle = interpolate(FIRST, SECOND, 0.5)
    assert middle["count"] == 7
    assert middle["w"].tolist() == pytest.approx([0.0, 0.2])
    assert FIRST["w"].tolist() == pytest.approx([1.0, 0.1])


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="different models"):
        interpolate(FIRST, {"w": FIRST["w"]}, 0.5)
    with pytest.raises(UserError, match="use 2 or more"):
        errors_along_line(FIRST, SECOND, lambda _: 0.0, points=1)
