"""`python -m engine.training.probe`: whether the model libraries load here, as one line of JSON. For `winnow doctor`."""

from __future__ import annotations

import json

import torch

from engine.training import mmlab


def main() -> None:
    mmlab.install()
    import mmcv.ops  # noqa: F401  the operators must resolve
    import mmdet

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    print(json.dumps({"torch": torch.__version__, "mmdet": mmdet.__version__, "gpu": gpu}))


if __name__ == "__main__":
    main()
