"""What must never get through: unknown routes, other sites, endless requests, hostile names in any field, paths out of folders."""

import ast
import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from conftest import candidates, leased, small_document
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from starlette.routing import BaseRoute, Mount

from db.records import Category, Decision, NewVerdict, Phrase, RunKind, Score
from db.users import Role, User
from studio import guard
from studio.app import LOOKS, create_app, functions
from studio.context import Studio, open_studio
from studio.guard import MAX_BODY, Bucket, Guard, Rules
from studio.metrics import Metrics
from studio.pages import PAGES

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    return create_app(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def client(app: FastAPI) -> TestClient:
    return TestClient(app, raise_server_exceptions=False)


# Routes: each is ours, needed by our pages, or shut

SHUT = {  # routes of Gradio that our pages do not need
    "/openapi.json", "/login", "/login/", "/logout", "/monitoring", "/monitoring/summary", "/monitoring/{key}",
    "/gradio_api/deep_link",
    *(f"/gradio_api/{name}" for name in (
        "queue/status", "user", "user/", "login_check", "login_check/", "token", "token/", "runs", "runs/", "openapi.json", "upload_progress",
        "dev/reload", "custom_component/{id}/{environment}/{type}/{file_name}", "proxy={url_path:path}", "file={path_or_url:path}",
        "file/{path:path}", "stream/{event_id}", "stream/{event_id}/close",
        "stream/{session_hash}/{run}/{component_id}/playlist.m3u8", "stream/{session_hash}/{run}/{component_id}/playlist-file",
        "stream/{session_hash}/{run}/{component_id}/{segment_id}.{ext}", "reset/", "run/{api_name}/", "api/{api_name}",
        "api/{api_name}/", "call/{api_name}", "call/{api_name}/", "call/v2/{api_name}", "call/v2/{api_name}/",
        "call/{api_name}/{event_id}", "call/v2/{api_name}/{event_id}", "component_server", "component_server/", "upload",
        "process_recording", "vibe-edit", "vibe-edit/", "undo-vibe-edit", "undo-vibe-edit/", "vibe-code", "vibe-code/",
        "vibe-starter-queries", "vibe-starter-queries/", "run-history/connect", "run-history/buckets", "run-history/records",
        "run-history/records/{endpoint}/{record_id}/assets/{asset_id}", "profiling/traces", "profiling/summary", "profiling/clear",
    )),
}  # fmt: skip
USED = {  # its routes that are let through, as it writes them
    "/", "/svelte/{path:path}", "/config", "/config/", "/static/{path:path}", "/assets/{path:path}", "/favicon.ico", "/theme.css",
    "/robots.txt", "/pwa_icon/{size}", "/pwa_icon", "/manifest.json", "/gradio_api/app_id", "/gradio_api/app_id/",
    "/gradio_api/info", "/gradio_api/info/", "/gradio_api/heartbeat/{session_hash}", "/gradio_api/run/{api_name}",
    "/gradio_api/queue/join", "/gradio_api/queue/data", "/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/startup-events",
    "/gradio_api/theme.css",
}  # fmt: skip


def every_route(routes: list[BaseRoute], before: str = "") -> Iterator[tuple[str, APIRoute]]:
    for route in routes:
        inner = getattr(route, "app", None) if isinstance(route, Mount) else getattr(route, "original_router", None)
        prefix = getattr(getattr(route, "include_context", None), "prefix", "") or ""
        path = before + getattr(route, "path", "") if isinstance(route, Mount) else before + prefix
        if inner is not None:
            yield from every_route(inner.routes, path)
        elif hasattr(route, "endpoint"):
            yield before + route.path, route  # type: ignore[attr-defined]


def test_every_route_is_ours_or_listed(app: FastAPI) -> None:
    """A new version of Gradio may bring new routes: they are shut, and this test says that somebody has to look at them."""
    found = {path for path, _ in every_route(app.routes)}
    pages = {f"/{page.path}" for page in PAGES} | {f"/{page.path}/" for page in PAGES}
    ours = {path for path in found if guard.OURS.fullmatch(path)}
    assert len(ours) > 40 and len(found) > 100
    assert found - ours - pages - USED - SHUT == set(), "routes that nobody has looked at"


def test_what_is_shut_is_not_there(client: TestClient) -> None:
    for path in sorted(SHUT):
        address = re.sub(r"\{[^}]*\}", "x", path)
        for method in ("GET", "POST"):
            answer = client.request(method, address, json={} if method == "POST" else None)
            assert (answer.status_code, "nothing at" in answer.text) == (404, True), (method, address)


def test_new_routes_of_gradio_are_shut(client: TestClient) -> None:
    for address in (
        "/gradio_api/brand-new",
        "/brand-new",
        "/gradio_api",
        "/review/x",
        "/api",
        "/gradio_api/run/other",
    ):
        assert client.post(address, json={}).status_code == 404, address
        assert client.get(address).status_code == 404, address


def test_refreshes_do_not_act(app: FastAPI) -> None:
    """Reviewers may call what stays out of the queue: none of that calls an action, starts a run or writes to the store."""
    blocks = next(route.app for route in app.routes if isinstance(route, Mount)).get_blocks()  # type: ignore[attr-defined]
    looks = {one.name for one in functions(blocks).values() if one.looks}
    acts = {one.name for one in functions(blocks).values() if not one.looks}
    assert len(looks) > 20 and len(acts) > 15 and looks >= LOOKS
    for name in sorted(looks):
        module, _, function = name.rpartition(".")
        written = WRITES & called(ROOT / (module.replace(".", "/") + ".py"), function)
        assert not written, f"{name} writes: {written}"


WRITES = {
    "import_dataset", "start_recipe", "start_again", "start_training", "start_evaluation", "freeze", "export", "load_demo",
    "start_audit", "create_run", "request_cancel", "request_pause", "request_resume", "request_retry", "review.decide", "decide_all",
    "take_back", "save_policy", "set_double_share", "save", "remove", "delete", "import_document", "put",
}  # fmt: skip


def called(path: Path, function: str) -> set[str]:
    """Names that a function of a module calls, through other functions of that module too."""
    tree = {node.name: node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
    seen: set[str] = set()
    waiting, names = [function], set[str]()
    while waiting:
        here = waiting.pop()
        if here in seen or here not in tree:
            continue
        seen.add(here)
        for node in ast.walk(tree[here]):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                names |= {name, ".".join(ast.unparse(node.func).split(".")[-2:])}
                waiting.append(name)
    return names


# The gate

ORIGINS = [
    "null", "http://testserver.evil.example", "http://evil-testserver", "https://testserver", "http://testserver:81",
    "http://testserver@evil.example", "http://evil.example#testserver", "http://[::1", "http://[", "http://testserver:99999999",
    "http://TESTSERVER.", "http://127.0.0.1", "testserver", "file://", "", "http://[::ffff:127.0.0.1]",
]  # fmt: skip


@pytest.mark.parametrize("origin", [one for one in ORIGINS if one != "https://testserver"])
def test_other_origins_change_nothing(client: TestClient, origin: str) -> None:
    answer = client.post("/api/review/verdicts", json=[], headers={"X-Winnow": "1", "Origin": origin})
    assert answer.status_code == 403, origin
    assert answer.headers["x-frame-options"] == "DENY"
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "host", ["evil.example", "", "a b", "[::1", "localhost:80:80", "127.0.0.1.evil.example", "\xff"]
)
def test_other_hosts_are_refused_with_all_headers(client: TestClient, host: str) -> None:
    answer = client.get("/healthz", headers={"Host": host.encode("latin-1")})
    assert answer.status_code == 400
    assert {"content-security-policy", "x-frame-options", "x-request-id"} <= set(answer.headers)


def test_a_body_without_end_is_refused(client: TestClient) -> None:
    def long() -> Iterator[bytes]:
        yield from (b" " * 2**16 for _ in range(MAX_BODY // 2**16 + 2))

    told = client.post("/api/review/verdicts", content=b" ", headers={"Content-Length": str(10**12), "X-Winnow": "1"})
    assert told.status_code == 413
    for address in ("/api/review/verdicts", "/api/generate", "/gradio_api/queue/join", "/gradio_api/cancel"):
        answer = client.post(address, content=long(), headers={"X-Winnow": "1", "Content-Type": "application/json"})
        assert answer.status_code == 413, address


@pytest.mark.parametrize("length", ["-1", "+1", "1e3", "0x10", "99999999999999999999999"])
def test_odd_lengths_are_refused(client: TestClient, length: str) -> None:
    answer = client.post("/api/review/verdicts", content=b"[]", headers={"Content-Length": length})
    assert answer.status_code == 413


def test_a_body_in_drops_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.05)

    async def never() -> Any:
        await asyncio.sleep(60)

    assert asyncio.run(status(scope("POST", "/api/x"), never)) == 408


def test_websockets_are_closed() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(gate()({"type": "websocket", "path": "/"}, None, send))  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1008}]


def gate(**rules: Any) -> Guard:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("the password is 1234")

    return Guard(app, Rules(hosts={"localhost"}, pages={""}, functions={}, **rules), Metrics())


def scope(method: str, path: str) -> dict[str, Any]:
    headers = [(b"host", b"localhost")]
    return {
        "type": "http", "method": method, "path": path, "headers": headers, "query_string": b"", "scheme": "http",
        "client": ("127.0.0.1", 1),
    }  # fmt: skip


async def status(asked: dict[str, Any], receive: Any, guarded: Guard | None = None) -> int:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await (guarded or gate())(asked, receive, send)  # type: ignore[arg-type]
    assert b"1234" not in sent[-1]["body"]
    assert b"content-security-policy" in dict(sent[0]["headers"])
    return int(sent[0]["status"])


def test_a_bug_has_the_headers_too_and_tells_nothing() -> None:
    async def empty() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    assert asyncio.run(status(scope("GET", "/api/x"), empty)) == 500


def test_ten_thousand_ranges_are_not_ten_thousand_answers(client: TestClient) -> None:
    whole = client.get("/favicon.ico")
    ranges = "bytes=" + ",".join(f"{i}-" for i in range(10_000))
    assert len(client.get("/favicon.ico", headers={"Range": ranges}).content) <= 2 * len(whole.content)


def test_nobody_writes_faster_than_a_person_can() -> None:
    """Each for themselves; looking is not counted."""
    limited = gate(signed_in=lambda headers: User(1, headers[b"x-name"].decode(), Role.REVIEWER, False, 0.0))
    limited._writes = Bucket(most=3, per_second=0.001)
    assert [limited_status(limited, "POST", "ann") for _ in range(5)] == [500, 500, 500, 429, 429]
    assert limited_status(limited, "POST", "bob") == 500, "reaches the application of this test, which is broken"
    assert limited_status(limited, "GET", "ann") == 500


def limited_status(limited: Guard, method: str, name: str) -> int:
    async def empty() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    asked = scope(method, "/api/review/leases")
    asked["headers"] = [*asked["headers"], (b"x-name", name.encode())]
    return asyncio.run(status(asked, empty, limited))


def test_a_giant_form_is_refused(client: TestClient) -> None:
    body = b"--x\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(100_000)) + b"\r\n"
    for address in ("/gradio_api/upload", "/signin", "/api/datasets"):
        answer = client.post(address, content=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
        assert 400 <= answer.status_code < 500, address


# Names that are markup, in every field, on every page and in every answer

MARK = "w1nn0w"
HOSTILE = [
    f"<img src=x onerror=alert('{MARK}')>", f"\"><script>alert('{MARK}')</script>", f"'onmouseover=alert({MARK}) x='",
    f"javascript:alert({MARK})", f"{{{{constructor.constructor('{MARK}')()}}}}", f"</style><svg onload={MARK}>",
    f"<a href=javascript:{MARK}>", f"\u202e<b>{MARK}</b>", f"${{alert({MARK})}}", f"]]><!--{MARK}-->",
]  # fmt: skip


class Markup(HTMLParser):
    """Every element and attribute of a page that a browser would act on."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0
        self.bad: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements += 1
        if tag in ("script", "iframe", "object", "embed", "base", "meta", "link", "form"):
            self.bad.append(tag)
        for name, value in attrs:
            address = name in ("href", "src", "action", "xlink:href", "formaction")
            if name.startswith("on") or (
                address and re.match(r"\s*(javascript|data:text|vbscript)", value or "", re.IGNORECASE)
            ):
                self.bad.append(f"{tag} {name}={value}")

    def handle_comment(self, data: str) -> None:
        self.bad.append(f"comment {data}")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Studio, TestClient]]:
    """A studio in which every name, text and reason is markup."""
    home = tmp_path_factory.mktemp("hostile")
    app = create_app(home)
    studio = open_studio(home)
    store, names = studio.store, iter(HOSTILE * 20)
    document = small_document(home / "files")
    phrases = [replace_text(phrase, next(names)) for phrase in document.phrases()]
    categories = [Category(id=i, name=HOSTILE[i], source_id=i + 1) for i in range(2)]
    document = replace(document, categories=categories, phrases=lambda: phrases)
    dataset = store.datasets.import_document(document, HOSTILE[0])
    shard = leased(store, dataset.id, note=next(names))
    ids = candidates(store, dataset.id, shard, len(HOSTILE))
    store.review.add_scores(shard, [Score(candidate_id=i, filter="seam", value=0.5, reason=next(names)) for i in ids])
    verdicts = [
        NewVerdict(
            op_id=f"hostile-{i}", candidate_id=i, decision=Decision.REJECT, reviewer=next(names), reason=next(names)
        )
        for i in ids[:5]
    ]
    store.review.decide(verdicts)
    store.views.save(dataset.id, HOSTILE[1], "dataset=1")
    store.ledger.create_run(
        RunKind.GENERATE, HOSTILE[2], dataset_id=dataset.id, recipe=HOSTILE[3], options={HOSTILE[4]: HOSTILE[5]}, seed=0,
        versions={HOSTILE[6]: HOSTILE[7]},
    )  # fmt: skip
    store.ledger.log(shard.run_id, HOSTILE[8], level=HOSTILE[1])
    store.ledger.fail_shard(shard, HOSTILE[1])
    store.ledger.present(HOSTILE[0])
    store.snapshots.freeze(HOSTILE[9], dataset.id)
    yield studio, TestClient(app, raise_server_exceptions=False)
    store.close()


def replace_text(phrase: Phrase, text: str) -> Phrase:
    """Another text, with spans that lie inside of it."""
    return msgspec.structs.replace(phrase, text=text, spans=tuple((0, 9) for _ in phrase.spans))


def texts(value: Any) -> Iterator[str]:
    """All texts in what a page function returns."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from texts(one)
    elif hasattr(value, "value"):
        yield from texts(value.value)


def test_no_page_makes_markup_of_a_name(hostile: tuple[Studio, TestClient]) -> None:
    studio, _ = hostile
    opening = [page for page in PAGES if hasattr(page, "opened")]
    shown = 0
    for page in opening:
        for query in ({}, {"dataset": HOSTILE[0], "run": "1", "candidate": "1"}):
            answer = page.opened(studio, SimpleNamespace(query_params=query))
            for text in texts(answer):
                if (
                    text.lstrip().startswith("<") and text not in HOSTILE
                ):  # a bare name is a choice, which Gradio escapes
                    shown += MARK in text
                    markup = Markup()
                    markup.feed(text)
                    assert not markup.bad, (page.title, markup.bad[:3])
    assert len(opening) > 8
    assert shown > 5, "the names were to be seen"


def test_no_answer_is_markup(hostile: tuple[Studio, TestClient]) -> None:
    """JSON is JSON, whatever a browser would like to make of it, and what is no JSON is no HTML."""
    _, client = hostile
    queries = {"dataset": 1, "reviewer": HOSTILE[0], "by": "category"}
    asked = 0
    for path, wanted in JSON_ROUTES.items():
        answer = client.get(path, params={name: queries[name] for name in wanted.split()})
        assert answer.headers["x-content-type-options"] == "nosniff", path
        kind = answer.headers["content-type"]
        assert kind.startswith(("application/json", "text/csv")), (path, kind)
        asked += MARK in answer.text
        if kind.startswith("application/json"):
            json.loads(answer.text)
    assert asked > 5, "the names were to be seen"


JSON_ROUTES = {
    "/api/datasets": "", "/api/runs": "", "/api/runs/1": "", "/api/snapshots": "", "/api/review/setup": "",
    "/api/review/next": "dataset reviewer", "/api/review/counts": "dataset", "/api/candidates/1": "",
    "/api/grid/setup": "", "/api/grid/page": "dataset", "/api/grid/groups": "dataset by", "/api/grid/views": "dataset",
    "/api/people/trail.json": "dataset", "/api/people/trail.csv": "dataset", "/api/edits/image/1": "",
    "/api/edits/classes/1": "", "/api/why/candidate/1": "",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_an_error_that_quotes_a_name_is_json(client: TestClient, name: str) -> None:
    for answer in (
        client.post("/api/generate", json={"dataset": name, "recipe": name}),
        client.post("/api/train", json={"snapshot": name, "preset": name}),
        client.get("/api/review/next", params={"dataset": name}),
        client.get(f"/studio-static/{name}"),
        client.get(f"/{name}"),
    ):
        assert 400 <= answer.status_code < 500
        assert answer.headers["content-type"].startswith("application/json")
        assert answer.headers["x-content-type-options"] == "nosniff"


# Paths

TRAVERSAL = [
    "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "..\\..\\secret", "/etc/passwd", "//etc/passwd",
    "%2fetc%2fpasswd", "..%c0%af..%c0%afetc/passwd", "....//....//etc/passwd", "C:\\Windows\\win.ini", "\\\\host\\share",
    "secret%00.js", "../secret", "CON", "x" * 300, "winnow.db", "./../winnow.db", "review_card/../../app.py", "file:///etc/passwd",
]  # fmt: skip


@pytest.mark.parametrize("path", TRAVERSAL)
def test_no_address_leads_out_of_its_folder(client: TestClient, path: str) -> None:
    for prefix in (
        "/studio-static/",
        "/media/blob/",
        "/media/thumb/",
        "/static/",
        "/assets/",
        "/svelte/",
        "/gradio_api/file=",
    ):
        answer = client.get(prefix + path)
        assert answer.status_code in (400, 403, 404, 422), (prefix, path, answer.status_code)
        assert b"root:" not in answer.content and b"SQLite format" not in answer.content


@pytest.mark.parametrize("digest", ["../" * 20 + "etc", "0" * 63 + "/", "A" * 64, "0" * 64, "." * 64, "%00" * 21 + "0"])
def test_a_sheet_of_thumbnails_takes_digests_only(client: TestClient, digest: str) -> None:
    answer = client.post("/media/sheet", json={"digests": [digest]})
    assert answer.status_code in (200, 422)
    assert answer.status_code == 422 or answer.content == b"\0\0\0\0"


# What the code must not do


def modules(*folders: str) -> Iterator[tuple[Path, ast.Module]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path, ast.parse(path.read_text())


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


UNPICKLES = {"db/formats/pickles.py"}  # a reader that looks no name up, and reads what it put aside itself


def test_nothing_from_outside_is_run_or_unpickled() -> None:
    seen = 0
    for path, tree in modules("db", "engine", "studio"):
        here = path.relative_to(ROOT).as_posix()
        for name, call in calls(tree):
            seen += 1
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert name not in ("eval", "exec", "os.system", "shelve.open"), here
            assert not name.endswith((".extractall", "pickle.load", "pickle.loads")), here
            assert name != "marshal.loads" or here in UNPICKLES, here
            assert given.get("shell") != "True", here
            assert given.get("trust_remote_code") != "True", here
            assert name != "torch.load" or given.get("weights_only") == "True", here
            assert name not in ("yaml.load", "yaml.full_load", "yaml.unsafe_load") or "Loader" in given, here
    assert seen > 5000


def test_the_web_process_never_reads_a_pickle_or_fetches_a_url() -> None:
    banned = {"pickle", "dill", "joblib", "marshal", "shelve", "urllib.request", "requests", "httpx", "aiohttp"}
    for path, tree in modules("studio"):
        if "benches" in path.parts or "measure" in path.parts:
            continue
        for node in ast.walk(tree):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not banned & set(names), path


@pytest.mark.parametrize("key", ["_base_", "custom_imports", "__class__", "hooks", "model"])
def test_options_of_a_training_are_a_closed_list(hostile: tuple[Studio, TestClient], key: str) -> None:
    _, client = hostile
    answer = client.post("/api/train", json={"snapshot": HOSTILE[9], "options": {key: "x"}})
    assert answer.status_code in (400, 404, 422)


@pytest.mark.parametrize("column", ["user__password", "account.password", "password", "1=1", "id; DROP TABLE run"])
def test_only_known_things_can_be_sorted_or_filtered_by(hostile: tuple[Studio, TestClient], column: str) -> None:
    _, client = hostile
    for query in ({"order": column}, {"scores": f"{column}:0:1"}, {column: "x"}):
        answer = client.get("/api/review/next", params={"dataset": 1, **query})
        assert answer.status_code in (400, 404, 422) or answer.json()["cards"] == [], query
        assert "scrypt" not in answer.text
