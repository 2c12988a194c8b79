"""What a detector says about one image, as one value that cannot be malformed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes `xyxy` float32 [n,4] in absolute pixels, `scores` float32 [n] in 0..1, `labels` int64 [n] into `names`.

    Raises ValueError when shapes disagree, a number is not finite, a box is inside out, or a label has no name.
    """

    xyxy: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        count = len(self.scores)
        shapes = (self.xyxy.shape, self.scores.shape, self.labels.shape)
        if shapes != ((count, 4), (count,), (count,)):
            raise ValueError(f"Detections need shapes [n,4], [n] and [n], not {', '.join(map(str, shapes))}.")
        if self.xyxy.dtype != np.float32 or self.scores.dtype != np.float32 or self.labels.dtype != np.int64:
            dtypes = (self.xyxy.dtype, self.scores.dtype, self.labels.dtype)
            raise ValueError(f"Detections need float32, float32 and int64, not {', '.join(map(str, dtypes))}.")
        if not np.isfinite(self.xyxy).all() or (self.xyxy[:, :2] > self.xyxy[:, 2:]).any():
            raise ValueError("Detections need finite boxes x1 <= x2, y1 <= y2.")
        if not ((self.scores >= 0) & (self.scores <= 1)).all():
            raise ValueError("Detections need scores in 0..1.")
        if not ((self.labels >= 0) & (self.labels < len(self.names))).all():
            raise ValueError(f"Detections need labels in 0..{len(self.names) - 1}, one for each name.")

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, chosen: slice | np.ndarray) -> Detections:
        """The chosen rows, by slice, boolean mask or index array."""
        return Detections(self.xyxy[chosen], self.scores[chosen], self.labels[chosen], self.names)
