"""The web process stays light, and answers only its own pages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from studio.app import create_app, from_our_pages

HEAVY = ("torch", "torchvision", "transformers", "diffusers", "open_clip", "mmdet", "mmcv", "inflect")
CODE = """
import sys
from pathlib import Path
from fastapi.testclient import TestClient
from studio.app import create_app
client = TestClient(create_app(Path(sys.argv[1])))
for path in ("/", "/generate", "/review", "/train", "/compare", "/jobs", "/api/datasets", "/api/runs", "/api/snapshots"):
    assert client.get(path).status_code == 200, path
print(",".join(name for name in sys.argv[2].split(",") if name in sys.modules))
"""


def test_the_web_process_loads_no_model_library(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path), ",".join(HEAVY)],
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    return TestClient(create_app(tmp_path_factory.mktemp("home")), raise_server_exceptions=False)


@pytest.mark.parametrize(
    ("method", "origin", "host", "fine"),
    [
        ("POST", None, "127.0.0.1:7860", True),
        ("POST", "http://127.0.0.1:7860", "127.0.0.1:7860", True),
        ("POST", "http://127.0.0.1:7861", "127.0.0.1:7860", False),
        ("POST", "https://evil.example", "127.0.0.1:7860", False),
        ("POST", "http://127.0.0.1:7860.evil.example", "127.0.0.1:7860", False),
        ("POST", "http://127.0.0.1:7860@evil.example", "127.0.0.1:7860", False),
        ("POST", "null", "127.0.0.1:7860", False),
        ("DELETE", "https://evil.example", "localhost", False),
        ("GET", "https://evil.example", "localhost", True),
    ],
)
def test_only_our_own_pages_may_change_things(method: str, origin: str | None, host: str, fine: bool) -> None:
    headers = [(b"host", host.encode())] + ([(b"origin", origin.encode())] if origin else [])
    assert from_our_pages({"type": "http", "method": method, "headers": headers}) is fine


def test_headers_guard_every_answer(client: TestClient) -> None:
    for path in ("/", "/api/datasets", "/nowhere"):
        headers = client.get(path).headers
        assert (headers["x-frame-options"], headers["x-content-type-options"]) == ("DENY", "nosniff")


def test_an_unknown_run_is_a_sentence_not_a_crash(client: TestClient) -> None:
    answer = client.get("/api/runs/999")
    assert answer.status_code == 400 and "No run named 999" in answer.json()["error"]


def test_files_of_the_home_are_not_served(client: TestClient, tmp_path: Path) -> None:
    for name in ("winnow.db", "secret", "../winnow.db", "/etc/passwd"):
        for route in ("/gradio_api/file=", "/media/blob/", "/studio-static/"):
            assert client.get(route + name).status_code in (403, 404, 422)
