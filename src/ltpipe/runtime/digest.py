"""A 64-bit digest, computed nearly as fast as memory is read: it detects damage but does not protect against tampering.

Bytes are read as little-endian 64-bit words w_0, w_1, …, the last one padded with zeros. With x_i = w_i XOR
(i * STEP mod 2^64), low half l_i and high half h_i, the digest is the sum of all l_i * h_i + x_i mod 2^64.

A single flipped bit always changes it: it changes one term by 2^k (h + 1) or by 2^k (l + 2^32) with k < 32, and neither
is a multiple of 2^64. Other damage is missed by chance, with a probability of about 2^-32 or less. Sums do not depend
on order, so threads and pieces of any size give the same digest. It does not cover the length: store that as well.
"""

import numpy as np

STEP = 0x9E3779B97F4A7C15
"""2^64 divided by the golden ratio, odd, so that no two words of a file are mixed with the same number."""

_MASK = 2**64 - 1
_CHUNK = 1 << 13  # words per NumPy call, small enough for the L2 cache
_COMPILED_FROM = 1 << 22  # bytes from which numba's start-up pays off


def digest(data: np.ndarray) -> int:
    """Return the digest of an array's bytes in row-major order; for content in pieces use `Digest`."""
    running = Digest()
    running.update(data)
    return running.value


class Digest:
    """A digest of bytes that arrive in pieces; `words` is the number of whole words so far."""

    def __init__(self) -> None:
        self._sum = 0
        self.words = 0
        self._rest = b""

    @property
    def value(self) -> int:
        """The digest of all bytes so far."""
        tail = np.frombuffer(self._rest.ljust(8, b"\0"), "<u8")
        return (self._sum + word_sum(tail, self.words) if self._rest else self._sum) & _MASK

    def update(self, piece: np.ndarray) -> None:
        """Add bytes; they are copied only where a word spans two pieces."""
        data = np.ascontiguousarray(piece).reshape(-1).view(np.uint8)
        if self._rest:
            missing = 8 - len(self._rest)
            self._rest, data = self._rest + data[:missing].tobytes(), data[missing:]
            if len(self._rest) < 8:
                return
            self.add(word_sum(np.frombuffer(self._rest, "<u8"), self.words), 1)
        whole = data[: data.size // 8 * 8].view("<u8")
        self.add(word_sum(whole, self.words), whole.size)
        self._rest = data[whole.nbytes :].tobytes()

    def add(self, terms: int, words: int) -> None:
        """Add `words` words by the sum of their terms; earlier pieces must have ended with a whole word."""
        self._sum += terms
        self.words += words


def word_sum(words: np.ndarray, first: int) -> int:
    """Return the sum mod 2^64 of the terms of words, uint64 [N], numbered from `first`."""
    if words.nbytes >= _COMPILED_FROM and words.flags.aligned:
        from ltpipe.runtime.digest_kernels import sum_terms

        return int(sum_terms(words, first))
    total = 0
    for start in range(0, words.size, _CHUNK):
        part = words[start : start + _CHUNK]
        number = np.uint64((first + start) * STEP & _MASK)
        x = part ^ (_NUMBERS[: part.size] + number)
        total += int(((x & np.uint64(0xFFFFFFFF)) * (x >> np.uint64(32)) + x).sum(dtype=np.uint64))
    return total & _MASK


_NUMBERS = np.arange(_CHUNK, dtype=np.uint64) * np.uint64(STEP)
