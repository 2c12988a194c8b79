"""What a process of a bench has needed of memory at most."""

from __future__ import annotations

import re
import resource
from pathlib import Path


def peak_mib() -> float:
    """Since its program began, by Linux's own mark: `ru_maxrss` also counts the process that started this one."""
    try:
        return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) / 1024
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
