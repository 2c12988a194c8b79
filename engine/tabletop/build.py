"""Writes a data set of the world: pictures, COCO, ODVG, a label map and the exact truth."""

import hashlib
import io
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
from PIL import Image

from db.errors import WinnowError
from engine.tabletop.descriptions import d3_truth, mini_omnilabel
from engine.tabletop.difficulty import Difficulty, preset
from engine.tabletop.kinds import KINDS
from engine.tabletop.records import TrueObject, Truth
from engine.tabletop.scene import paint

Progress = Callable[[int, int], None]
_Task = tuple[Path, str, int, Difficulty, int]


def build(
    folder: str | Path,
    difficulty: str | Difficulty,
    counts: dict[str, int],
    seed: int = 0,
    workers: int = 1,
    progress: Progress | None = None,
    descriptions: bool = False,
) -> None:
    """Write `counts[split]` scenes for every split into `folder`.

    Makes `images/*.jpg`, `label_map.json` and for every split `coco_*.json`, `odvg_*.jsonl` and `truth_*.jsonl`. File
    names inside are relative to `folder`. With `descriptions` also `omnilabel_*.json` and `d3_*.json`: texts to look for,
    with exact negatives. The same arguments give the same bytes whatever `workers` is, and a longer split begins with the
    scenes of a shorter one. `progress(done, total)` is called after every scene. A calling script needs the usual
    `if __name__ == "__main__":` when `workers` is more than 1.

    Raises WinnowError for an unknown preset or an odd split.
    """
    level = preset(difficulty) if isinstance(difficulty, str) else difficulty
    _check(counts, workers)
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    _write(folder / "label_map.json", _json({str(k): kind.name for k, kind in enumerate(KINDS[: level.kinds])}))
    done, total = 0, sum(counts.values())
    with _mapper(workers) as each:
        for split, count in counts.items():
            known = []
            for truth in each(_one, [(folder, split, split_seed(seed, split), level, i) for i in range(count)]):
                known.append(truth)
                done += 1
                if progress is not None:
                    progress(done, total)
            _write_split(folder, split, known, level)
            if descriptions:
                _write_descriptions(folder, split, known, level)


def split_seed(seed: int, split: str) -> int:
    """The seed of the world that a split is taken from, so that splits share no scene."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{split}".encode(), digest_size=6).digest(), "big")


def coco(scenes: Iterable[Truth], difficulty: Difficulty) -> dict[str, Any]:
    """The COCO document: polygons where the visible part has no hole, uncompressed run lengths where it has."""
    ids = {kind.name: k for k, kind in enumerate(KINDS[: difficulty.kinds], 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, truth in enumerate(scenes, 1):
        images.append({"id": number, "file_name": truth.file_name, "width": truth.width, "height": truth.height})
        for thing in truth.objects:
            annotations.append(_annotation(thing, len(annotations) + 1, number, ids[thing.kind]))
    categories = [{"id": ids[k.name], "name": k.name, "frequency": k.frequency} for k in KINDS[: difficulty.kinds]]
    return {"info": {"description": "Tabletop"}, "images": images, "annotations": annotations, "categories": categories}


def odvg(truth: Truth) -> dict[str, Any]:
    """The grounding record of one scene."""
    regions = []
    for phrase in truth.phrases:
        boxes = [list(truth.objects[i].box) for i in phrase.objects]
        regions.append(
            {
                "bbox": boxes if len(boxes) > 1 else boxes[0],
                "phrase": phrase.text,
                "tokens_positive": [[phrase.start, phrase.end]],
            }
        )
    return {
        "filename": truth.file_name,
        "height": truth.height,
        "width": truth.width,
        "grounding": {"caption": truth.caption, "regions": regions},
    }


def _annotation(thing: TrueObject, number: int, image: int, category: int) -> dict[str, Any]:
    x1, y1, x2, y2 = thing.box
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": thing.area,
        "iscrowd": 0,
        "segmentation": _segmentation(thing),
    }


def _segmentation(thing: TrueObject) -> list[list[float]] | dict[str, Any]:
    """Outlines, or run lengths if there are holes. The mask is doubled so that outlines lie nearer to its true edge."""
    run_lengths = {"size": list(thing.mask.size), "counts": thing.mask.counts}
    double = thing.mask.array().repeat(2, 0).repeat(2, 1).astype(np.uint8)
    outlines, tree = cv2.findContours(double, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if any(row[3] >= 0 for row in tree[0]) or any(cv2.contourArea(o) < 2 for o in outlines):
        return run_lengths
    return [((o.reshape(-1, 2) + 0.5) / 2).ravel().tolist() for o in outlines]


def _check(counts: dict[str, int], workers: int) -> None:
    for split, count in counts.items():
        if not split.replace("_", "").isalnum() or count < 1:
            raise WinnowError(
                f"Tabletop split {split!r} with {count} scenes: "
                "the name should be letters, digits and _, the count 1 or more."
            )
    if not counts or workers < 1:
        raise WinnowError(
            f"Tabletop: {len(counts)} splits and {workers} workers; there should be at least one of each."
        )


def _one(task: _Task) -> Truth:
    folder, split, seed, difficulty, index = task
    scene = paint(seed, index, difficulty, f"images/{split}_{index:06d}.jpg")
    picture = io.BytesIO()
    Image.fromarray(scene.image).save(picture, "JPEG", quality=95, subsampling=0)
    _write(folder / scene.truth.file_name, picture.getvalue())
    return scene.truth


@contextmanager
def _mapper(workers: int) -> Iterator[Callable[..., Iterable[Truth]]]:
    if workers == 1:
        yield map
        return
    with multiprocessing.get_context("spawn").Pool(workers, cv2.setNumThreads, (1,)) as pool:
        yield lambda function, tasks: pool.imap(function, tasks, chunksize=8)


def _write_split(folder: Path, split: str, scenes: list[Truth], difficulty: Difficulty) -> None:
    _write(folder / f"coco_{split}.json", _json(coco(scenes, difficulty)))
    _write(folder / f"odvg_{split}.jsonl", b"".join(_json(odvg(truth)) for truth in scenes))
    _write(folder / f"truth_{split}.jsonl", b"".join(_json(truth) for truth in scenes))


def _write_descriptions(folder: Path, split: str, scenes: list[Truth], difficulty: Difficulty) -> None:
    names = [kind.name for kind in KINDS[: difficulty.kinds]]
    _write(folder / f"omnilabel_{split}.json", _json(mini_omnilabel(scenes, names)))
    _write(folder / f"d3_{split}.json", _json(d3_truth(scenes)))


def _json(value: object) -> bytes:
    return msgspec.json.encode(value) + b"\n"


def _write(path: Path, content: bytes) -> None:
    """All of the file or none of it."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)
