"""What the pocket painter makes, and whether the pocket embedder recognises it: figures and a contact sheet."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from db.errors import WinnowError
from db.records import XYXY
from db.store import Store
from engine.backends.hf_diffusers import DiffusersPainter
from engine.backends.openclip import OpenCLIPEmbedder
from engine.roles import Context, Painted, PaintTask
from engine.tabletop import paint
from engine.training.pocket.contexts import WORLD
from engine.training.pocket.crops import WORDS, describe

UNSEEN = 90_001  # a world that no model of the pack was trained on
TILE, COLUMNS = 112, 8
MARGIN = 0.2  # of the longer side of the box, that the embedder sees around it, as in its training


class _Wish(NamedTuple):
    task: PaintTask
    kind: str
    colour: str


def sheet(out: Path, *, count: int, painter: str, embedder: str, seed: int = 0) -> dict[str, float]:
    """Paint `count` random kinds in random colours over things of unseen scenes, and write the pictures to `out`.

    Returns shares in 0..1 of the painted boxes whose nearest text names the kind (of 40), the colour (of 10) and both (of
    400), and `before_kind`, the same kinds asked of the boxes as they were: what chance and resemblance give. Raises
    WinnowError when a picture cannot be painted.
    """
    wishes = _wishes(count, seed)
    with tempfile.TemporaryDirectory(prefix="winnow-sheet-") as folder:
        store = Store(Path(folder))
        try:
            made = DiffusersPainter(
                Context(store, 0), model=painter, device="cpu", dtype="float32", steps=20, guidance=3.0, batch_size=16
            ).paint([wish.task for wish in wishes])
        finally:
            store.close()
    images = [_image(result) for result in made]
    _write(out, [_tile(image, wish) for image, wish in zip(images, wishes, strict=True)])
    looked = OpenCLIPEmbedder(model=embedder, device="cpu")
    after = _recognised(looked, images, wishes)
    before = _recognised(looked, [wish.task.image for wish in wishes], wishes)
    return {"painted": float(count), **after, "before_kind": before["kind"], "before_colour": before["colour"]}


def _wishes(count: int, seed: int) -> list[_Wish]:
    """One for each scene: a thing well visible, and what shall stand in its place."""
    rng = np.random.default_rng([seed, 7])
    wishes: list[_Wish] = []
    index = 0
    while len(wishes) < count:
        scene = paint(UNSEEN + seed, index, WORLD)
        index += 1
        clear = [thing for thing in scene.truth.objects if thing.hidden < 0.05 and thing.size != "small"]
        if clear:
            kind, colour = (str(rng.choice(WORDS[slot])) for slot in ("kind", "colour"))
            task = PaintTask(scene.image, clear[0].box, describe(kind, colour), seed=index, category=kind)
            wishes.append(_Wish(task, kind, colour))
    return wishes


def _image(result: Painted | str) -> np.ndarray:
    if isinstance(result, str):
        raise WinnowError(f"A picture of the sheet could not be painted: {result}")
    return result.image


def _recognised(embedder: OpenCLIPEmbedder, images: list[np.ndarray], wishes: list[_Wish]) -> dict[str, float]:
    seen = embedder.images([_cut(image, wish.task.xyxy, MARGIN) for image, wish in zip(images, wishes, strict=True)])
    pairs = [(kind, colour) for kind in WORDS["kind"] for colour in WORDS["colour"]]
    best = [pairs[i] for i in (seen @ embedder.texts([describe(*pair) for pair in pairs]).T).argmax(1)]
    named = [WORDS["kind"][i] for i in (seen @ embedder.texts([describe(kind) for kind in WORDS["kind"]]).T).argmax(1)]
    return {
        "kind": float(np.mean([name == wish.kind for name, wish in zip(named, wishes, strict=True)])),
        "colour": float(np.mean([colour == wish.colour for (_, colour), wish in zip(best, wishes, strict=True)])),
        "kind_colour": float(
            np.mean([found == (wish.kind, wish.colour) for found, wish in zip(best, wishes, strict=True)])
        ),
    }


def _cut(image: np.ndarray, xyxy: XYXY, margin: float) -> np.ndarray:
    """The box and `margin` of its longer side around it."""
    x1, y1, x2, y2 = xyxy
    more = margin * max(x2 - x1, y2 - y1)
    left, top = max(round(x1 - more), 0), max(round(y1 - more), 0)
    return image[top : round(y2 + more), left : round(x2 + more)]


def _tile(image: np.ndarray, wish: _Wish) -> np.ndarray:
    """The painted box in its surroundings, with what was asked for below it."""
    tile = np.full((TILE + 18, TILE + 4, 3), 255, np.uint8)
    tile[:TILE, :TILE] = cv2.resize(_cut(image, wish.task.xyxy, 0.3), (TILE, TILE), interpolation=cv2.INTER_AREA)
    cv2.putText(
        tile, wish.task.prompt[:22], (2, TILE + 13), cv2.FONT_HERSHEY_SIMPLEX, 0.33, (20, 20, 20), 1, cv2.LINE_AA
    )
    return tile


def _write(out: Path, tiles: list[np.ndarray]) -> None:
    tiles = tiles + [np.full_like(tiles[0], 255)] * (-len(tiles) % COLUMNS)
    rows = [np.concatenate(tiles[at : at + COLUMNS], 1) for at in range(0, len(tiles), COLUMNS)]
    out.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(out), np.concatenate(rows)[..., ::-1]):
        raise WinnowError(f"{out} cannot be written; name a .png in a folder that exists.")
