"""Errors meant for the person. Everything else that is raised is a bug and keeps its traceback."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from db.records import Fault

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class WinnowError(Exception):
    """Something a person can put right. The message says what was wrong, what was seen and what to do."""


class NotFound(WinnowError):
    """A named thing does not exist; the message lists what does."""

    def __init__(self, what: str, name: object, known: Sequence[object] = ()) -> None:
        listed = f" Known: {', '.join(map(str, known))}." if known else " There are none yet."
        super().__init__(f"No {what} named {name!r}.{listed}")


class Conflict(WinnowError):
    """Somebody else changed the thing in the meantime; nothing was written."""


class Unwritable(WinnowError):
    """Nothing can be stored at the moment, and nothing was; the same again may go well later."""


class DiskFull(Unwritable):
    """There is no room for it."""


class Busy(Unwritable):
    """Another process holds the database."""


class Unreachable(Unwritable):
    """The server of the database, or of the blobs, does not answer now."""


def not_written(error: OSError, what: str) -> WinnowError:
    """What a failed write means to a person; `what` could not be done."""
    if error.errno in NO_ROOM:
        return DiskFull(f"{what}: the disk is full ({error.strerror}). Free some space and try again.")
    return WinnowError(f"{what}: {error.strerror or error}.")


class LostLease(WinnowError):
    """A worker's lease on a shard was taken over; its late output is discarded."""


class BadDataset(WinnowError):
    """A data set could not be read. Carries every fault found, not only the first."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        shown = "\n".join(f"  {fault}" for fault in self.faults[:50])
        more = f"\n  ... and {len(self.faults) - 50} more" if len(self.faults) > 50 else ""
        super().__init__(f"{len(self.faults)} fault(s); nothing was imported:\n{shown}{more}")
