"""Which folders people who sign in may import from and export to."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import small_document
from fastapi.testclient import TestClient

from db import formats
from db import users as accounts
from db.errors import WinnowError
from db.store import Store
from db.users import Role
from studio.app import create_app
from studio.auth import COOKIE, SignIn
from studio.roots import EVERYWHERE, EXCHANGE, Roots, roots_of

PASSWORD = "correct horse battery"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder that may be used, with a data set in it; one that may not; and links from the first to the second."""
    for name in ("open", "shut"):
        formats.write(small_document(tmp_path / f"files-{name}", images=1), tmp_path / name / "data", "coco")
    (tmp_path / "open" / "link").symlink_to(tmp_path / "shut" / "data")
    (tmp_path / "open" / "out").symlink_to(tmp_path / "shut")
    return tmp_path


@pytest.fixture
def roots(place: Path) -> Roots:
    return roots_of(str(place / "open"), place / "home")


INSIDE = ["open/data", "open", "open/new/folder", "open/../open/data", "./open/data"]
OUTSIDE = [
    "shut/data",
    "open/../shut",
    "open/link",
    "open/out/x",
    "openly",
    "",
    "..",
    "/",
    "/etc/passwd",
    "~root/x",
    "nowhere",
]


@pytest.mark.parametrize("path", INSIDE)
def test_what_lies_within_is_admitted(place: Path, roots: Roots, path: str) -> None:
    assert roots.admit(place / path) == Path(os.path.realpath(place / path))


@pytest.mark.parametrize("path", OUTSIDE)
def test_what_lies_outside_is_refused_whether_it_is_there_or_not(place: Path, roots: Roots, path: str) -> None:
    with pytest.raises(WinnowError, match="WINNOW_ROOTS"):
        roots.admit(place / path if path != "~root/x" else Path(path))
    assert EVERYWHERE.admit(place / path) == place / path


def test_images_of_another_folder_are_not_read(place: Path, roots: Roots) -> None:
    """Annotations inside that name images outside, as a YOLO data.yaml can."""
    document = small_document(place / "files-shut", images=1)
    with pytest.raises(WinnowError, match="WINNOW_ROOTS"):
        [roots.admit_document(document).file_of(image) for image in document.images()]
    assert EVERYWHERE.admit_document(document) is document
    nowhere = roots.admit_document(replace(document, file_of=lambda image: None))
    assert [nowhere.file_of(image) for image in document.images()] == [None]


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"weights": "/etc/passwd"}, True),
        ({"attention": {"model": "../shut/model"}}, True),
        ({"weights": "~/x.pth"}, True),
        ({"model": "assets/../../x"}, True),
        ({"model": "Salesforce/blip-itm-base-coco", "iterations": 3, "ema": True}, False),
        ({"model": "assets/pocket/embedder"}, False),
        ({"model": "RN50", "note": None}, False),
    ],
)
def test_options_that_are_paths_lie_within(roots: Roots, options: dict[str, Any], refused: bool) -> None:
    if not refused:
        return roots.admit_options(options)
    with pytest.raises(WinnowError, match="WINNOW_ROOTS"):
        roots.admit_options(options)


def test_without_a_list_there_is_a_folder_for_it(tmp_path: Path) -> None:
    roots = roots_of("", tmp_path / "home")
    assert roots.admit(tmp_path / "home" / EXCHANGE / "a") and (tmp_path / "home" / EXCHANGE).is_dir()
    with pytest.raises(WinnowError, match="exchange"):
        roots.admit(tmp_path / "home" / "winnow.db")


def test_a_list_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    for listed, told in (
        (str(tmp_path / "none"), "no folder"),
        (str(tmp_path), "holds the data folder"),
        ("/", "holds"),
    ):
        with pytest.raises(WinnowError, match=told):
            roots_of(listed, tmp_path / "home")


def test_several_folders_may_be_listed(place: Path) -> None:
    roots = roots_of(os.pathsep.join((str(place / "open"), str(place / "shut"))), place / "home")
    assert roots.admit(place / "open" / "link") == place / "shut" / "data"


# Through the studio


def curator(home: Path, **options: Any) -> TestClient:
    app = create_app(home, sign_in=True, **options)
    store = Store(home)
    token = store.users.sign_in(store.users.add("cuno", PASSWORD, Role.CURATOR))
    signature = SignIn(store)._signature(token)
    store.close()
    return TestClient(app, cookies={COOKIE: f"{token}.{signature}"}, headers={"X-Winnow": "1"})


def test_a_curator_imports_from_and_exports_to_what_is_listed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(accounts.SCRYPT, "n", 2**4)
    client = curator(place / "home", roots=str(place / "open"))

    def status(address: str, **body: Any) -> int:
        answer = client.post(address, json=body)
        assert answer.status_code == 200 or "WINNOW_ROOTS" in answer.json()["error"], answer.text
        return answer.status_code

    assert status("/api/datasets", path=str(place / "shut" / "data"), name="x") == 400
    assert status("/api/datasets", path=str(place / "open" / "link"), name="x") == 400
    assert status("/api/datasets", path="/nowhere/at/all", name="x") == 400
    assert status("/api/datasets", path=str(place / "open" / "data"), name="mine") == 200
    assert status("/api/snapshots", dataset="mine", name="s") == 200
    assert status("/api/export", snapshot="s", folder=str(place / "shut" / "new")) == 400
    assert status("/api/export", snapshot="s", folder=str(place / "open" / "out" / "new")) == 400
    assert status("/api/export", snapshot="s", folder=str(place / "open" / "new")) == 200
    assert status("/api/train", snapshot="s", options={"weights": str(place / "shut" / "w.pth")}) == 400
    assert status("/api/generate", dataset="mine", recipe=str(place / "shut" / "r.yaml")) == 400
    assert not (place / "shut" / "new").exists() and (place / "open" / "new").is_dir()


def test_where_nobody_signs_in_every_folder_is_open(place: Path) -> None:
    client = TestClient(create_app(place / "home"), headers={"X-Winnow": "1"})
    answer = client.post("/api/datasets", json={"path": str(place / "shut" / "data"), "name": "mine"})
    assert answer.status_code == 200, json.dumps(answer.json())
