"""The gates, open for once: each of these tests fails when its gate is. What they let through is tested at length in
`test_security.py`, `test_auth.py`, `test_outbound.py` and `test_limited.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import candidates, leased, small_document
from fastapi.testclient import TestClient
from faults import Fork, must_fail_without, promised
from test_outbound import allowing, listener, names, post

from db import users as accounts
from db.errors import WinnowError
from db.limited import Limited
from db.store import Store
from db.users import Role
from engine.outbound import pin
from studio.app import create_app
from studio.auth import COOKIE, SignIn

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, dict[Role, str]]]:
    """A studio in which people sign in, and the cookie of one person of each role."""
    place = tmp_path_factory.mktemp("gate")
    store = Store(place / "home")
    dataset = store.datasets.import_document(small_document(place / "files", images=1), "small")
    candidates(store, dataset.id, leased(store, dataset.id), 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(accounts.SCRYPT, "n", 2**4)
        client = TestClient(create_app(place / "home", sign_in=True), raise_server_exceptions=False)
        cookies = {}
        for role in Role:
            token = store.users.sign_in(store.users.add(f"one-{role}", PASSWORD, role))
            cookies[role] = f"{COOKIE}={token}.{SignIn(store)._signature(token)}"
        yield client, cookies
    store.close()


@must_fail_without("the origin")
def test_another_site_changes_nothing(studio: tuple[TestClient, dict[Role, str]]) -> None:
    client, cookies = studio
    verdict = {"op_id": "from elsewhere", "candidate_id": 1, "decision": "accept"}
    for origin in ("https://evil.example", "null", "http://testserver.evil.example", "http://testserver:81"):
        headers = {"X-Winnow": "1", "Origin": origin, "Cookie": cookies[Role.REVIEWER]}
        answer = client.post("/api/review/verdicts", json=[verdict], headers=headers)
        promised(answer.status_code == 403, f"{origin}: {answer.status_code}")


@must_fail_without("roles")
def test_a_reviewer_changes_nothing_but_verdicts(studio: tuple[TestClient, dict[Role, str]]) -> None:
    client, cookies = studio
    headers = {"X-Winnow": "1", "Cookie": cookies[Role.REVIEWER]}
    for address in ("/api/snapshots", "/api/datasets", "/api/train", "/api/runs/1/cancel", "/account/users"):
        answer = client.post(address, json={}, headers=headers)
        promised(answer.status_code == 403, f"{address}: {answer.status_code}")


@must_fail_without("sign-in")
def test_a_stranger_sees_nothing(studio: tuple[TestClient, dict[Role, str]]) -> None:
    client, _ = studio
    for address in ("/api/datasets", "/config", "/api/review/next?dataset=1"):
        answer = client.get(address, headers={"Cookie": f"{COOKIE}=guessed.signature"})
        promised(answer.status_code == 401, f"{address}: {answer.status_code}")


@must_fail_without("a pause between tries")
def test_passwords_cannot_be_tried_one_after_the_other(studio: tuple[TestClient, dict[Role, str]]) -> None:
    client, _ = studio
    tries = [client.post("/signin", data={"name": "one-admin", "password": f"wrong {i}"}) for i in range(8)]
    promised(tries[-1].status_code == 429, f"the eighth try got {tries[-1].status_code}")
    assert int(tries[-1].headers["retry-after"]) > 0


@must_fail_without("the gate of addresses")
def test_a_name_of_an_inner_address_is_never_spoken_to(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, ["127.0.0.1"], ["127.0.0.1"])
    with listener() as inner:
        url = f"http://a.example:{inner.port}"
        try:
            post(pin(url, allowing(url)))
        except WinnowError as error:
            assert "private" in str(error) or "this machine" in str(error)
        promised(inner.connections == 0, "an inner address was spoken to")


@must_fail_without("a limited child")
def test_what_ends_a_decoder_does_not_end_the_studio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))

    def decodes() -> None:
        limited = Limited("limited_acts", "act", children=1)
        try:
            limited.ask("die")
        except WinnowError:
            limited.close()

    code = Fork(decodes).wait()
    promised(code == 0, f"the process that asked ended with {code}")


@must_fail_without("roots")
def test_a_curator_reads_no_folder_that_is_not_listed(
    studio: tuple[TestClient, dict[Role, str]], tmp_path: Path
) -> None:
    client, cookies = studio
    headers = {"X-Winnow": "1", "Cookie": cookies[Role.CURATOR]}
    for path in (str(tmp_path), "/etc/passwd", "/nowhere"):
        answer = client.post("/api/datasets", json={"path": path, "name": "x"}, headers=headers)
        promised("WINNOW_ROOTS" in answer.json()["error"], f"{path}: {answer.text:.200}")
