"""Asking detectors that read: what goes into one pass, and what came out, as the evaluations of texts want it.

How many descriptions share a prompt changes what most models answer, so it is said with every result. OmniLabel's published
way asks descriptions of more than two words one at a time and shorter ones by twenty.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from db.errors import WinnowError
from engine.training import mmlab

mmlab.install()

from mmdet.structures import DetDataSample
from mmengine.model import BaseModel
from mmengine.structures import InstanceData

from engine.evaluation.spoken import Asked
from engine.training.data import as_input, fit
from engine.training.negatives import SEPARATOR, Length

Row = dict[str, Any]
SHORT, TOGETHER = 2, 20  # words of a description that may share its prompt, and how many then do


@dataclass(frozen=True)
class Query:
    """One pass over an image: `text` holds the descriptions `ids`, each at its `spans` [start, end)."""

    path: Path
    image_id: int
    text: str
    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


def query(path: Path, image_id: int, asked: Mapping[int, str]) -> Query:
    """All of these descriptions in one text, each a sentence."""
    text, spans = "", []
    for words in (words.strip().rstrip(" .") for words in asked.values()):
        spans.append((len(text), len(text) + len(words)))
        text += words + SEPARATOR
    return Query(path, image_id, text.rstrip(), tuple(asked), tuple(spans))


def read_omnilabel(path: Path) -> Row:
    """An OmniLabel document. Raises WinnowError when there is none."""
    try:
        document = json.loads(path.read_bytes())
        return {key: document[key] for key in ("images", "descriptions", "annotations")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WinnowError(
            f"{path} should be an OmniLabel file of images, descriptions and annotations: {error!r}"
        ) from error


def omnilabel_queries(
    document: Row, folder: Path, length: Length, limit: int, *, together: bool = False
) -> list[Query]:
    """What to ask the images of a document: the descriptions that list them.

    In OmniLabel's way, or, for models whose sentences do not read one another, as many `together` as `limit` tokens hold.
    """
    texts = {row["id"]: row["text"] for row in document["descriptions"]}
    asked: dict[int, list[int]] = defaultdict(list)
    for row in document["descriptions"]:
        for image_id in row["image_ids"]:
            asked[image_id].append(row["id"])
    queries = []
    for image in document["images"]:
        for part in parts_of({i: texts[i] for i in asked[image["id"]]}, length, limit, together=together):
            queries.append(query(folder / image["file_name"], image["id"], {i: texts[i] for i in part}))
    return queries


def parts_of(texts: Mapping[int, str], length: Length, limit: int, *, together: bool) -> Iterator[tuple[int, ...]]:
    """Which texts share a prompt, see `omnilabel_queries`."""
    return fitting(texts, texts, length, limit) if together else _official(list(texts), texts)


def _official(ids: Sequence[int], texts: Mapping[int, str]) -> Iterator[tuple[int, ...]]:
    short = [i for i in ids if len(texts[i].split()) <= SHORT]
    yield from ((i,) for i in ids if len(texts[i].split()) > SHORT)
    yield from (tuple(short[start : start + TOGETHER]) for start in range(0, len(short), TOGETHER))


def fitting(ids: Iterable[int], texts: Mapping[int, str], length: Length, limit: int) -> Iterator[tuple[int, ...]]:
    """The ids in order, as many at a time as fit into the text encoder."""
    part: list[int] = []
    used = 0
    for number in ids:
        tokens = length(texts[number] + SEPARATOR)
        if part and used + tokens > limit:
            yield tuple(part)
            part, used = [], 0
        part.append(number)
        used += tokens
    if part:
        yield tuple(part)


def spoken_queries(asked: Iterable[Asked], length: Length, limit: int, *, together: bool = False) -> list[Query]:
    """What to ask images for: each text by itself, or as many `together` as `limit` tokens hold."""
    return [
        query(one.path, one.image_id, {i: one.texts[i] for i in part})
        for one in asked
        for part in (fitting(one.texts, one.texts, length, limit) if together else ((i,) for i in one.texts))
    ]


def read(path: Path) -> np.ndarray:
    """HxWx3 BGR, pixels as stored. Raises WinnowError for a file that is missing or no image."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise WinnowError(f"{path} is missing or cannot be read as an image.")
    return image


class QueryDataset(Dataset):
    """Queries as samples for mmdet's GLIP and Grounding DINO; `img_id` is the place of the query."""

    def __init__(self, queries: Sequence[Query], size_wh: tuple[int, int]) -> None:
        self._queries, self._size = queries, size_wh
        self.metainfo: Row = {}

    def __len__(self) -> int:
        return len(self._queries)

    def __getitem__(self, place: int) -> Row:
        return prompted(read(self._queries[place].path), self._queries[place], self._size, place)


def prompted(whole: np.ndarray, asked: Query, size_wh: tuple[int, int], place: int = 0) -> Row:
    """A picture, HxWx3 BGR, with what it is asked for, as a sample of mmdet."""
    image = fit(whole, size_wh)
    sample = DetDataSample(
        gt_instances=InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)),
        metainfo={
            "img_id": place,
            "img_path": str(asked.path),
            "ori_shape": whole.shape[:2],
            "img_shape": image.shape[:2],
            "scale_factor": (image.shape[1] / whole.shape[1], image.shape[0] / whole.shape[0]),
            "text": asked.text if asked.text.endswith(".") else f"{asked.text}.",
            "tokens_positive": [[list(span)] for span in asked.spans],
        },
    )
    return {"inputs": as_input(image), "data_samples": sample}


def found_in(asked: Query, found: Any) -> list[Row]:
    """Answers as OmniLabel predictions. `found` has `bboxes` xyxy in the image's own pixels, `scores` and `labels`, the
    places of the descriptions."""
    rows = zip(found["bboxes"].tolist(), found["scores"].tolist(), found["labels"].tolist(), strict=True)
    return [
        {
            "image_id": asked.image_id,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "description_ids": [asked.ids[label]],
            "scores": [score],
        }
        for (x1, y1, x2, y2), score, label in rows
        if x2 > x1 and y2 > y1  # what lies outside of the picture was cut to nothing
    ]


def ask(
    model: BaseModel,
    queries: Sequence[Query],
    size_wh: tuple[int, int],
    progress: Callable[[int, int], None] | None = None,
    batch_size: int = 16,
) -> list[Row]:
    """The answers of a model in evaluation mode to all queries, as OmniLabel predictions."""
    dataset, answers = QueryDataset(queries, size_wh), []
    for start in range(0, len(queries), batch_size):
        items = [dataset[place] for place in range(start, min(start + batch_size, len(queries)))]
        batch = {key: [item[key] for item in items] for key in ("inputs", "data_samples")}
        with torch.inference_mode():
            for sample in model.test_step(batch):
                answers += found_in(queries[sample.img_id], sample.pred_instances)
        if progress is not None:
            progress(start + len(items), len(queries))
    return answers
