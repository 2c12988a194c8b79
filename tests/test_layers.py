"""The architecture as a test: imports run one way, and each heavy library has one home."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = {"db": {"engine", "studio"}, "engine": {"studio"}, "studio": set()}
HOMES = {
    "gradio": ("studio/",),
    "huey": ("engine/jobs.py",),
    "sqlalchemy": ("db/",),
    "alembic": ("db/",),
    **{
        name: ("engine/backends/", "engine/training/") for name in ("torch", "torchvision", "mmdet", "mmengine", "mmcv")
    },
    **{name: ("engine/backends/", "engine/training/") for name in ("diffusers", "transformers", "open_clip")},
}


def sources() -> list[Path]:
    return [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def test_there_is_something_to_check() -> None:
    assert len(sources()) > 40


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way_and_libraries_stay_at_home(path: Path) -> None:
    place = path.relative_to(ROOT).as_posix()
    found = set(imported(path))
    assert not found & LAYERS[place.split("/")[0]], "imports against the direction studio -> engine -> db"
    for library in found & HOMES.keys():
        assert place.startswith(HOMES[library]), f"{library} belongs in {HOMES[library]}"
