"""The routes of the editor and of single candidates: what they answer, and how they refuse."""

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from conftest import candidates, leased
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Picture

from db import schema
from db.errors import WinnowError
from db.records import Dataset, Decision, NewVerdict, Rule, Score
from db.store import Store
from studio import api, candidates_api, edits_api
from studio.candidates_api import rasterised, run_lengths

HEADERS = {"X-Winnow": "1"}


@pytest.fixture
def client(store: Store) -> Iterator[TestClient]:
    app = FastAPI()
    for module in (api, edits_api, candidates_api):
        app.include_router(module.router(store))
    with TestClient(app) as opened:
        yield opened


def shown(client: TestClient, image: int) -> dict[str, Any]:
    answer = client.get(f"/api/edits/image/{image}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def correction(scene: dict[str, Any], number: int, **changed: Any) -> dict[str, Any]:
    boxes = [{key: box[key] for key in ("id", "xyxy", "category_id")} for box in scene["boxes"]]
    draft = {"boxes": boxes, "phrases": scene["phrases"], "classes": scene["classes"], **changed}
    return {"op_id": f"correction-{number}", "image_id": scene["image"]["id"], "base": scene["number"], "draft": draft}


def post(client: TestClient, *corrections: dict[str, Any]) -> Any:
    return client.post("/api/edits", json=list(corrections), headers=HEADERS)


def test_what_the_editor_reads_can_be_sent_back(client: TestClient, store: Store, dataset: Dataset) -> None:
    image = store.datasets.images(dataset.id)[0].id
    scene = shown(client, image)
    (kept,) = post(client, correction(scene, 1)).json()
    assert (kept["status"], kept["number"]) == ("saved", 1)
    assert store.edits.current(image).annotations == store.edits.versions(image)[1].annotations
    assert [one["number"] for one in shown(client, image)["versions"]] == [1, 0]
    assert client.get(f"/api/edits/image/{image}/0").json()["boxes"] == scene["boxes"]
    assert client.get(f"/api/edits/image/{image}/7").status_code == 404


def test_a_conflict_is_a_409_with_the_name_and_both_versions(
    client: TestClient, store: Store, dataset: Dataset
) -> None:
    scene = shown(client, store.datasets.images(dataset.id)[0].id)
    assert post(client, correction(scene, 1, phrases=[]) | {"reviewer": "ann"}).status_code == 200
    answer = post(client, correction(scene, 2))
    (kept,) = answer.json()
    assert (answer.status_code, kept["status"]) == (409, "conflict")
    assert "ann corrected" in kept["message"] and "version 0" in kept["message"] and "stands at 1" in kept["message"]
    assert (kept["theirs"]["reviewer"], kept["theirs"]["number"], kept["theirs"]["phrases"]) == ("ann", 1, [])


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"no json", 422), (b"{}", 422), (b'[{"op_id":"short"}]', 422), (b"[" * 3000, 422), (b"[" + b" " * 2**23, 413)],
)
def test_what_is_no_correction_is_refused(client: TestClient, body: bytes, status: int) -> None:
    answer = client.post("/api/edits", content=body, headers=HEADERS | {"content-type": "application/json"})
    assert (answer.status_code, "error" in answer.json()) == (status, True)


def test_corrections_of_a_candidate_are_checked(client: TestClient, store: Store, dataset: Dataset) -> None:
    (one,) = candidates(store, dataset.id, leased(store, dataset.id), 1)
    verdict = {"op_id": "operation-1", "candidate_id": one, "decision": "edit"}
    for edit in ({"xyxy": [9, 9, 3, 3]}, {"xyxy": [1, 2]}, {"text_after": "  "}, {"color": "red"}):
        answer = client.post("/api/review/verdicts", json=[verdict | {"edit": edit}], headers=HEADERS)
        assert answer.status_code == 422, edit
    answer = client.post("/api/review/verdicts", json=[verdict | {"edit": {"text_after": "b"}}], headers=HEADERS)
    assert answer.json()[0]["status"] == "saved" and store.review.standing(one).edit == {"text_after": "b"}


def test_cards_show_corrections(client: TestClient, store: Store, dataset: Dataset) -> None:
    (one,) = candidates(store, dataset.id, leased(store, dataset.id), 1)
    edit = {"xyxy": [1.0, 2.0, 30.0, 40.0], "text_after": "a green mug"}
    store.review.decide([NewVerdict(op_id="op-1", candidate_id=one, decision=Decision.EDIT, edit=edit)])
    image = store.datasets.images(dataset.id)[0].id
    scene = shown(client, image)
    post(client, correction(scene, 1, boxes=scene_boxes(scene)[:1]))
    told = client.get(f"/api/candidates/{one}").json()
    card = told["card"]
    assert (card["after"]["xyxy"], card["made"]["xyxy"]) == (edit["xyxy"], [12.0, 12.0, 48.0, 58.0])
    assert (card["texts"]["corrected"], card["edition"], card["others"]) == ("a green mug", 1, [])
    assert [verdict["decision"] for verdict in told["verdicts"]] == ["edit"]


def test_a_blind_audit_hides_what_was_said_and_the_way_to_it(
    client: TestClient, store: Store, dataset: Dataset
) -> None:
    policy = store.review.save_policy("p", [Rule(filter="seam", at_most=3)])
    shard = leased(store, dataset.id, policy_id=policy.id)
    made = candidates(store, dataset.id, shard, 2)
    store.review.add_scores(shard, [Score(candidate_id=i, filter="seam", value=1.0, reason="smooth") for i in made])
    store.review.decide([NewVerdict(op_id="op-1", candidate_id=made[0], decision=Decision.ACCEPT)])
    audit = store.audits.create(dataset.id, policy.id, None, "simple", 2, 7, True, ids=np.array(made))
    seen = client.get(f"/api/candidates/{made[0]}").json()["card"]
    assert seen["why"] and len(seen["scores"]) == 1 and seen["policy"]["says"] == "accept"
    told = client.get(f"/api/candidates/{made[0]}", params={"audit": audit.id}).json()
    assert (told["card"]["scores"], told["card"]["why"], told["card"]["human"], told["verdicts"]) == (
        [],
        None,
        None,
        [],
    )
    listed = client.get("/api/review/next", params={"dataset": dataset.id, "audit": audit.id, "human": "any"}).json()
    assert [(card["why"], card["scores"]) for card in listed["cards"]] == [(None, []), (None, [])]


def test_what_a_person_may_take_back_is_read_after_a_reload(client: TestClient, store: Store, dataset: Dataset) -> None:
    (one,) = candidates(store, dataset.id, leased(store, dataset.id), 1)
    image = store.datasets.images(dataset.id)[0].id
    scene = shown(client, image)
    post(client, correction(scene, 1, boxes=scene_boxes(scene)[:1], phrases=[]))
    (known,) = client.get("/api/review/history", params={"dataset": dataset.id}).json()
    assert (known["id"], known["decision"], known["card"]["id"]) == (None, "edit", one)
    assert (len(known["draft"]["boxes"]), known["earlier"]["boxes"]) == (1, scene_boxes(scene))
    back = {"op_id": "take back", "image_id": image, "base": 1, "draft": known["earlier"]}
    assert post(client, back).json()[0]["status"] == "saved"
    assert client.get("/api/review/history", params={"dataset": dataset.id}).json() == []


def scene_boxes(scene: dict[str, Any]) -> list[dict[str, Any]]:
    return [{key: box[key] for key in ("id", "xyxy", "category_id")} for box in scene["boxes"]]


def test_a_mask_is_a_picture(client: TestClient, store: Store, dataset: Dataset) -> None:
    box = store.datasets.boxes_of([store.datasets.images(dataset.id)[0].id]).popitem()[1][0]
    assert client.get(f"/media/mask/{box.id}").status_code == 404
    with store._database.write() as connection:
        row = schema.box.update().where(schema.box.c.id == box.id)
        connection.execute(row.values(segmentation=b"[[10,10,50,10,50,60,10,60]]"))
    answer = client.get(f"/media/mask/{box.id}")
    alpha = np.asarray(Picture.open(BytesIO(answer.content)))[..., 3]
    assert answer.headers["content-type"] == "image/png" and alpha.shape == (120, 160)
    assert alpha[30, 30] == 255 and alpha[90, 90] == 0


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=30))
def test_compressed_run_lengths_are_read(lengths: list[int]) -> None:
    assert run_lengths(compressed(lengths)) == lengths


def compressed(lengths: list[int]) -> str:
    """The reference encoder, `rleToString` of the COCO API, in Python."""
    text = ""
    for i, length in enumerate(lengths):
        value = length - (lengths[i - 2] if i > 2 else 0)
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = value != -1 if bits & 16 else value != 0
            text += chr((bits | (32 if more else 0)) + 48)
    return text


def test_a_mask_of_another_size_is_refused() -> None:
    assert rasterised({"size": [2, 3], "counts": [1, 2, 3]}, 3, 2).tolist() == [
        [False, True, False],
        [True, False, False],
    ]
    with pytest.raises(WinnowError, match="is of size"):
        rasterised({"size": [2, 3], "counts": [1, 2, 3]}, 2, 3)
