"""What a studio on several machines shares: where its database, its blobs and its doorbell are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from db.errors import WinnowError

SHORTEST = 32  # characters of a secret


@dataclass(frozen=True, slots=True)
class Shared:
    """URLs; "" for what lies in the home folder of the one machine. `secret` signs what goes through the queue and what browsers
    are given; all machines have the same one. Nothing of it is shown by `repr`, since URLs hold passwords.

    Raises WinnowError for a secret that is too short.
    """

    database_url: str = field(default="", repr=False)
    blobs_url: str = field(default="", repr=False)
    queue_url: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if 0 < len(self.secret) < SHORTEST:
            raise WinnowError(
                f"The setting secret has {len(self.secret)} characters; right are at least {SHORTEST} random ones, the same on every "
                'machine: python -c "import secrets; print(secrets.token_hex(32))"'
            )

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Shared:
        """Of all settings, those that name something shared."""
        return cls(**{one.name: settings[one.name] for one in fields(cls) if one.name in settings})

    def settings(self) -> dict[str, str]:
        """The inverse of `of`."""
        return asdict(self)
