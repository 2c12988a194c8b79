"""Blobs in a place that several machines share: one contract for a folder, a file system by URL and an object store."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from db.blobs import Blobs, SharedBlobs
from db.errors import Unreachable, WinnowError

Machine = Callable[[str], Blobs]


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """The URL of a place in an S3 server on this machine, which is spoken to as to any other."""
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (keys | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}).items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").mkdir("winnow")
        yield "s3://winnow"
    server.stop()


@pytest.fixture(params=["folder", "file", "memory", "s3"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """Makes the blobs as a machine of that name sees them."""
    new = uuid.uuid4().hex
    urls = {"file": lambda: f"file://{tmp_path}/there", "memory": lambda: f"memory://{new}"}
    urls["s3"] = lambda: f"{request.getfixturevalue('bucket')}/{new}"
    url = urls[request.param]() if request.param in urls else None
    return lambda name: Blobs(tmp_path / "folder") if url is None else SharedBlobs(url, tmp_path / name)


def test_what_one_machine_puts_another_has(machine: Machine) -> None:
    here, there = machine("here"), machine("there")
    digest = here.put(b"a picture")
    assert digest == here.put(b"a picture") == hashlib.sha256(b"a picture").hexdigest()
    assert digest in there and there.get(digest) == b"a picture"
    assert there.path(digest).read_bytes() == b"a picture" and there.path(digest).name == digest
    assert there.put(b"") != digest


def test_what_is_not_there_is_told(machine: Machine) -> None:
    blobs = machine("here")
    assert "0" * 64 not in blobs
    with pytest.raises(WinnowError, match="missing from"):
        blobs.path("0" * 64)
    for odd in ("../../etc/passwd", "0" * 63, "G" * 64, ""):
        with pytest.raises(WinnowError, match="no blob digest"):
            blobs.path(odd)


def test_a_copy_is_kept_and_may_be_thrown_away(tmp_path: Path) -> None:
    here = SharedBlobs(f"file://{tmp_path}/far", tmp_path / "here")
    digest = here.put(b"x" * 1000)
    copy = here.path(digest)
    assert copy.is_relative_to(tmp_path / "here")
    copy.unlink()
    assert digest in here and here.get(digest) == b"x" * 1000 and copy.exists()


def test_a_damaged_blob_is_refused_and_not_kept(tmp_path: Path) -> None:
    digest = SharedBlobs(f"file://{tmp_path}/far", tmp_path / "here").put(b"good")
    (far,) = (path for path in (tmp_path / "far").rglob("*") if path.is_file())
    assert far.name == digest and far.read_bytes() == b"good"
    far.write_bytes(b"bad")
    there = SharedBlobs(f"file://{tmp_path}/far", tmp_path / "there")
    for _ in range(2):
        with pytest.raises(WinnowError, match="is damaged"):
            there.path(digest)
    assert not any(path.is_file() for path in (tmp_path / "there").rglob("*"))


def test_a_store_that_does_not_answer_is_told_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = SharedBlobs("memory://user:hunter2@far", tmp_path)

    def refused(*_given: Any, **_more: Any) -> None:
        raise ConnectionResetError("reset by peer")

    for name in ("exists", "cat_file", "pipe_file"):
        monkeypatch.setattr(fsspec.get_filesystem_class("memory"), name, refused)
    for use in (lambda: blobs.put(b"1"), lambda: blobs.path("0" * 64), lambda: "0" * 64 in blobs):
        with pytest.raises(Unreachable, match="reset by peer") as told:
            use()
        assert "hunter2" not in str(told.value)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


@pytest.mark.parametrize("odd", ["nothing-like-this://x", "s3n0://bucket"])
def test_a_url_that_nothing_opens_is_refused(tmp_path: Path, odd: str) -> None:
    with pytest.raises(WinnowError, match="blobs_url is no URL"):
        SharedBlobs(odd, tmp_path)


@pytest.mark.skipif(find_spec("gcsfs") is not None, reason="gcsfs is installed")
def test_a_missing_library_is_named(tmp_path: Path) -> None:
    with pytest.raises(WinnowError, match="library that is not installed"):
        SharedBlobs("gs://bucket/folder", tmp_path)
