"""Signing in: accounts, roles, sessions, the plain pages, and who may do what through every door."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import candidates, leased, small_document
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from db import users as accounts
from db.errors import NotFound, WinnowError
from db.store import Store
from db.users import SESSION_SECONDS, Role, Users
from studio import serve
from studio.app import create_app
from studio.auth import COOKIE, Attempts, SignIn, _inside
from studio.cli import app as cli
from studio.guard import Bucket

PASSWORD = "correct horse battery"
PEOPLE = {"rita": Role.REVIEWER, "cuno": Role.CURATOR, "ada": Role.ADMIN}
OURS = {"X-Winnow": "1"}


@pytest.fixture(autouse=True, scope="module")
def cheap_passwords() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(accounts.SCRYPT, "n", 2**4)
        yield


# Accounts


def test_a_password_is_kept_as_a_salted_hash_only(store: Store) -> None:
    for name in ("ann", "bob"):
        store.users.add(name, PASSWORD, Role.REVIEWER)
    with store._database.read() as connection:
        hashes = connection.exec_driver_sql("SELECT password FROM account").scalars().all()
    assert len(set(hashes)) == 2
    assert not any(PASSWORD in one for one in hashes)
    assert store.users.checked("ann", PASSWORD) is not None
    assert store.users.checked("ann", PASSWORD.upper()) is None
    assert store.users.checked("eve", PASSWORD) is None
    assert store.users.checked("ann", "x" * 10**6) is None


def test_names_that_look_the_same_are_the_same(store: Store) -> None:
    store.users.add("Zoë", PASSWORD, Role.REVIEWER)
    with pytest.raises(WinnowError, match="already"):
        store.users.add("ZOE\u0308", PASSWORD, Role.ADMIN)
    assert store.users.checked(" zoë ", PASSWORD) is not None


@pytest.mark.parametrize("name", ["", " ", "a b", "a\nb", "<b>", "../x", "x" * 61, "a\u202eb", "a\x00"])
def test_odd_names_are_refused(store: Store, name: str) -> None:
    with pytest.raises(WinnowError, match="cannot be the name"):
        store.users.add(name, PASSWORD, Role.REVIEWER)


def test_short_and_endless_passwords_are_refused(store: Store) -> None:
    for password in ("", "eleven char", "x" * 201):
        with pytest.raises(WinnowError, match="12 to 200"):
            store.users.add("ann", password, Role.REVIEWER)


def test_the_last_admin_stays(store: Store) -> None:
    store.users.add("ada", PASSWORD, Role.ADMIN)
    for act in (lambda: store.users.remove("ada"), lambda: store.users.set_role("ada", Role.CURATOR)):
        with pytest.raises(WinnowError, match="only admin"):
            act()
    store.users.add("bob", PASSWORD, Role.ADMIN)
    store.users.remove("ada")
    with pytest.raises(NotFound, match="bob"):
        store.users.remove("ada")


def test_the_first_admin_is_made_once(store: Store) -> None:
    password = store.users.first_admin()
    assert password is not None
    user = store.users.checked("admin", password)
    assert user is not None and user.one_time and user.role is Role.ADMIN
    assert store.users.first_admin() is None


@pytest.mark.parametrize("change", ["role", "password", "everywhere", "remove"])
def test_what_concerns_an_account_ends_its_sessions(store: Store, change: str) -> None:
    for name in ("ada", "ann"):
        store.users.add(name, PASSWORD, Role.ADMIN)
    ann = store.users.checked("ann", PASSWORD)
    assert ann is not None
    token = store.users.sign_in(ann)
    assert store.users.signed_in(token) == ann
    {
        "role": lambda: store.users.set_role("ann", Role.REVIEWER),
        "password": lambda: store.users.set_password("ann", PASSWORD + "!"),
        "everywhere": lambda: store.users.sign_out_everywhere("ann"),
        "remove": lambda: store.users.remove("ann"),
    }[change]()
    assert store.users.signed_in(token) is None


def test_sessions_expire_and_their_tokens_are_not_in_the_database(store: Store) -> None:
    now = [1_000_000.0]
    users = Users(store._database, clock=lambda: now[0])
    token = users.sign_in(users.add("ann", PASSWORD, Role.REVIEWER))
    now[0] += SESSION_SECONDS - 1
    assert users.signed_in(token) is not None
    now[0] += 2
    assert users.signed_in(token) is None
    assert token.encode() not in b"".join(path.read_bytes() for path in store.home.glob("winnow.db*"))


def test_the_trail_cannot_be_changed(store: Store) -> None:
    store.users.record("ann", "POST /api/train", 200, "abc")
    for statement in ("DELETE FROM trail", "UPDATE trail SET actor = 'bob'"):
        with pytest.raises(Exception, match="never changed"), store._database.write() as connection:
            connection.exec_driver_sql(statement)
    assert [deed.actor for deed in store.users.trail()] == ["ann"]


# The studio with sign-in


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with candidates, and one user of each role."""
    home = tmp_path_factory.mktemp("home")
    store = Store(home)
    dataset = store.datasets.import_document(small_document(home / "files"), "small")
    candidates(store, dataset.id, leased(store, dataset.id), 16)
    for name, role in PEOPLE.items():
        store.users.add(name, PASSWORD, role)
    store.close()
    return home


@pytest.fixture(scope="module")
def app(home: Path) -> Any:
    return create_app(home, sign_in=True, hosts=["studio.example"])


@pytest.fixture
def nobody(app: Any) -> TestClient:
    return TestClient(app, follow_redirects=False, raise_server_exceptions=False)


@pytest.fixture
def held(home: Path) -> Iterator[Store]:
    opened = Store(home)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def cookies(app: Any, home: Path) -> dict[str, str]:
    """The cookie of each person, without going through the page."""
    store = Store(home)
    gate, known = SignIn(store), {}
    for name in PEOPLE:
        user = store.users.checked(name, PASSWORD)
        assert user is not None
        token = store.users.sign_in(user)
        known[name] = f"{token}.{gate._signature(token)}"
    store.close()
    return known


def signed_in(app: Any, cookies: dict[str, str], name: str) -> TestClient:
    return TestClient(app, cookies={COOKIE: cookies[name]}, follow_redirects=False, raise_server_exceptions=False)


def enter(client: TestClient, name: str, password: str, **more: str) -> Any:
    return client.post("/signin", data={"name": name, "password": password, **more})


def test_only_the_way_in_is_open_to_strangers(nobody: TestClient) -> None:
    for address in ("/signin", "/healthz", "/studio-static/shell.css"):
        assert nobody.get(address).status_code == 200, address
    shut = [
        "/",
        "/review",
        "/config",
        "/api/datasets",
        "/api/me",
        "/account",
        "/gradio_api/info",
        "/gradio_api/queue/data",
    ]
    for address in (*shut, f"/media/blob/{'0' * 64}", "/assets/index.js", "/metrics/", "/static/x"):
        assert nobody.get(address).status_code in (401, 404), address
    assert {nobody.get(address).status_code for address in shut} == {401}
    for address in ("/api/review/verdicts", "/gradio_api/queue/join", "/gradio_api/run/predict", "/gradio_api/cancel"):
        assert nobody.post(address, json=[], headers=OURS).status_code == 401, address


def test_a_person_is_led_to_the_sign_in_and_back(nobody: TestClient) -> None:
    led = nobody.get("/jobs?run=5", headers={"Accept": "text/html"})
    assert (led.status_code, led.headers["location"]) == (303, "/signin?next=%2Fjobs%3Frun%3D5")
    form = nobody.get(led.headers["location"]).text
    assert 'value="/jobs?run=5"' in form
    entered = enter(nobody, "rita", PASSWORD, next="/jobs?run=5")
    assert (entered.status_code, entered.headers["location"]) == (303, "/jobs?run=5")
    assert nobody.get("/api/me").json() == {"name": "rita", "role": "reviewer"}


@pytest.mark.parametrize(
    "address",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "javascript:alert(1)",
        "/\n//evil",
        "",
    ],
)
def test_the_way_back_never_leads_to_another_site(address: str) -> None:
    assert _inside(address) == "/"


def test_the_cookie_is_kept_from_scripts_and_other_sites(app: Any) -> None:
    for base, secure in (("http://testserver", False), ("https://testserver", True)):
        client = TestClient(app, base_url=base, follow_redirects=False)
        cookie = enter(client, "cuno", PASSWORD).headers["set-cookie"].lower()
        parts = {part.strip() for part in cookie.split(";")}
        assert {"httponly", "samesite=strict", "path=/", f"max-age={int(SESSION_SECONDS)}"} <= parts
        assert ("secure" in parts) is secure


def test_a_cookie_that_was_tampered_with_is_nobodys(app: Any, cookies: dict[str, str]) -> None:
    good = cookies["ada"]
    token, signature = good.split(".")
    forged = [
        token,
        f"{token}.",
        f"{token}.{'0' * 64}",
        f"{token[:-1]}.{signature}",
        f".{signature}",
        "",
        "a.b.c",
        "é.ü",
    ]
    for value in forged:
        client = TestClient(app, follow_redirects=False)
        assert client.get("/api/me", headers={"Cookie": f"{COOKIE}={value}".encode()}).status_code == 401, value


def test_another_data_folder_has_another_secret(home: Path, tmp_path: Path, cookies: dict[str, str]) -> None:
    other = create_app(tmp_path / "other", sign_in=True)
    assert (home / "secret").stat().st_mode & 0o777 == 0o600
    assert (home / "secret").read_bytes() != (tmp_path / "other" / "secret").read_bytes()
    assert TestClient(other).get("/api/me", cookies={COOKIE: cookies["ada"]}).status_code == 401


def test_a_readable_secret_is_refused(home: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "h")
    (store.home / "secret").write_text("x")
    (store.home / "secret").chmod(0o644)
    with pytest.raises(WinnowError, match="chmod 600"):
        SignIn(store)
    store.close()


def test_signing_out_ends_the_session_on_the_server(nobody: TestClient) -> None:
    assert enter(nobody, "rita", PASSWORD).status_code == 303
    kept = nobody.cookies[COOKIE]
    assert nobody.post("/signout").status_code == 303
    assert nobody.get("/api/me", headers={"Cookie": f"{COOKIE}={kept}"}).status_code == 401


def test_signing_in_again_ends_the_earlier_session_of_the_browser(nobody: TestClient) -> None:
    enter(nobody, "rita", PASSWORD)
    first = nobody.cookies[COOKIE]
    enter(nobody, "rita", PASSWORD)
    assert nobody.cookies[COOKIE] != first
    assert nobody.get("/api/me", headers={"Cookie": f"{COOKIE}={first}"}).status_code == 401


def test_guessing_is_slowed_down(tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    store.users.add("ann", PASSWORD, Role.REVIEWER)
    store.close()
    client = TestClient(create_app(tmp_path / "home", sign_in=True), follow_redirects=False)
    tries = [enter(client, "ann", f"wrong password {i}") for i in range(7)]
    assert [answer.status_code for answer in tries] == [401] * 5 + [429] * 2
    assert int(tries[-1].headers["retry-after"]) > 0
    assert enter(client, "ann", PASSWORD).status_code == 429, "also the right one has to wait"


def test_attempts_come_back_with_time_and_for_each_address_apart() -> None:
    now = [0.0]
    bucket = Bucket(most=2, per_second=0.5, clock=lambda: now[0])
    assert [bucket.take("a") for _ in range(3)] == [0, 0, 2.0]
    assert bucket.take("b") == 0
    now[0] = 2.0
    assert [bucket.take("a"), bucket.take("a")] == [0, 2.0]
    attempts = Attempts()
    assert not any(attempts.take(f"name{i}", "1.2.3.4") for i in range(20))
    assert attempts.take("another", "1.2.3.4") > 0
    assert attempts.take("another", "4.3.2.1") == 0


def test_a_one_time_password_opens_one_page_only(app: Any, held: Store) -> None:
    password = accounts.one_time_password()
    held.users.add("newbie", password, Role.ADMIN, one_time=True)
    client = TestClient(app, follow_redirects=False)
    assert enter(client, "newbie", password).headers["location"] == "/account"
    assert client.get("/api/datasets").status_code == 403
    assert client.get("/", headers={"Accept": "text/html"}).headers["location"] == "/account"
    assert client.post("/account/users", data={"act": "remove", "name": "ada"}).status_code == 403
    assert "password of your own" in client.get("/account").text
    for given in ({"again": "other than that"}, {"password": "wrong"}, {"wanted": "short", "again": "short"}):
        fields = {"password": password, "wanted": PASSWORD, "again": PASSWORD, **given}
        assert client.post("/account/password", data=fields).status_code == 400, given
    changed = client.post("/account/password", data={"password": password, "wanted": PASSWORD, "again": PASSWORD})
    assert changed.status_code == 303
    assert client.get("/api/datasets").status_code == 200
    held.users.remove("newbie")


# Roles: every door

LOOKING = ["/", "/review", "/config", "/api/datasets", "/api/runs", "/api/review/setup", "/api/me", "/gradio_api/info"]
CURATING = [
    ("/api/datasets", {"path": "/nowhere", "name": "x"}),
    ("/api/generate", {"dataset": "small", "recipe": "nope"}),
    ("/api/snapshots", {"dataset": "nope", "name": "s"}),
    ("/api/export", {"snapshot": "nope", "folder": "/nowhere"}),
    ("/api/train", {"snapshot": "nope"}),
    ("/api/evaluate", {"train_run": 99, "snapshot": "nope"}),
    ("/api/runs/99/cancel", {}),
    ("/api/lab/policies", {}),
    ("/api/people/double", {"dataset": 99, "share": 0.5}),
    ("/api/something-new", {}),
]


@pytest.mark.parametrize("name", PEOPLE)
def test_everybody_may_look(app: Any, cookies: dict[str, str], name: str) -> None:
    client = signed_in(app, cookies, name)
    assert {address: client.get(address).status_code for address in LOOKING} == dict.fromkeys(LOOKING, 200)


@pytest.mark.parametrize(("address", "body"), CURATING, ids=[address for address, _ in CURATING])
def test_reviewers_change_nothing_but_verdicts(app: Any, cookies: dict[str, str], address: str, body: Any) -> None:
    refused = signed_in(app, cookies, "rita").post(address, json=body, headers=OURS)
    assert refused.status_code == 403
    assert refused.json()["error"] == "This is for people with the role curator; rita is reviewer."
    for name in ("cuno", "ada"):
        assert signed_in(app, cookies, name).post(address, json=body, headers=OURS).status_code not in (401, 403)


def test_functions_of_pages_are_guarded_by_their_number(app: Any, cookies: dict[str, str]) -> None:
    """Through both doors that Gradio has for them; an unlisted spelling of the number is no way around."""
    config = signed_in(app, cookies, "ada").get("/config").json()
    acts = [one for one in config["dependencies"] if one["queue"]]
    looks = [one for one in config["dependencies"] if not one["queue"] and one["targets"][0][1] == "load"]
    assert len(acts) > 20 and len(looks) > 8
    rita, cuno = signed_in(app, cookies, "rita"), signed_in(app, cookies, "cuno")
    seen = {one["api_name"]: join(rita, one["id"]) for one in acts}
    assert {name for name, status in seen.items() if status != 403} == {
        "of_candidate",
        "of_candidate_1",
        "of_box",
        "of_box_1",
    }
    for spelling in (acts[0]["id"], str(acts[0]["id"]), float(acts[0]["id"]), True, None):
        assert join(rita, spelling) in (403, 404), spelling
        assert predict(rita, spelling) in (403, 404), spelling
    assert join(cuno, acts[0]["id"]) not in (401, 403)
    assert not {predict(rita, one["id"]) for one in looks} & {401, 403, 404}


def join(client: TestClient, number: Any) -> int:
    body = {"data": [], "fn_index": number, "session_hash": "abc", "event_data": None}
    return client.post("/gradio_api/queue/join", json=body).status_code


def predict(client: TestClient, number: Any) -> int:
    return client.post(
        "/gradio_api/run/predict", json={"data": [], "fn_index": number, "session_hash": "abc"}
    ).status_code


def test_users_are_the_admins_business(app: Any, cookies: dict[str, str], held: Store) -> None:
    for name in ("rita", "cuno"):
        client = signed_in(app, cookies, name)
        assert client.post("/account/users", data={"act": "add", "name": "eve", "role": "admin"}).status_code == 403
        assert "New password" in client.get("/account").text and "/account/users" not in client.get("/account").text
    ada = signed_in(app, cookies, "ada")
    added = ada.post("/account/users", data={"act": "add", "name": "eve", "role": "reviewer"})
    password = re.search(r"<code>([a-z2-7-]{19})</code>", added.text)
    assert password and held.users.checked("eve", password[1]) is not None
    for act, expected in (
        ("role", 200),
        ("signout", 200),
        ("password", 200),
        ("remove", 200),
        ("remove", 400),
        ("x", 400),
    ):
        answer = ada.post("/account/users", data={"act": act, "name": "eve", "role": "curator"})
        assert answer.status_code == expected, answer.text
    assert [deed.action for deed in held.users.trail(actor="ada", limit=2)] == ["remove user eve", "password user eve"]


@pytest.mark.parametrize("address", ["/", "/api/datasets", "/account"])
def test_pages_of_a_person_are_not_kept_for_the_next(app: Any, cookies: dict[str, str], address: str) -> None:
    answer = signed_in(app, cookies, "rita").get(address)
    assert "public" not in answer.headers.get("cache-control", "")


# The name on verdicts


def test_the_signed_in_name_is_the_reviewer_whatever_is_claimed(app: Any, cookies: dict[str, str], held: Store) -> None:
    rita, ids = signed_in(app, cookies, "rita"), held.review.candidate_ids(1)
    claims = [{"reviewer": "ada"}, {"reviewer": "local"}, {}]
    for i, claim in enumerate(claims):
        body = [{"op_id": f"claimed-{i}", "candidate_id": ids[i], "decision": "accept", **claim}]
        assert rita.post("/api/review/verdicts", json=body, headers=OURS).status_code == 200
    deed = {"op_id": "act-claimed", "reviewer": "ada", "decision": "reject", "ids": [ids[3]]}
    assert rita.post("/api/grid/acts", json=[deed], headers=OURS).status_code == 200
    assert {verdict.reviewer for verdict in held.review.verdicts(limit=100)} == {"rita"}
    history = rita.get("/api/review/history", params={"dataset": 1, "reviewer": "ada"}).json()
    assert [one["op_id"] for one in history] == ["claimed-2", "claimed-1", "claimed-0"]


def test_reviewers_take_back_only_what_is_theirs(app: Any, cookies: dict[str, str], held: Store) -> None:
    ids = held.review.candidate_ids(1)
    cuno, rita = signed_in(app, cookies, "cuno"), signed_in(app, cookies, "rita")
    given = [{"op_id": f"by-cuno-{i}", "candidate_id": ids[i], "decision": "accept"} for i in range(2)]
    cuno.post("/api/review/verdicts", json=given, headers=OURS)
    deed = {"op_id": "act-of-cuno", "place": {"dataset": 1}, "decision": "reject", "ids": [ids[2]]}
    assert cuno.post("/api/grid/acts", json=[deed], headers=OURS).json()[0]["status"] == "saved"
    rita.post("/api/review/verdicts", json=[given[0] | {"op_id": "by-rita-0"}], headers=OURS)

    def back(who: TestClient, verdict: str, place: int) -> Any:
        undo = {"op_id": f"{verdict}-{place}-undo", "candidate_id": ids[place], "decision": "undo", "undoes": verdict}
        return who.post("/api/review/verdicts", json=[undo], headers=OURS).json()[0]

    refused = back(rita, "by-cuno-1", 1)
    assert refused["status"] == "refused" and "only cuno, a curator or an admin may take it back" in refused["message"]
    act = {"op_id": "undo-the-act", "undoes": "act-of-cuno"}
    (done,) = rita.post("/api/grid/acts", json=[act], headers=OURS).json()
    assert done["status"] == "refused" and "cuno" in done["message"]
    assert [one.human for one in held.review.candidates(ids[1:3])] == ["accept", "reject"]
    assert back(rita, "by-rita-0", 0)["status"] == "saved"
    assert back(signed_in(app, cookies, "ada"), "by-cuno-1", 1)["status"] == "saved"
    (done,) = cuno.post("/api/grid/acts", json=[act], headers=OURS).json()
    assert (done["status"], done["count"]) == ("saved", 1)


def test_leases_are_those_of_who_is_signed_in(app: Any, cookies: dict[str, str], held: Store) -> None:
    ids = held.review.candidate_ids(1)[-2:]  # who opens Review has the first ones
    cuno, rita = signed_in(app, cookies, "cuno"), signed_in(app, cookies, "rita")
    kept = cuno.post("/api/review/leases", json={"ids": ids, "reviewer": "rita"}, headers=OURS)
    assert kept.json() == {"kept": ids, "lost": {}}
    stolen = rita.post("/api/review/leases", json={"ids": ids, "reviewer": "cuno", "was": "cuno"}, headers=OURS)
    assert stolen.json() == {"kept": [], "lost": {str(one): "cuno" for one in ids}}


def test_an_edit_carries_the_name_of_who_is_signed_in(app: Any, cookies: dict[str, str], held: Store) -> None:
    image = held.datasets.images(1)[0].id
    shown = signed_in(app, cookies, "rita").get(f"/api/edits/image/{image}").json()
    draft = {"boxes": [], "phrases": []} if "boxes" in str(shown) else {}
    body = [{"op_id": "edit-claimed", "image_id": image, "base": 0, "draft": draft, "reviewer": "ada"}]
    answer = signed_in(app, cookies, "rita").post("/api/edits", json=body, headers=OURS)
    assert answer.status_code == 200, answer.text
    assert [version.reviewer for version in held.edits.versions(image) if version.number] == ["rita"]


def test_what_curators_do_is_on_the_trail(app: Any, cookies: dict[str, str], held: Store) -> None:
    answer = signed_in(app, cookies, "cuno").post("/api/runs/99/cancel", json={})
    (deed, *_) = held.users.trail(actor="cuno")
    assert (deed.action, deed.status, deed.request) == (
        "POST /api/runs/99/cancel",
        answer.status_code,
        answer.headers["x-request-id"],
    )


# The command line


def test_users_are_kept_from_the_command_line(tmp_path: Path) -> None:
    def ran(*words: str) -> str:
        result = CliRunner().invoke(cli, ["user", *words, "--home", str(tmp_path)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    ran("add", "ada", "admin")
    ran("add", "rita")
    ran("role", "rita", "curator")
    ran("password", "rita")
    listed = json.loads(ran("list", "--json"))
    assert [(one["name"], one["role"], one["one_time"]) for one in listed] == [
        ("ada", "admin", True),
        ("rita", "curator", True),
    ]
    ran("remove", "rita")
    with pytest.raises(WinnowError, match="only admin"):
        ran("remove", "ada")
    assert json.loads(ran("trail", "--json")) == []


def test_the_first_start_tells_the_password_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    serve._meet({"home": str(tmp_path), "host": "0.0.0.0"})
    told = capsys.readouterr().out
    password = re.search(r"([a-z2-7]{4}-){3}[a-z2-7]{4}", told)
    assert password and "TLS" in told
    store = Store(tmp_path)
    user = store.users.checked("admin", password[0])
    store.close()
    assert user is not None and user.one_time
    serve._meet({"home": str(tmp_path), "host": "127.0.0.1"})
    assert capsys.readouterr().out == ""


# When the studio asks


@pytest.mark.parametrize(
    ("host", "wish", "asks"),
    [("127.0.0.1", "auto", False), ("localhost", "auto", False), ("0.0.0.0", "auto", True), ("::", "auto", True)]
    + [("127.0.0.1", "always", True), ("10.0.0.5", "auto", True)],
)
def test_others_are_asked_who_they_are(host: str, wish: str, asks: bool) -> None:
    assert serve.asks_who({"host": host, "sign_in": wish}) is asks


def test_there_is_no_way_to_turn_it_off_for_others() -> None:
    for wish in ("never", "off", "0", ""):
        with pytest.raises(WinnowError, match="auto or always"):
            serve.asks_who({"host": "0.0.0.0", "sign_in": wish})


def test_the_names_of_the_studio() -> None:
    assert serve.names("127.0.0.1", " Studio.Example, other ") == {"studio.example", "other"}
    assert "10.0.0.5" in serve.names("10.0.0.5", "")
    for odd in ("http://studio.example", "a/b", "*", "a b"):
        with pytest.raises(WinnowError, match="no host name"):
            serve.names("127.0.0.1", odd)


def test_the_studio_answers_to_its_configured_name(app: Any) -> None:
    client = TestClient(app, base_url="http://studio.example:7860", follow_redirects=False)
    assert client.get("/signin").status_code == 200
    assert client.get("/signin", headers={"Host": "other.example"}).status_code == 400
    ours = client.post(
        "/signin", data={"name": "rita", "password": PASSWORD}, headers={"Origin": "http://studio.example:7860"}
    )
    assert ours.status_code == 303
    foreign = client.post(
        "/signin", data={"name": "rita", "password": PASSWORD}, headers={"Origin": "http://evil.example"}
    )
    assert foreign.status_code == 403
