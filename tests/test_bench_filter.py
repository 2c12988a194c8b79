"""`winnow bench filter` in small: it reads a real model, and says what it compared with."""

from __future__ import annotations

import json
from pathlib import Path

from studio.benches import BENCHES
from studio.benches.filters import run
from tests.test_openclip import model_folder


def test_it_measures_a_first_and_a_second_pass(tmp_path: Path) -> None:
    result = run(0.1, str(model_folder(tmp_path / "model")), batch_size=4, rounds=1)
    figures = result["figures"]
    assert (result["bench"], result["n"]) == ("filter", 6)
    assert figures["clip_ratio_to_bare"] * figures["bare_images_per_s"] > 0
    assert abs(figures["clip_ratio_to_bare"] - figures["images_per_s"] / figures["bare_images_per_s"]) < 1e-9
    assert figures["rescore_share"] > 0 and "model" in result["baseline"]
    assert json.loads(json.dumps(result)) == result


def test_it_is_listed() -> None:
    assert "filter" in BENCHES
