"""The grid's routes: finding by anything, groups, acts that are told first, saved views, and likeness from kept vectors."""

from typing import Any

import numpy as np
import pytest
from conftest import leased
from fastapi import FastAPI
from fastapi.testclient import TestClient

from db.records import Dataset, Kind, NewCandidate, Rule, Score
from db.store import Store
from engine.embeddings import Region, Vectors, key_of
from studio import grid_api
from studio.api import router

HEADERS = {"X-Winnow": "1"}
COLOURS = ("red", "blue", "grün", "white")


@pytest.fixture
def ids(store: Store, dataset: Dataset) -> list[int]:
    """Twelve candidates on as many pictures, seams 0 to 11; the policy asks for at most 5."""
    shard = leased(store, dataset.id, policy_id=store.review.save_policy("p", [Rule(filter="seam", at_most=5)]).id)
    images = store.datasets.images(dataset.id)
    made = [
        NewCandidate(
            target=f"box:{i}", variant=0, kind=Kind.INSTANCE, image_id=images[i % 6].id, seed=i, category_id=1 + i % 2,
            xyxy=(10.0, 10.0, 50.0 + i, 60.0), text_before="a mug", text_after=f"a {COLOURS[i % 4]} mug, 50 % off",
            digest=images[i % 6].digest, detail={"strategy": "attribute" if i < 4 else "relation"},
        )
        for i in range(12)
    ]  # fmt: skip
    store.review.add_candidates(shard, made, dataset.id)
    found = store.review.candidate_ids(shard.run_id)
    store.review.add_scores(
        shard, [Score(candidate_id=one, filter="seam", value=float(i)) for i, one in enumerate(found)]
    )
    return found


@pytest.fixture
def client(store: Store) -> TestClient:
    app = FastAPI()
    app.include_router(router(store))
    app.include_router(grid_api.router(store))
    return TestClient(app)


def ask(client: TestClient, what: str, **place: Any) -> Any:
    answer = client.get(f"/api/grid/{what}", params={"dataset": 1, **place})
    assert answer.status_code == 200, answer.text
    return answer.json()


def tiles(client: TestClient, **place: Any) -> list[int]:
    return [tile["id"] for tile in ask(client, "page", **place)["tiles"]]


@pytest.mark.parametrize(
    ("place", "wanted"),
    [
        ({"scores": "seam::2"}, [0, 1, 2]),
        ({"scores": "seam:9:"}, [9, 10, 11]),
        ({"scores": "seam:2:4", "order": "-score:seam"}, [4, 3, 2]),
        ({"text": "blu"}, [1, 5, 9]),
        ({"text": "GRUN mug"}, [2, 6, 10]),
        ({"text": '"white mug"', "scores": "seam::5"}, [3]),
        ({"text": 'mug blue*" OR )('}, []),
        ({"says": "reject", "category": 1}, [6, 8, 10]),
        ({"strategy": "attribute"}, [0, 1, 2, 3]),
        ({"strategy": "attribute", "text": "red", "kind": "instance", "run": 1}, [0]),
    ],
)
def test_candidates_are_found_by_anything(
    client: TestClient, ids: list[int], place: dict[str, Any], wanted: list[int]
) -> None:
    assert tiles(client, **place) == [ids[i] for i in wanted]
    assert ask(client, "count", **place) == {"count": len(wanted)}
    cards = client.get("/api/review/next", params={"dataset": 1, **place}).json()["cards"]
    assert [card["id"] for card in cards] == [ids[i] for i in wanted], "Review takes the same address"


def test_pages_of_what_is_found_follow_each_other(client: TestClient, ids: list[int]) -> None:
    seen, cursor = [], ""
    while cursor is not None:
        page = ask(client, "page", scores="seam:1:", order="random", limit=4, cursor=cursor)
        seen += [tile["id"] for tile in page["tiles"]]
        cursor = page["next"]
    assert sorted(seen) == ids[1:]


@pytest.mark.parametrize("scores", ["seam", "seam:x:2", "seam:1:2:3", "seam:nan:", "colour:1:2"])
def test_a_range_that_cannot_be_read_is_refused(client: TestClient, ids: list[int], scores: str) -> None:
    answer = client.get("/api/grid/page", params={"dataset": 1, "scores": scores})
    assert answer.status_code == 400
    assert (
        ("seam:0.5:2" in answer.json()["error"])
        or ("scored: seam" in answer.json()["error"])
        or "finite" in answer.text
    )


def test_groups_count_what_is_shown(client: TestClient, ids: list[int]) -> None:
    found = {one["title"]: one["count"] for one in ask(client, "groups", by="strategy")}
    assert found == {"relation": 8, "attribute": 4}
    said = {one["value"]: one["count"] for one in ask(client, "groups", by="says", scores="seam::7")}
    assert said == {"accept": 6, "reject": 2}
    classes = ask(client, "groups", by="category", category=1)
    assert sum(one["count"] for one in classes) == 12, "a group says what else there is beside it"


def test_scales_are_what_the_sliders_need(client: TestClient, ids: list[int]) -> None:
    (scale,) = ask(client, "scales")
    assert (scale["filter"], scale["scored"], scale["low"], scale["high"], sum(scale["bins"])) == (
        "seam",
        12,
        0,
        11,
        12,
    )


# Acts


def do(client: TestClient, **deed: Any) -> dict[str, Any]:
    answer = client.post("/api/grid/acts", json=[deed], headers=HEADERS)
    assert answer.status_code == 200, answer.text
    return answer.json()[0]


def test_all_that_match_are_decided_when_it_is_what_was_told(client: TestClient, store: Store, ids: list[int]) -> None:
    place = {"dataset": 1, "scores": "seam::5"}
    told = do(client, op_id="act-00001", place=place, decision="reject", expected=7)
    assert told["status"] == "refused" and "6 match now, not 7" in told["message"]
    assert do(client, op_id="act-00002", place=place, decision="reject", expected=6)["count"] == 6
    assert do(client, op_id="act-00002", place=place, decision="reject", expected=6) == {
        "op_id": "act-00002", "status": "saved", "count": 0, "message": "",
    }  # fmt: skip
    assert tiles(client, human="reject") == ids[:6]
    assert [one["standing"] for one in ask(client, "acts")] == [6]
    assert do(client, op_id="act-00003", undoes="act-00002")["count"] == 6
    assert tiles(client) == ids


def test_an_act_that_cannot_be_is_refused_in_words(client: TestClient, ids: list[int]) -> None:
    assert "no act" in do(client, op_id="act-00001", undoes="act-99999")["message"]
    nothing = do(client, op_id="act-00001", place={"dataset": 1, "text": "elephant"}, decision="accept")
    assert nothing["message"] == "Nothing matches, so there is nothing to decide."
    assert "needs a place" in do(client, op_id="act-00001")["message"]
    assert client.post("/api/grid/acts", json=[]).status_code == 403


# Views and likeness


def test_a_view_is_kept_replaced_and_forgotten(client: TestClient, ids: list[int]) -> None:
    for query in ("text=red", "text=blue"):
        kept = {"dataset": 1, "name": " mine ", "query": query}
        assert client.post("/api/grid/views", json=kept, headers=HEADERS).status_code == 200
    (view,) = ask(client, "views")
    assert (view["name"], view["query"]) == ("mine", "text=blue")
    assert client.post(f"/api/grid/views/{view['id']}/remove", json={}, headers=HEADERS).status_code == 200
    assert client.post(f"/api/grid/views/{view['id']}/remove", json={}, headers=HEADERS).status_code == 404
    assert ask(client, "views") == []


def test_without_vectors_likeness_says_what_to_do(client: TestClient, ids: list[int]) -> None:
    for place in ({"order": f"similar:{ids[0]}"}, {"cluster": "0:12"}):
        answer = client.get("/api/grid/page", params={"dataset": 1, **place})
        assert answer.status_code == 400 and "Run a recipe" in answer.json()["error"]


def test_what_looks_alike_stands_together(client: TestClient, store: Store, ids: list[int]) -> None:
    keep(store, ids)
    first, *alike = tiles(client, order=f"similar:{ids[3]}")
    assert (first, set(alike[:3])) == (ids[3], {ids[0], ids[6], ids[9]})
    groups = ask(client, "groups", by="cluster")
    assert sum(one["count"] for one in groups) == 12
    assert tiles(client, cluster=groups[0]["value"], order=f"similar:{ids[0]}")


def keep(store: Store, ids: list[int]) -> None:
    """Vectors of the cut that the filter for duplicates keeps: three directions, nearly the same for every third candidate."""
    rng = np.random.default_rng(0)
    vectors = (
        np.eye(3, 8)[np.arange(12) % 3] + [[0.001 * abs(i - 3)] * 8 for i in range(12)] + rng.normal(0, 1e-5, (12, 8))
    )
    found = store.review.candidates(ids)
    keys = [key_of(Region(one.digest or "", (10, 10, 50 + i, 60))) for i, one in enumerate(found)]
    Vectors(store.home / "cache" / "embeddings" / "model", 8).keep(
        keys, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    )


def test_thumbnails_come_together_and_a_missing_one_is_empty(
    client: TestClient, store: Store, dataset: Dataset
) -> None:
    (there, *_) = [image.digest for image in store.datasets.images(dataset.id)]
    answer = client.post("/media/sheet", json={"size": 80, "digests": [there, "0" * 64]})
    length = int.from_bytes(answer.content[:4], "little")
    assert answer.content[4:7] == b"\xff\xd8\xff" and answer.content[4 + length :] == b"\0\0\0\0"
    assert client.post("/media/sheet", json={"size": 81, "digests": []}).status_code == 422
