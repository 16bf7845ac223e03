"""Fixtures of the API's tests."""

from collections.abc import Iterator

import pytest

from ltpipe.pruning import kernels


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Starting a second thread for a few numbers costs more than the work, above all on a busy machine."""
    kernels.use_threads(1)
    yield
    kernels.use_threads(2)
