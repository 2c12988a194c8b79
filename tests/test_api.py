"""The HTTP routes of review and images: what they answer, and how they refuse."""

import json
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from conftest import candidates, leased
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image as Picture

from db.records import Dataset, Rule, Score
from db.store import Store
from studio.api import router

HEADERS = {"X-Winnow": "1"}
ABSENT = "0" * 64


@pytest.fixture
def client(store: Store) -> Iterator[TestClient]:
    app = FastAPI()
    app.include_router(router(store))
    with TestClient(app) as opened:
        yield opened


@pytest.fixture
def ids(store: Store, dataset: Dataset) -> list[int]:
    """Five candidates of a run whose policy asks for a low seam; the last one is not scored."""
    policy = store.review.save_policy("p", [Rule(filter="seam", at_most=3)])
    shard = leased(store, dataset.id, policy_id=policy.id, recipe="gen2det")
    made = candidates(store, dataset.id, shard, 5)
    values = zip(made, (1.0, 4.0, 2.0, 0.5), strict=False)
    store.review.add_scores(
        shard, [Score(candidate_id=i, filter="seam", value=v, reason=f"steps {v}") for i, v in values]
    )
    return made


def op(number: int, candidate: int, decision: str = "accept", **more: Any) -> dict[str, Any]:
    return {"op_id": f"operation-{number}", "candidate_id": candidate, "decision": decision, **more}


def post(client: TestClient, verdicts: Sequence[dict[str, Any]]) -> list[str]:
    answer = client.post("/api/review/verdicts", json=list(verdicts), headers=HEADERS)
    assert answer.status_code == 200, answer.text
    return [saved["status"] for saved in answer.json()]


def following(client: TestClient, dataset: Dataset, **more: Any) -> dict[str, Any]:
    answer = client.get("/api/review/next", params={"dataset": dataset.id, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


# The queue


def test_pages_show_each_candidate_once(client: TestClient, dataset: Dataset, ids: list[int]) -> None:
    seen, cursor = [], ""
    while cursor is not None:
        page = following(client, dataset, limit=2, cursor=cursor)
        seen += [card["id"] for card in page["cards"]]
        cursor = page["next"]
    assert seen == ids


def test_the_queue_holds_what_is_asked_for(client: TestClient, dataset: Dataset, ids: list[int]) -> None:
    post(client, [op(1, ids[0]), op(2, ids[1], "reject")])
    shown = {
        human: [card["id"] for card in following(client, dataset, human=human)["cards"]]
        for human in ("undecided", "accept", "any")
    }
    assert shown == {"undecided": ids[2:], "accept": ids[:1], "any": ids}
    assert following(client, dataset, kind="negative_text")["cards"] == []
    worst = following(client, dataset, human="any", order="-score:seam")["cards"]
    assert [card["id"] for card in worst] == [ids[1], ids[2], ids[0], ids[3], ids[4]]


def test_a_card_tells_what_the_policy_says_and_why(client: TestClient, dataset: Dataset, ids: list[int]) -> None:
    cards = following(client, dataset)["cards"]
    told = [(card["policy"]["says"], card["policy"]["by"], card["scores"][0]["state"]) for card in cards[::1]]
    assert told[0] == ("accept", "The one rule passes.", "pass")
    assert told[1] == ("reject", "Fails: Seam 4 > 3.", "fail")
    assert told[4] == ("pending", "No value for: Seam.", "missing")
    assert cards[1]["scores"][0] | {"help": ""} == {
        "filter": "seam", "title": "Seam", "help": "", "value": "4", "rule": "≤ 3", "state": "fail", "reason": "steps 4.0",
    }  # fmt: skip


def test_counts_follow_the_verdicts(client: TestClient, dataset: Dataset, ids: list[int]) -> None:
    post(client, [op(1, ids[0]), op(2, ids[1], "skip")])
    counted = client.get("/api/review/counts", params={"dataset": dataset.id, "policies": True}).json()
    assert counted["human"] == {"undecided": 3, "accept": 1, "skip": 1}
    assert counted["effective"] == {"accept": 3, "reject": 1, "pending": 1}


def test_setup_offers_runs_and_orders_of_the_rules(client: TestClient, dataset: Dataset, ids: list[int]) -> None:
    setup = client.get("/api/review/setup").json()
    assert setup["dataset"] == dataset.id
    assert [run["title"] for run in setup["runs"]] == ["1 · test"]
    assert "uncertain:seam:3" in [order["value"] for order in setup["orders"]]
    for order in setup["orders"]:
        assert following(client, dataset, order=order["value"])["cards"]


def test_an_empty_store_has_nothing_to_offer(client: TestClient) -> None:
    setup = client.get("/api/review/setup").json()
    assert (setup["dataset"], setup["datasets"], setup["runs"]) == (None, [], [])


# Verdicts


def test_a_verdict_sent_twice_counts_once(client: TestClient, store: Store, ids: list[int]) -> None:
    assert post(client, [op(1, ids[0]), op(1, ids[0])]) == ["saved", "repeated"]
    assert post(client, [op(1, ids[0], "reject"), op(2, 10**9)]) == ["repeated", "refused"]
    assert len(store.review.verdicts(ids[0])) == 1


def test_history_is_what_undo_takes_back(client: TestClient, dataset: Dataset, ids: list[int]) -> None:
    verdicts = [
        op(1, ids[0]),
        op(2, ids[1], "reject", reason="bad box"),
        op(3, ids[1], "undo", undoes="operation-2"),
        op(4, ids[2]),
    ]
    post(client, [*verdicts, op(5, ids[3], reviewer="ann")])
    history = client.get("/api/review/history", params={"dataset": dataset.id}).json()
    assert [(one["op_id"], one["card"]["id"]) for one in history] == [("operation-4", ids[2]), ("operation-1", ids[0])]
    ann = client.get("/api/review/history", params={"dataset": dataset.id, "reviewer": "ann"}).json()
    assert [one["card"]["id"] for one in ann] == [ids[3]]


def test_verdicts_need_the_header_of_our_pages(client: TestClient, store: Store, ids: list[int]) -> None:
    answer = client.post("/api/review/verdicts", json=[op(1, ids[0])])
    assert answer.status_code == 403 and "X-Winnow" in answer.json()["error"]
    plain = client.post(
        "/api/review/verdicts", content=json.dumps([op(1, ids[0])]), headers=HEADERS | {"Content-Type": "text/plain"}
    )
    assert plain.status_code == 415
    assert store.review.candidate(ids[0]).human is None


BAD_BODIES = [
    (b"", 422, "truncated"),
    (b"{}", 422, "array"),
    (b"[{]", 422, "malformed"),
    (b"\xff\xfe", 422, "verdicts"),
    (b"[" * 50_000, 422, "verdicts"),
    (json.dumps([op(1, 1, "maybe")]).encode(), 422, "$[0].decision"),
    (json.dumps([op(1, "1")]).encode(), 422, "$[0].candidate_id"),
    (json.dumps([op(1, 2**70)]).encode(), 422, "$[0].candidate_id"),
    (json.dumps([op(1, 1, surprise=1)]).encode(), 422, "surprise"),
    (json.dumps([op(1, 1, reviewer="")]).encode(), 422, "$[0].reviewer"),
    (json.dumps([op(i, 1) for i in range(501)]).encode(), 413, "500"),
    (b" " * (2**20 + 1), 413, "longer"),
]


@pytest.mark.parametrize(("body", "status", "word"), BAD_BODIES, ids=range(len(BAD_BODIES)))
def test_a_malformed_body_is_refused_with_a_reason(
    client: TestClient, ids: list[int], body: bytes, status: int, word: str
) -> None:
    answer = client.post("/api/review/verdicts", content=body, headers=HEADERS | {"Content-Type": "application/json"})
    assert (answer.status_code, word in answer.json()["error"]) == (status, True), answer.text


BAD_QUERIES = [
    ({"dataset": "x"}, 422, "dataset"),
    ({}, 422, "dataset"),
    ({"dataset": 2**70}, 422, "dataset"),
    ({"dataset": 999}, 404, "999"),
    ({"dataset": 1, "surprise": 1}, 422, "surprise"),
    ({"dataset": 1, "limit": 1000}, 422, "limit"),
    ({"dataset": 1, "human": "perhaps"}, 422, "human"),
    ({"dataset": 1, "order": "best"}, 400, "random"),
    ({"dataset": 1, "order": "uncertain:seam"}, 400, "threshold"),
    ({"dataset": 1, "order": "uncertain:seam:nan"}, 400, "threshold"),
    ({"dataset": 1, "cursor": "}"}, 400, "cursor"),
    ({"dataset": 1, "cursor": '{"a":1}'}, 400, "cursor"),
    ({"dataset": 1, "cursor": "[1,2,3]"}, 400, "cursor"),
    ({"dataset": 1, "cursor": '["x"]'}, 400, "cursor"),
    ({"dataset": 1, "cursor": "[1e300]"}, 400, "cursor"),
    ({"dataset": 1, "cursor": "[1]", "order": "uncertain:seam:3"}, 400, "cursor"),
]


@pytest.mark.parametrize(("query", "status", "word"), BAD_QUERIES, ids=range(len(BAD_QUERIES)))
def test_a_malformed_query_is_refused_with_a_reason(
    client: TestClient, ids: list[int], query: dict[str, Any], status: int, word: str
) -> None:
    answer = client.get("/api/review/next", params=query)
    assert (answer.status_code, word in answer.json()["error"]) == (status, True), answer.text


# Images and scripts


def test_images_are_immutable_and_harmless(client: TestClient, store: Store, dataset: Dataset) -> None:
    digest = store.datasets.images(dataset.id)[0].digest
    answer = client.get(f"/media/blob/{digest}")
    assert answer.headers["content-type"] == "image/jpeg"
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert client.get(f"/media/blob/{digest}", headers={"If-None-Match": answer.headers["etag"]}).status_code == 304


@pytest.mark.parametrize(
    "payload", [b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", b"<html>", b"GIF89a<script>", b""]
)
def test_what_is_no_image_is_not_served(client: TestClient, store: Store, payload: bytes) -> None:
    digest = store.blobs.put(payload)
    assert client.get(f"/media/blob/{digest}").status_code == 415
    assert client.get(f"/media/thumb/{digest}").status_code == 400


@pytest.mark.parametrize("digest", ["x", ABSENT, ABSENT.upper().replace("0", "A"), "..%2f..%2fwinnow.db", "%00"])
def test_a_blob_that_is_not_there_is_a_404(client: TestClient, digest: str) -> None:
    assert client.get(f"/media/blob/{digest}").status_code == 404
    assert client.get(f"/media/thumb/{digest}").status_code == 404


@pytest.mark.parametrize(
    ("width", "height", "fitted"), [(2000, 1000, (160, 80)), (100, 50, (100, 50)), (3000, 4, (160, 1))]
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_thumbnails_fit_and_are_never_enlarged(
    client: TestClient, store: Store, kind: str, width: int, height: int, fitted: tuple[int, int]
) -> None:
    data = BytesIO()
    Picture.new("RGB", (width, height), (200, 40, 90)).save(data, kind)
    answer = client.get(f"/media/thumb/{store.blobs.put(data.getvalue())}")
    small = Picture.open(BytesIO(answer.content))
    assert (small.size, small.format) == (fitted, "JPEG")
    middle = small.convert("RGB").getpixel((small.width // 2, small.height // 2))
    assert all(abs(seen - was) < 12 for seen, was in zip(middle, (200, 40, 90), strict=True))


def test_thumbnails_come_in_a_few_sizes_only(client: TestClient, store: Store, dataset: Dataset) -> None:
    digest = store.datasets.images(dataset.id)[0].digest
    assert client.get(f"/media/thumb/{digest}?size=161").status_code == 422


def test_scripts_are_served_and_nothing_beside_them(client: TestClient) -> None:
    script = client.get("/studio-static/review_card/card.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert (
        client.get("/studio-static/review_card/card.js", headers={"If-None-Match": script.headers["etag"]}).status_code
        == 304
    )
    for name in ("review_card/__init__.py", "../api.py", "..%2fapi.py", "%2e%2e/api.py", "/etc/passwd", ""):
        assert client.get(f"/studio-static/{name}").status_code == 404, name


def test_a_thumbnail_folder_may_vanish(client: TestClient, store: Store, dataset: Dataset) -> None:
    digest = store.datasets.images(dataset.id)[0].digest
    first = client.get(f"/media/thumb/{digest}?size=80").content
    for file in Path(store.home / "thumbs").rglob("*.jpg"):
        file.unlink()
    assert client.get(f"/media/thumb/{digest}?size=80").content == first
