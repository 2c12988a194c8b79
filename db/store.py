"""The store: everything that is true, behind one door. Nobody outside `db` knows that there is a database."""

from __future__ import annotations

from pathlib import Path

from db.audits import Audits
from db.blobs import Blobs, SharedBlobs
from db.database import Database
from db.datasets import Datasets
from db.edits import Edits
from db.figures import Figures, figures
from db.ledger import Ledger
from db.migrate import migrate
from db.people import People
from db.review import Review
from db.shared import Shared
from db.snapshots import Snapshots
from db.users import Users
from db.views import Views


class Store:
    """A folder with `winnow.db` and `blobs/`, or what several machines share instead of them.

    datasets   import, browse and stream data sets
    review     candidates, scores, verdicts, policies and the queue
    edits      corrections of the annotations of images, version by version
    people     leases, second looks, disputes, who decided what when
    views      filters kept under a name
    audits     random samples of what a policy accepts, and the looks at them
    snapshots  frozen selections
    users      accounts, sessions, and the trail of what people did
    ledger     runs, shards, leases, logs, metrics
    blobs      files by content
    """

    def __init__(self, home: Path, shared: Shared = Shared()) -> None:  # noqa: B008 (it never changes)
        self.home, self.shared = home, shared
        home.mkdir(parents=True, exist_ok=True)
        place = shared.database_url or home / "winnow.db"
        migrate(place)
        self._database = Database(place)
        self.blobs = (
            SharedBlobs(shared.blobs_url, home / "cache" / "blobs") if shared.blobs_url else Blobs(home / "blobs")
        )
        self.datasets = Datasets(self._database, self.blobs)
        self.edits = Edits(self._database, self.datasets)
        self.review = Review(self._database)
        self.people = People(self._database)
        self.views = Views(self._database)
        self.audits = Audits(self._database)
        self.snapshots = Snapshots(self._database, self.blobs, self.datasets, self.review, self.edits)
        self.users = Users(self._database)
        self.ledger = Ledger(self._database)

    def figures(self) -> Figures:
        """How much there is of everything now, and what waits."""
        return figures(self._database)

    def close(self) -> None:
        self._database.close()
