"""What differs between two texts, word by word."""

from __future__ import annotations

import difflib
import re

_WORD = re.compile(r"\S+")


def changed_spans(before: str, after: str) -> tuple[tuple[int, int], ...]:
    """Character ranges of `after`, end exclusive, whose words differ from those of `before`; case counts.

    Words that were only taken away leave no range.
    """
    was, now = _WORD.findall(before), list(_WORD.finditer(after))
    changes = difflib.SequenceMatcher(None, was, [word[0] for word in now], autojunk=False).get_opcodes()
    return tuple((now[k].start(), now[m - 1].end()) for tag, _, _, k, m in changes if tag in ("replace", "insert"))
