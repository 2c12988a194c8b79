"""`winnow bench NAME`: each bench returns {"bench", "figures", "baseline", "n", "versions"}."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _imports(scale: float) -> dict[str, Any]:
    from studio.benches.imports import run

    return run(scale)


def _exports(scale: float) -> dict[str, Any]:
    from studio.benches.exports import run

    return run(scale)


def _scale(scale: float, size: int | None = None) -> dict[str, Any]:
    from studio.benches.scale import run

    return run(scale) if size is None else run(scale, sizes=(size,))


def _review(scale: float, size: int | None = None) -> dict[str, Any]:
    from studio.benches.review import run

    return run(scale) if size is None else run(scale, sizes=(size,))


def _load(scale: float, size: int | None = None) -> dict[str, Any]:
    from studio.benches.load import run

    return run(scale, size)


def _paint(scale: float, model: str | None = None) -> dict[str, Any]:
    from studio.benches.paint import run

    return run(scale, model)


def _lab(scale: float) -> dict[str, Any]:
    from studio.benches.lab import run

    return run(scale)


def _filter(scale: float, model: str | None = None) -> dict[str, Any]:
    from studio.benches.filters import run

    return run(scale, model)


def _train(scale: float) -> dict[str, Any]:
    from studio.benches.train import run

    return run(scale)


BENCHES: dict[str, Callable[..., dict[str, Any]]] = {
    "import": _imports,
    "export": _exports,
    "scale": _scale,
    "review": _review,
    "load": _load,
    "paint": _paint,
    "filter": _filter,
    "lab": _lab,
    "train": _train,
}
