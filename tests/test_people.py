"""Several people at one queue: leases, second looks, disputes, acts on many, and the trail of all of it."""

import csv
import io
from typing import Any

import pytest
from conftest import candidates, leased
from fastapi import FastAPI
from fastapi.testclient import TestClient

from db.errors import WinnowError
from db.queries import Queue
from db.records import Dataset, Decision, NewVerdict, Rule, Score
from db.store import Store
from db.verdicts import Together
from studio import people_api
from studio.api import router

HEADERS = {"X-Winnow": "1"}


@pytest.fixture
def ids(store: Store, dataset: Dataset) -> list[int]:
    return candidates(store, dataset.id, leased(store, dataset.id), 12)


@pytest.fixture
def client(store: Store) -> TestClient:
    app = FastAPI()
    app.include_router(router(store))
    app.include_router(people_api.router(store))
    return TestClient(app)


def give(store: Store, candidate: int, who: str, decision: str = "accept", **more: Any) -> str:
    op_id = f"{who}-{candidate}-{decision}-{len(store.review.verdicts(limit=1000))}"
    verdict = NewVerdict(op_id=op_id, candidate_id=candidate, decision=Decision(decision), reviewer=who, **more)
    (saved,) = store.review.decide([verdict])
    return saved.status if saved.status != "saved" else op_id


def cards(client: TestClient, who: str, **more: Any) -> list[dict[str, Any]]:
    answer = client.get("/api/review/next", params={"dataset": 1, "reviewer": who, "limit": 4, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()["cards"]


def shown(client: TestClient, who: str, **more: Any) -> list[int]:
    return [card["id"] for card in cards(client, who, **more)]


# Leases


def test_two_people_are_never_given_the_same_candidate(client: TestClient, ids: list[int]) -> None:
    assert shown(client, "ann") == ids[:4]
    assert shown(client, "bob") == ids[4:8]
    assert shown(client, "ann") == ids[:4], "what one has on the screen stays one's own"


@pytest.mark.parametrize("order", ["oldest", "random", "class", "disagree"])
def test_what_others_hold_is_passed_over_in_one_step(
    client: TestClient, store: Store, ids: list[int], monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    """Every step is a write: with fifty people, who hold thousands, a page took fifty of them."""
    everything = shown(client, "nobody", order=order, limit=12)
    store.people.leave("nobody", ids)
    held = [i for i in everything if i not in everything[8:10]]
    store.people.take(held, "ann")
    asked: list[list[int]] = []
    take = store.people.take
    monkeypatch.setattr(store.people, "take", lambda wanted, who: asked.append(list(wanted)) or take(wanted, who))
    assert shown(client, "bob", order=order, limit=2) == everything[8:10]
    assert asked == [everything[8:10]]


def test_a_lease_ends_by_itself_and_by_a_verdict(store: Store, ids: list[int]) -> None:
    assert store.people.take(ids[:3], "ann") == set(ids[:3])
    assert store.people.take(ids[:4], "bob") == {ids[3]}
    give(store, ids[1], "ann")
    store.people.take([ids[0], ids[2]], "ann", seconds=-1)
    assert store.people.take(ids[:4], "bob") == set(ids[:4])
    assert store.people.holders(ids, "ann") == dict.fromkeys(ids[:4], "bob")


def test_what_was_decided_between_the_look_and_the_lease_is_not_handed_out(
    store: Store, client: TestClient, ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    take = store.people.take

    def late(wanted: list[int], reviewer: str) -> set[int]:
        if reviewer == "bob":
            give(store, ids[0], "ann")  # which ends her lease
        return take(wanted, reviewer)

    monkeypatch.setattr(store.people, "take", late)
    assert shown(client, "bob") == ids[1:4]


def test_a_page_that_is_open_keeps_its_candidates(client: TestClient, ids: list[int]) -> None:
    shown(client, "ann")
    answer = client.post("/api/review/leases", json={"reviewer": "bob", "ids": ids[:5]}, headers=HEADERS).json()
    assert answer == {"kept": [ids[4]], "lost": {str(i): "ann" for i in ids[:4]}}


# Conflicts


def test_a_verdict_on_what_another_has_changed_is_a_conflict_that_names_both(
    client: TestClient, store: Store, ids: list[int]
) -> None:
    card = cards(client, "ann")[0]
    give(store, card["id"], "bob", "reject", reason="bad box")
    mine = {
        "op_id": "mine-0001",
        "candidate_id": card["id"],
        "decision": "accept",
        "reviewer": "ann",
        "seen": card["version"],
    }
    answer = client.post("/api/review/verdicts", json=[mine], headers=HEADERS)
    (saved,) = answer.json()
    assert (answer.status_code, saved["status"]) == (409, "conflict")
    assert "bob decided reject" in saved["message"]
    theirs = saved["theirs"]
    assert (theirs["reviewer"], theirs["decision"], theirs["reason"]) == ("bob", "reject", "bad box")
    assert store.review.candidate(card["id"]).human == "reject"
    again = client.post("/api/review/verdicts", json=[mine | {"seen": theirs["version"]}], headers=HEADERS)
    assert (again.status_code, again.json()[0]["status"]) == (200, "saved")


def test_ones_own_verdicts_are_no_conflict(store: Store, ids: list[int]) -> None:
    give(store, ids[0], "ann", "reject")
    assert give(store, ids[0], "ann", "accept", seen=0) != "conflict"


# Second looks and disputes


def test_a_share_is_decided_by_two_neither_knowing_of_the_other(
    client: TestClient, store: Store, ids: list[int]
) -> None:
    store.people.set_double_share(1, 1.0)
    for i in ids[:3]:
        give(store, i, "ann", "reject")
    second = {card["id"]: card for card in cards(client, "bob", limit=12)}
    assert ids[0] in second and second[ids[0]]["human"] is None and second[ids[0]]["by"] is None
    assert ids[0] not in shown(client, "ann", limit=12), "nobody is the second to judge their own"
    give(store, ids[0], "bob", "accept", seen=0)
    assert store.people.waiting(1) == (2, 1)
    assert [c.id for c in store.review.page(Queue(dataset_id=1, human="disputed"))[0]] == [ids[0]]


def test_a_third_voice_settles_a_dispute_and_an_undo_opens_it_again(store: Store, ids: list[int]) -> None:
    give(store, ids[0], "ann", "accept")
    give(store, ids[0], "bob", "reject")
    assert store.people.waiting(1) == (0, 1)
    third = give(store, ids[0], "eve", "reject")
    assert store.people.waiting(1) == (0, 0)
    give(store, ids[0], "eve", "undo", undoes=third)
    assert store.people.waiting(1) == (0, 1)


def test_the_share_can_be_set_later_and_taken_away(store: Store, ids: list[int]) -> None:
    for i in ids:
        give(store, i, "ann")
    assert store.people.set_double_share(1, 1.0) == len(ids)
    assert 0 < store.people.set_double_share(1, 0.5) < len(ids)
    assert store.people.set_double_share(1, 0.0) == 0
    with pytest.raises(WinnowError, match="between 0 and 1"):
        store.people.set_double_share(1, 50)


# Acts on many


def act(name: str, decision: str = "accept", who: str = "ann") -> Together:
    return Together(act=name, decision=Decision(decision), reviewer=who)


def test_an_act_is_done_once_and_taken_back_as_one(store: Store, ids: list[int]) -> None:
    give(store, ids[0], "ann", "reject")
    assert store.review.decide_all(ids[:5], act("act-one-1")) == 5
    assert store.review.decide_all(ids[:6], act("act-one-1")) == 1, "sent again, it goes on where it ended"
    assert [store.review.candidate(i).human for i in ids[:7]] == ["accept"] * 6 + [None]
    (known,) = store.review.acts(1, "ann")
    assert (known.verdicts, known.standing) == (6, 6)
    assert store.review.take_back("act-one-1", "ann") == 6
    assert store.review.take_back("act-one-1", "ann") == 0
    assert [store.review.candidate(i).human for i in ids[:3]] == ["reject", None, None]
    assert store.review.acts(1, "ann")[0].standing == 0
    with pytest.raises(WinnowError, match="no act"):
        store.review.take_back("another-act", "ann")


def test_an_act_of_another_makes_disputes_too(store: Store, ids: list[int]) -> None:
    give(store, ids[0], "bob", "reject")
    store.review.decide_all(ids[:2], act("act-two-2"))
    assert store.people.waiting(1) == (0, 1)
    store.review.take_back("act-two-2", "ann")
    assert store.people.waiting(1) == (0, 0)
    assert store.review.candidate(ids[0]).human == "reject"


def test_the_columns_know_of_an_act(store: Store, ids: list[int]) -> None:
    store.review.columns(1)
    store.review.decide_all(ids[:5], act("act-three"))
    assert store.review.columns(1).human.tolist() == [1] * 5 + [0] * 7


# Who decided what when


def test_the_whole_trail_can_be_taken_away(client: TestClient, store: Store, ids: list[int]) -> None:
    given = give(store, ids[0], "ann", "reject", reason="=cmd()")
    give(store, ids[0], "ann", "undo", undoes=given)
    rows = list(csv.DictReader(io.StringIO(client.get("/api/people/trail.csv", params={"dataset": 1}).text)))
    assert [(row["reviewer"], row["decision"]) for row in rows] == [("ann", "undo"), ("ann", "reject")]
    assert rows[1]["reason"] == "'=cmd()", "no spreadsheet takes it for a formula"
    listed = client.get("/api/people/trail.json", params={"dataset": 1}).json()
    assert [one["undoes"] for one in listed] == [given, None]
    assert client.get("/api/people/trail.json", params={"dataset": 99}).status_code == 404


def test_opinions_are_what_stands(store: Store, ids: list[int]) -> None:
    given = give(store, ids[0], "ann", "reject")
    give(store, ids[0], "ann", "undo", undoes=given)
    give(store, ids[1], "ann", "accept")
    give(store, ids[1], "ann", "reject")
    store.review.decide_all([ids[2]], act("act-four-4", who="bob"))
    found = store.people.opinions(1)
    assert (found.names, found.candidate.tolist(), found.side.tolist()) == (("ann", "bob"), [ids[1], ids[2]], [-1, 1])
    assert found.alone.tolist() == [True, False]


# Blind audits


@pytest.fixture
def audit(store: Store, dataset: Dataset) -> list[int]:
    """An audit of six scored candidates that hides what filters and policy say. Returns them in its order."""
    policy = store.review.save_policy("p", [Rule(filter="seam", at_most=3)])
    shard = leased(store, dataset.id, policy_id=policy.id)
    made = candidates(store, dataset.id, shard, 6)
    store.review.add_scores(shard, [Score(candidate_id=i, filter="seam", value=1.0) for i in made])
    give(store, made[0], "ann")
    drawn = store.audits.create(
        dataset.id, policy.id, None, "simple", 6, 0, True, ids=store.review.columns(dataset.id).ids
    )
    return [item.candidate_id for item in store.audits.items(drawn.id)]


def test_a_blind_audit_hides_scores_policy_and_earlier_verdicts(client: TestClient, audit: list[int]) -> None:
    for card in cards(client, "ann", audit=1):
        assert (card["scores"], card["human"], card["by"]) == ([], None, None)
        assert card["policy"] == {"says": "pending", "by": "Hidden while this audit goes on.", "name": ""}
    open_card = cards(client, "bob", human="any")[0]
    assert open_card["scores"] and open_card["policy"]["says"] == "accept"


def test_an_audit_goes_on_where_the_person_stopped(client: TestClient, store: Store, audit: list[int]) -> None:
    asked = {"audit": 1, "human": "any", "limit": 6}
    assert shown(client, "ann", **asked) == audit, "a verdict from before the audit is no look of it"
    for i in (audit[0], audit[1], audit[3]):
        give(store, i, "ann")
    assert shown(client, "ann", **asked) == audit[2:], "after the last one looked at without leaving one out"
    assert shown(client, "bob", **asked) == audit, "another person begins at the beginning"
    for i in (audit[2], audit[4], audit[5]):
        give(store, i, "ann")
    assert shown(client, "ann", **asked) == []


def test_undo_in_review_leaves_acts_on_many_to_the_grid(client: TestClient, store: Store, ids: list[int]) -> None:
    give(store, ids[0], "ann")
    store.review.decide_all(ids[1:9], act("act-five-5"))
    history = client.get("/api/review/history", params={"dataset": 1, "reviewer": "ann"}).json()
    assert [one["card"]["id"] for one in history] == [ids[0]]
