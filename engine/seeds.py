"""Seeds from names: the same run, target and variant give the same seed on every machine, in any order."""

from __future__ import annotations

import hashlib


def seed_of(*parts: object) -> int:
    """A seed in [0, 2**32) that depends on every part and nothing else."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest())
