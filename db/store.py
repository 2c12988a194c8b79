"""The store: everything that is true, behind one door. Nobody outside `db` knows that there is a database."""

from __future__ import annotations

from pathlib import Path

from db.audits import Audits
from db.blobs import Blobs
from db.database import Database
from db.datasets import Datasets
from db.ledger import Ledger
from db.migrate import migrate
from db.review import Review
from db.snapshots import Snapshots


class Store:
    """A folder with `winnow.db` and `blobs/`.

    datasets   import, browse and stream data sets
    review     candidates, scores, verdicts, policies and the queue
    audits     random samples of what a policy accepts, and the looks at them
    snapshots  frozen selections
    ledger     runs, shards, leases, logs, metrics
    blobs      files by content
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        migrate(home / "winnow.db")
        self._database = Database(home / "winnow.db")
        self.blobs = Blobs(home / "blobs")
        self.datasets = Datasets(self._database, self.blobs)
        self.review = Review(self._database)
        self.audits = Audits(self._database)
        self.snapshots = Snapshots(self._database, self.blobs, self.datasets, self.review)
        self.ledger = Ledger(self._database)

    def close(self) -> None:
        self._database.close()
