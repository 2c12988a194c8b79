"""What running work may say and ask: its progress, a log line, whether it should stop."""

from __future__ import annotations

from typing import Protocol


class Stopped(Exception):
    """Work ended because it was asked to; what it stored so far stays, the rest is done later."""


class Control(Protocol):
    def stop_requested(self) -> bool: ...

    def progress(self, done: int, total: int | None = None) -> None:
        """Items of this shard done so far."""
        ...

    def log(self, text: str, level: str = "info") -> None: ...


class Silent:
    """A control of runs and a reporter of trainings that says nothing and never stops them."""

    def metrics(self, step: int, values: dict[str, float]) -> None: ...

    def progress(self, done: int, total: int | None = None) -> None: ...

    def stop_requested(self) -> bool:
        return False

    def log(self, text: str, level: str = "info") -> None: ...
