"""The routes of the threshold lab, asked as the page asks them."""

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import candidates, leased
from fastapi import FastAPI
from fastapi.testclient import TestClient

from db.queries import Queue
from db.records import Dataset, Decision, NewVerdict, Rule, Score
from db.store import Store
from studio import lab_api

OURS = {"X-Winnow": "1"}
SEAM = Rule(filter="seam", at_most=3.0)


@pytest.fixture
def client(store: Store) -> Iterator[TestClient]:
    app = FastAPI()
    app.include_router(lab_api.router(store))
    with TestClient(app) as opened:
        yield opened


@pytest.fixture
def ids(store: Store, dataset: Dataset) -> list[int]:
    """Eight candidates with seams 0 to 7, the last without an overlap; the even ones decided: good up to 4."""
    policy = store.review.save_policy("demo", [SEAM])
    shard = leased(store, dataset.id, policy_id=policy.id)
    found = candidates(store, dataset.id, shard, 8)
    seams = [Score(candidate_id=one, filter="seam", value=float(i)) for i, one in enumerate(found)]
    overlaps = [Score(candidate_id=one, filter="overlap", value=i / 10) for i, one in enumerate(found[:-1])]
    store.review.add_scores(shard, [*seams, *overlaps, Score(candidate_id=found[-1], filter="overlap", value=None)])
    decisions = [Decision.ACCEPT if i <= 4 else Decision.REJECT for i in range(8)]
    store.review.decide(
        [
            NewVerdict(op_id=f"operation-{one}", candidate_id=one, decision=decision)
            for i, (one, decision) in enumerate(zip(found, decisions, strict=True))
            if i % 2 == 0
        ]
    )
    return found


def rule(name: str, **bounds: Any) -> dict[str, Any]:
    return {"filter": name, **bounds}


def asked(client: TestClient, route: str, **question: Any) -> Any:
    answer = client.post(f"/api/lab/{route}", json=question, headers=OURS)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(client: TestClient, route: str, **question: Any) -> str:
    answer = client.post(f"/api/lab/{route}", json=question, headers=OURS)
    assert answer.status_code in (400, 404, 422), answer.text
    return str(answer.json()["error"])


def test_setup_offers_what_there_is(client: TestClient, dataset: Dataset, ids: list[int]) -> None:
    setup = client.get("/api/lab/setup").json()
    assert setup["dataset"] == dataset.id
    assert setup["candidates"] == 8
    assert [kind["value"] for kind in setup["kinds"]] == ["instance"]
    assert [(one["name"], one["title"]) for one in setup["categories"]] == [("mug", "mug (8)")]
    scored = {one["name"]: one["scored"] for one in setup["filters"]}
    assert (scored["seam"], scored["overlap"], scored["fluency"]) == (8, 7, 0)
    (policy,) = setup["policies"]
    assert (policy["name"], policy["version"], policy["runs"]) == ("demo", 1, [setup["runs"][0]["value"]])
    assert policy["rules"] == [
        {"filter": "seam", "at_least": None, "at_most": 3.0, "kinds": [], "group": "", "classes": []}
    ]


def test_setup_of_an_empty_store(client: TestClient) -> None:
    setup = client.get("/api/lab/setup").json()
    assert setup["dataset"] is None
    assert (setup["candidates"], setup["policies"]) == (0, [])


def test_histograms_are_split_by_verdict(client: TestClient, dataset: Dataset, ids: list[int]) -> None:
    answer = asked(client, "histograms", dataset=dataset.id)
    found = {one["filter"]: one for one in answer["histograms"]}
    assert answer["total"] == 8
    seam = found["seam"]
    assert [sum(seam[name]) for name in ("accepted", "rejected", "unseen")] == [3, 1, 4]
    assert (seam["missing"], found["overlap"]["missing"]) == (0, 1)
    assert seam["edges"][0] <= 0 and seam["edges"][-1] >= 7


def test_asking_counts_flips_and_agreement(client: TestClient, dataset: Dataset, ids: list[int]) -> None:
    before, after = [rule("seam", at_most=3.0)], [rule("seam", at_most=5.0)]
    answer = asked(client, "ask", dataset=dataset.id, before=before, after=after)
    assert answer["before"] == {"accept": 4, "reject": 4, "pending": 0}
    assert answer["after"] == {"accept": 6, "reject": 2, "pending": 0}
    assert {side: flip["count"] for side, flip in answer["flips"].items()} == {"accept": 2, "reject": 0, "pending": 0}
    assert {card["id"] for card in answer["flips"]["accept"]["cards"]} == {ids[4], ids[5]}
    assert answer["flips"]["accept"]["cards"][0]["thumb"].startswith("/media/thumb/")
    agreement = answer["agreement"]
    assert [agreement[name] for name in ("tp", "fp", "fn", "tn")] == [3, 0, 0, 1]
    assert agreement["precision"][0] == 1.0 and agreement["precision"][1] < 1.0


def test_a_missing_value_never_passes(client: TestClient, dataset: Dataset, ids: list[int]) -> None:
    answer = asked(client, "ask", dataset=dataset.id, before=[], after=[rule("overlap", at_most=1.0)])
    assert answer["after"] == {"accept": 7, "reject": 0, "pending": 1}


def test_rules_of_a_class_and_groups(client: TestClient, dataset: Dataset, ids: list[int]) -> None:
    own = [rule("seam", at_most=3.0), rule("seam", at_most=1.0, classes=["mug"])]
    assert asked(client, "ask", dataset=dataset.id, before=[], after=own)["after"]["accept"] == 2
    either = [rule("seam", at_most=1.0, group="A"), rule("overlap", at_least=0.5, group="A")]
    assert asked(client, "ask", dataset=dataset.id, before=[], after=either)["after"]["accept"] == 4


def test_a_lasso_opens_in_review(client: TestClient, store: Store, dataset: Dataset, ids: list[int]) -> None:
    points = asked(client, "scatter", dataset=dataset.id, x="seam", y="overlap")
    assert len(points["x"]) == len(points["y"]) == len(points["human"]) == 7
    polygon = [(1.5, 0.15), (4.5, 0.15), (4.5, 0.45), (1.5, 0.45)]
    found = asked(client, "inside", dataset=dataset.id, x="seam", y="overlap", polygon=polygon)
    assert found["count"] == 3
    queue = Queue(dataset_id=dataset.id, selection=found["selection"], human="any")
    assert [one.id for one in store.review.page(queue)[0]] == ids[2:5]


def test_all_flips_open_in_review(client: TestClient, store: Store, dataset: Dataset, ids: list[int]) -> None:
    rules = {"before": [rule("seam", at_most=3.0)], "after": [rule("seam", at_most=1.0)]}
    found = asked(client, "flipped", dataset=dataset.id, to="reject", **rules)
    queue = Queue(dataset_id=dataset.id, selection=found["selection"], human="any")
    assert [one.id for one in store.review.page(queue)[0]] == ids[2:4]
    assert asked(client, "flipped", dataset=dataset.id, to="accept", **rules) == {"count": 0, "selection": None}


def test_saving_a_policy_gives_it_to_runs(client: TestClient, store: Store, dataset: Dataset, ids: list[int]) -> None:
    run = store.review.candidate(ids[0]).run_id
    saved = asked(client, "policies", dataset=dataset.id, name="demo", rules=[rule("seam", at_most=5.0)], runs=[run])
    assert (saved["name"], saved["version"]) == ("demo", 2)
    assert store.review.policies(dataset.id)[run].id == saved["id"]
    known = client.get("/api/lab/setup").json()["policies"]
    assert [(one["version"], one["runs"]) for one in known] == [(2, [run]), (1, [])]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rules": [rule("sean", at_most=1.0)]}, "unknown filter 'sean'"),
        ({"rules": [rule("seam", at_most=1.0, classes=["cup"])]}, "no class 'cup'"),
        ({"rules": [rule("seam", at_least=2.0, at_most=1.0)]}, "seam"),
        ({"runs": [99]}, "no run 99"),
        ({"rules": []}, "rules"),
        ({"name": ""}, "name"),
    ],
)
def test_a_wrong_policy_is_refused(
    client: TestClient, store: Store, dataset: Dataset, ids: list[int], change: dict[str, Any], told: str
) -> None:
    good = {"dataset": dataset.id, "name": "other", "rules": [rule("seam", at_most=5.0)], "runs": []}
    assert told in refused(client, "policies", **(good | change))
    assert len(client.get("/api/lab/setup").json()["policies"]) == 1


def test_wrong_questions_are_refused(client: TestClient, dataset: Dataset, ids: list[int]) -> None:
    assert "overlapp" in refused(client, "scatter", dataset=dataset.id, x="seam", y="overlapp")
    assert "99" in refused(client, "histograms", dataset=99)
    assert "polygon" in refused(client, "inside", dataset=dataset.id, x="seam", y="overlap", polygon=[(0, 0)])


def test_what_writes_asks_for_our_header(client: TestClient, dataset: Dataset, ids: list[int]) -> None:
    saved = {"dataset": dataset.id, "name": "other", "rules": [rule("seam", at_most=5.0)]}
    assert client.post("/api/lab/policies", json=saved).status_code == 403
