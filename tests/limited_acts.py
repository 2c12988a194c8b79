"""What the child of the tests of `db/limited.py` does: what it is asked for, also what no decoder should."""

import os
import time
from typing import Any

from db.errors import WinnowError


def act(order: Any) -> Any:
    """What the child of these tests does."""
    match order:
        case "die":
            os._exit(9)
        case "crash":
            os.abort()
        case "hang":
            time.sleep(60)
        case "fill":
            return len(bytearray(2**33))
        case "refuse":
            raise WinnowError("that is no image")
        case "secret":
            return os.environ.get("WINNOW_TEST_KEY", "none")
        case "print":
            print("libraries print")
            os.write(1, b"\xff\xff\xff\xff")
    return order
