"""Errors meant for the person. Everything else that is raised is a bug and keeps its traceback."""

from __future__ import annotations

from collections.abc import Sequence

from db.records import Fault


class WinnowError(Exception):
    """Something a person can put right. The message says what was wrong, what was seen and what to do."""


class NotFound(WinnowError):
    """A named thing does not exist; the message lists what does."""

    def __init__(self, what: str, name: object, known: Sequence[object] = ()) -> None:
        listed = f" Known: {', '.join(map(str, known))}." if known else " There are none yet."
        super().__init__(f"No {what} named {name!r}.{listed}")


class Conflict(WinnowError):
    """Somebody else changed the thing in the meantime; nothing was written."""


class LostLease(WinnowError):
    """A worker's lease on a shard was taken over; its late output is discarded."""


class BadDataset(WinnowError):
    """A data set could not be read. Carries every fault found, not only the first."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        shown = "\n".join(f"  {fault}" for fault in self.faults[:50])
        more = f"\n  ... and {len(self.faults) - 50} more" if len(self.faults) > 50 else ""
        super().__init__(f"{len(self.faults)} fault(s); nothing was imported:\n{shown}{more}")
