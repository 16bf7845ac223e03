"""Seeds that depend on names, not on processes."""

import hashlib


def stable_seed(seed: int, *names: str) -> int:
    """Return a 128-bit seed from a user's seed and any number of names, equal in every process and on every machine.

    Python's `hash` of a string differs between processes; SHA-256 does not.
    """
    text = "\0".join([str(seed), *names]).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:16], "little")
