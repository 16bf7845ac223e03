"""The digest of tensors: as its formula says, whatever the pieces, threads and readers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltpipe.pruning import kernels
from ltpipe.runtime.digest import STEP, Digest, digest, word_sum
from ltpipe.runtime.digest_kernels import sum_terms


def by_formula(content: bytes) -> int:
    total = 0
    for index in range(0, len(content), 8):
        word = int.from_bytes(content[index : index + 8], "little")
        x = word ^ (index // 8 * STEP % 2**64)
        total += (x % 2**32) * (x >> 32) + x
    return total % 2**64


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4))
def test_formula_in_pieces(content, cuts):
    data, running = np.frombuffer(content, np.uint8), Digest()
    for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), 300], strict=True):
        running.update(data[begin:end])
    assert running.value == digest(data) == by_formula(content)


def test_formula_is_fixed():
    """It is in every file ever written."""
    assert digest(np.arange(5, dtype=np.uint16)) == 0xECE607D7D66C2D5A


@given(st.binary(min_size=1, max_size=40))
def test_every_flipped_bit_changes_it(content):
    sound = by_formula(content)
    for position in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        assert digest(np.frombuffer(bytes(flipped), np.uint8)) != sound


@pytest.mark.parametrize("threads", [1, 2])
def test_compiled_loop(threads):
    words = np.random.default_rng(0).integers(0, 2**64, 20_011, dtype=np.uint64)
    kernels.use_threads(threads)
    assert sum_terms(words, 2**40) == word_sum(words, 2**40)
