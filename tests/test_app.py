"""The web application as a whole: its guards, its pages, and what it must never do."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import small_document
from fastapi.testclient import TestClient

from db.errors import WinnowError
from studio.app import create_app
from studio.guard import CONTENT
from studio.pages import PAGES

ROOT = Path(__file__).parent.parent
ADDRESSES = [f"/{page.path}" for page in PAGES]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    app = create_app(tmp_path_factory.mktemp("home"))

    def bug() -> None:
        raise ValueError("the password is 1234")

    def told() -> None:
        raise WinnowError("The folder is empty. Choose another one.")

    for path, route in (("/api/bug", bug), ("/api/told", told)):
        app.add_api_route(path, route)
        app.router.routes.insert(0, app.router.routes.pop())  # what comes after Gradio's "/" is never reached
    with TestClient(app, raise_server_exceptions=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def config(client: TestClient) -> dict[str, Any]:
    return client.get("/config").json()


def test_the_pages_follow_the_work() -> None:
    titles = [page.title for page in PAGES]
    steps = ["Datasets", "Generate", "Review", "Train", "Compare"]
    assert [title for title in titles if title in steps] == steps
    assert len({page.path for page in PAGES}) == len(PAGES)


@pytest.mark.parametrize("address", ADDRESSES)
def test_pages_open(client: TestClient, address: str) -> None:
    answer = client.get(address)
    assert answer.status_code == 200
    assert "<title>Winnow" in answer.text or '"title":"Winnow"' in answer.text
    assert answer.headers["content-security-policy"] == CONTENT
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("address", ["/api/review/setup", "/studio-static/grid/grid.js", "/studio-static/shell.css"])
def test_our_routes_come_before_gradio(client: TestClient, address: str) -> None:
    assert client.get(address).status_code == 200


def test_nothing_is_a_public_function(client: TestClient, config: dict[str, Any]) -> None:
    assert client.get("/gradio_api/info").json() == {"named_endpoints": {}, "unnamed_endpoints": {}}
    assert {one["api_visibility"] for one in config["dependencies"]} == {"private"}


def test_no_page_holds_a_connection_open(config: dict[str, Any]) -> None:
    """A page with a State, an unload or a stream listener keeps one of the six connections a browser has for a host."""
    assert len(config["components"]) > 80
    assert "state" not in {component["type"] for component in config["components"]}
    events = {event for one in config["dependencies"] for _, event in one["targets"]}
    assert "tick" in events
    assert not events & {"unload", "stream"}


def test_polling_stays_out_of_the_queue(config: dict[str, Any]) -> None:
    ticks = [one for one in config["dependencies"] if any(event == "tick" for _, event in one["targets"])]
    assert ticks
    assert not any(one["queue"] for one in ticks)


def test_every_page_has_the_navigation_and_a_heading(config: dict[str, Any]) -> None:
    kinds = {component["id"]: component for component in config["components"]}
    for name, layout in config["page"].items():
        on_page = [kinds[number] for number in layout["components"]]
        assert any(component["type"] == "navbar" for component in on_page), name
        values = [str(component["props"].get("value")) for component in on_page if component["type"] == "html"]
        assert name in ("review", "grid") or sum("<h1>" in value for value in values) == 1, (
            name
        )  # these bring their own


# Guards


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "[::1]:7860", "LOCALHOST"])
def test_own_hosts(client: TestClient, host: str) -> None:
    assert client.get("/studio-static/grid/grid.js", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:7860", ""])
@pytest.mark.parametrize("address", ["/", "/api/review/setup", "/gradio_api/info"])
def test_other_hosts_are_refused(client: TestClient, host: str, address: str) -> None:
    assert client.get(address, headers={"Host": host}).status_code == 400


POSTS = ["/api/review/verdicts", "/gradio_api/queue/join", "/gradio_api/run/predict"]
FOREIGN = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://testserver.evil.example"},
    {"Origin": "http://testserver:81"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Origin": "http://testserver", "Sec-Fetch-Site": "same-site"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
@pytest.mark.parametrize("address", POSTS)
def test_other_sites_change_nothing(client: TestClient, address: str, headers: dict[str, str]) -> None:
    answer = client.post(address, json=[], headers={"X-Winnow": "1", **headers})
    assert answer.status_code == 403
    assert "another site" in answer.json()["error"]
    assert answer.headers["x-frame-options"] == "DENY"
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("headers", [{}, {"Origin": "http://testserver"}, {"Sec-Fetch-Site": "same-origin"}], ids=str)
def test_our_pages_and_scripts_may(client: TestClient, headers: dict[str, str]) -> None:
    assert client.post("/api/review/verdicts", json=[], headers={"X-Winnow": "1", **headers}).status_code == 200


def test_nothing_can_be_uploaded(client: TestClient) -> None:
    answer = client.post("/gradio_api/upload", files={"files": ("a.bin", b"0" * 4096)})
    assert answer.status_code == 404


def test_files_of_this_machine_are_not_served(client: TestClient, tmp_path: Path) -> None:
    for path in ("/etc/passwd", str(ROOT / "pyproject.toml"), str(tmp_path)):
        assert client.get(f"/gradio_api/file={path}").status_code in (403, 404)


# Errors


def test_an_error_for_people_is_told(client: TestClient) -> None:
    answer = client.get("/api/told")
    assert answer.status_code == 400
    assert answer.json() == {"error": "The folder is empty. Choose another one."}


def test_a_bug_is_a_number_here_and_a_traceback_in_the_log(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "studio.guard"):
        answer = client.get("/api/bug")
    assert answer.status_code == 500
    assert "1234" not in answer.text
    number = answer.json()["error"].split("report ")[1][:8]
    record = next(record for record in caplog.records if number in record.getMessage())
    assert record.exc_info and "1234" in str(record.exc_info[1])


@pytest.mark.parametrize(
    ("address", "body"),
    [
        ("/gradio_api/call/nope", {"data": []}),
        ("/gradio_api/run/predict", {"data": [], "fn_index": 9999}),
        ("/gradio_api/run/predict", {"data": []}),
        ("/gradio_api/queue/join", {"data": [], "fn_index": 9999, "session_hash": "x"}),
        ("/gradio_api/run/predict", []),
    ],
)
def test_unknown_functions_are_no_server_error(client: TestClient, address: str, body: Any) -> None:
    assert 400 <= client.post(address, json=body).status_code < 500


def test_the_web_process_never_imports_torch(tmp_path: Path) -> None:
    """A process of its own, since other tests of this one import torch. Every page is opened on a data set with a run."""
    small_document(tmp_path / "files")
    home = tmp_path / "home"
    command = [sys.executable, "-c", OPEN_ALL, str(home), str(tmp_path / "files")]
    ended = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    opening = [page for page in PAGES if hasattr(page, "opened")]
    assert ended.stdout.split() == ["opened", str(len(opening))]


OPEN_ALL = """
import sys
from pathlib import Path
from types import SimpleNamespace
sys.path.insert(0, "tests")
from studio.app import create_app
from studio.context import open_studio
from studio.pages import PAGES
from studio import actions
from conftest import small_document
home = Path(sys.argv[1])
create_app(home)
studio = open_studio(home)
dataset = studio.store.datasets.import_document(small_document(Path(sys.argv[2])), "small")
run = actions.start_recipe(studio, dataset="small", recipe="gen2det", amount=2)
actions.start_training(studio, snapshot=actions.freeze(studio, dataset="small", name="s").id)
opened = [page.opened(studio, SimpleNamespace(query_params={})) for page in PAGES if hasattr(page, "opened")]
heavy = {"torch", "torchvision", "mmdet", "mmcv", "mmengine", "diffusers", "transformers", "open_clip"} & set(sys.modules)
assert not heavy, heavy
print("opened", len(opened))
"""
