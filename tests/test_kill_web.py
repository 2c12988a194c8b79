"""kill -9 of the web process in the middle of decisions: what was acknowledged is there, once."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from pathlib import Path

import httpx
from conftest import candidates, leased
from test_loop import address

from db.records import Dataset
from db.store import Store

KILLS = 3
EACH = 400


def serve(home: Path, number: int) -> tuple[subprocess.Popen[bytes], str]:
    log = home / f"log{number}"
    command = [sys.executable, "-m", "studio.cli", "serve", "--no-worker", "--home", str(home), "--port", "0"]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    return process, address(process, log)


def test_no_acknowledged_verdict_is_lost_or_doubled(store: Store, dataset: Dataset) -> None:
    ids = candidates(store, dataset.id, leased(store, dataset.id), EACH)
    rng = random.Random(0)
    acknowledged: set[str] = set()
    unanswered: list[dict[str, object]] = []
    for number in range(KILLS):
        process, url = serve(store.home, number)
        with httpx.Client(base_url=url, headers={"X-Winnow": "1"}) as client:
            for verdict in unanswered:  # as the page does after a restart
                assert client.post("/api/review/verdicts", json=[verdict]).status_code == 200
                acknowledged.add(str(verdict["op_id"]))
            unanswered = []
            threading.Timer(rng.uniform(0.2, 1.5), process.kill).start()
            for i in ids:
                verdict = {
                    "op_id": f"kill-{number}-{i}",
                    "candidate_id": i,
                    "decision": rng.choice(["accept", "reject"]),
                }
                try:
                    answer = client.post("/api/review/verdicts", json=[verdict])
                except httpx.TransportError:
                    unanswered.append(verdict)
                    break
                assert answer.json()[0]["status"] == "saved"
                acknowledged.add(str(verdict["op_id"]))
            process.wait()
    stored = [verdict.op_id for verdict in store.review.verdicts(limit=10**6)]
    assert len(acknowledged) > KILLS
    assert acknowledged <= set(stored) <= acknowledged | {str(verdict["op_id"]) for verdict in unanswered}
    assert len(stored) == len(set(stored))
