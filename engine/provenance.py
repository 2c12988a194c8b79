"""What made a result: library versions, interpreter, git revision."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = (
    "winnow",
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "open_clip_torch",
    "onedl-mmdetection",
    "onedl-mmcv",
    "numpy",
    "opencv-python-headless",
    "pillow",
)


@cache
def versions() -> dict[str, str]:
    """Name -> version of everything that can change a result; libraries that are not installed are left out."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    revision = _git_revision()
    return found | ({"git": revision} if revision else {})


def _git_revision() -> str | None:
    folder = Path(__file__).parent
    try:
        asked = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.strip() or None
