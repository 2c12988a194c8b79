"""JSON whose lists are longer than memory: read in chunks of whole items, found again by their bytes.

A chunk ends at an object that a comma and another object follow. That this is an item of the list and nothing inside of
one is not guessed: the chunk between brackets must be read to its end without an error, which only whole items are.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from db.errors import BadDataset
from db.records import Fault

CHUNK = 4 * 2**20
SHORT = 512  # bytes that most keys and values fit into
MAX_ITEM = 64 * 2**20  # bytes of an item of a list, or of a value that is none
TRIES = 16  # objects that a chunk may end with before Python's slower reader takes over
LONGEST_MARK = 16  # characters of what a text can break off within, other than a string: two escapes
AFTER = re.compile(r"[ \t\r\n,:\]}]")
COMMA = re.compile(r"[ \t\r\n]*,[ \t\r\n]*")
BLANKS = b" \t\r\n"
NEXT = re.compile(rb"\}[ \t\r\n]*,[ \t\r\n]*\{")
TRAILING = re.compile(r"trailing characters \(byte (\d+)\)")
STRICT = json.JSONDecoder()


class Chunk(NamedTuple):
    """Some consecutive items of a list, and the bytes of the file that hold them."""

    start: int
    end: int
    items: list[Any]


class JsonFile:
    """A JSON object or list in a file."""

    def __init__(self, path: Path, expected: str) -> None:
        self.path, self.expected = path, expected
        self.size, self._stamp = path.stat().st_size, _stamp(path)

    def scan(self, lists: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """(key, value) of the object in order; for a list whose key is in `lists`, (key, Chunk) for every chunk, and at
        least one, of items of the type that stands there, or as plain JSON where a chunk has others.

        Raises BadDataset for what is no JSON object, or names a key twice.
        """
        with self.path.open("rb") as file:
            reader = _Reader(self, file)
            seen: set[str] = set()
            for key in reader.members():
                if key in seen:
                    raise self.broken(f"the key {key!r:.60} a second time")
                seen.add(key)
                if key in lists and reader.peek() == b"[":
                    yield from ((key, chunk) for chunk in reader.chunks(lists[key]))
                else:
                    yield key, reader.value()

    def items(self, kind: Any) -> Iterator[Chunk]:
        """The chunks of a list that is the whole file, at least one, of items as in `scan`.

        Raises BadDataset for what is no JSON list, and where the file is another by now.
        """
        self._check_unchanged()
        with self.path.open("rb") as file:
            reader = _Reader(self, file)
            reader.check_top(b"[")
            yield from reader.chunks(kind)
            reader.end()

    def again(self, start: int, end: int, kind: Any) -> list[Any]:
        """The items of a chunk that was there before. Raises BadDataset where the file is another by now."""
        self._check_unchanged()
        with self.path.open("rb") as file:
            file.seek(start)
            data = b"[%b]" % file.read(end - start)
        for type_ in (list[kind], list[Any]):
            try:
                return msgspec.json.decode(data, type=type_)
            except (msgspec.MsgspecError, RecursionError):
                continue
        try:
            return list(json.loads(data))
        except (ValueError, RecursionError) as error:
            raise self.broken(f"not as it was a moment ago: {error}") from error

    def _check_unchanged(self) -> None:
        if _stamp(self.path) != self._stamp:
            raise self.broken("changed while it was read")

    def broken(self, seen: str) -> BadDataset:
        """The error for a file of which nothing can be read."""
        return BadDataset([Fault(file=str(self.path), item="the whole file", seen=seen, expected=self.expected)])


def _stamp(path: Path) -> tuple[int, int]:
    """What tells that a file was written again."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


class _Reader:
    """A window on the file, which moves on as things are read."""

    def __init__(self, whole: JsonFile, file: Any) -> None:
        self._whole, self._file = whole, file
        self._data, self._at, self._start, self._ended = b"", 0, 0, False
        self._more(CHUNK)
        if self._data.startswith(codecs.BOM_UTF8):
            self._at = len(codecs.BOM_UTF8)

    def members(self) -> Iterator[str]:
        """The keys of the object; whoever gets one reads its value before the next."""
        self.check_top(b"{")
        self._at += 1
        if self.peek() == b"}":
            self._at += 1
        else:
            yield from self._pairs()
        self.end()

    def check_top(self, mark: bytes) -> None:
        """Raises BadDataset where the file does not begin with `mark`, that of an object or of a list."""
        if self.peek() != mark:
            value = self.value()
            self.end()
            raise self._whole.broken(f"a {type(value).__name__} at the top")

    def _pairs(self) -> Iterator[str]:
        while True:
            if self.peek() != b'"':
                raise self._malformed("Expecting property name enclosed in double quotes")
            key = self.value()
            self._expect(b":")
            yield key
            if self.peek() == b"}":
                self._at += 1
                return
            self._expect(b",")

    def end(self) -> None:
        """Raises BadDataset where anything comes after what was read."""
        if self.peek():
            raise self._malformed("Extra data")

    def _expect(self, mark: bytes) -> None:
        if self.peek() != mark:
            raise self._malformed(f"Expecting '{mark.decode()}' delimiter")
        self._at += 1

    def peek(self) -> bytes:
        """The next byte that is no white space; none at the end of the file."""
        while True:
            while self._at < len(self._data) and self._data[self._at] in BLANKS:
                self._at += 1
            if self._at < len(self._data) or self._ended:
                return self._data[self._at : self._at + 1]
            self._more(CHUNK)

    def value(self) -> Any:
        """The next value, whatever it is, by Python's reader, which takes NaN, so that what holds it can be named."""
        self.peek()
        size = SHORT
        while True:
            text, rest = self._text(size)
            found, end = self._parsed(text, 0, rest)
            if end is not None:
                self._at += len(text[:end].encode())
                return found
            size = self._grown(size, found, text, rest)

    def chunks(self, kind: Any) -> Iterator[Chunk]:
        """The list that begins here."""
        self._expect(b"[")
        if self.peek() == b"]":
            self._at += 1
            yield Chunk(self._start + self._at, self._start + self._at, [])
            return
        while True:
            self._more(CHUNK)
            items, length = self._whole_items(kind)
            start = self._start + self._at
            self._check_characters(length)
            self._at += length
            yield Chunk(start, start + length, items)
            if self.peek() == b"]":
                self._at += 1
                return
            self._expect(b",")
            self.peek()

    def _whole_items(self, kind: Any) -> tuple[list[Any], int]:
        """As many items as the window has whole, and how many bytes they take."""
        for type_ in (list[kind], list[Any]):
            found = self._fast(type_)
            if found is not None:
                return found
        return self._slow()

    def _fast(self, type_: Any) -> tuple[list[Any], int] | None:
        window = self._data[self._at : self._at + CHUNK]
        end = _last_end(window, len(window))
        for _ in range(TRIES):
            if end <= 0:
                return None
            bracketed = b"[%b]" % window[:end]
            try:
                return msgspec.json.decode(bracketed, type=type_), end
            except msgspec.ValidationError:
                return None
            except UnicodeDecodeError:
                return None  # the slow way says where
            except (msgspec.DecodeError, RecursionError) as error:
                early = TRAILING.search(str(error))  # the list ends before: after its bracket comes something else
                end = bracketed.rfind(b"]", 0, int(early[1])) - 1 if early else _last_end(window, end - 1)
        return None

    def _slow(self) -> tuple[list[Any], int]:
        """By Python's reader, item by item."""
        size = CHUNK
        while True:
            text, rest = self._text(size)
            items, end, found = self._items(text, rest)
            if items:
                return items, len(text[:end].encode())
            size = self._grown(size, found, text, rest)

    def _items(self, text: str, rest: bool) -> tuple[list[Any], int, Any]:
        """The items that a text has whole, where the last of them ends, and what was found after it."""
        items: list[Any] = []
        at = complete = 0
        while True:
            found, end = self._parsed(text, at, rest)
            if end is None:
                return items, complete, found
            items.append(found)
            complete = end
            after = COMMA.match(text, end)
            if after is None:
                return items, complete, found
            at = after.end()

    def _text(self, size: int) -> tuple[str, bool]:
        """At most `size` bytes from here on, and whether they are the rest of the file."""
        self._more(size)
        data = self._data[self._at : self._at + size]
        rest = self._ended and self._at + size >= len(self._data)
        try:
            return codecs.getincrementaldecoder("utf-8")().decode(data, rest), rest
        except UnicodeDecodeError as error:
            raise self._no_text(error.start) from error

    def _parsed(self, text: str, at: int, rest: bool) -> tuple[Any, int | None]:
        """(value, its end), or (the error, None) where the text breaks off or is no JSON."""
        try:
            value, end = STRICT.raw_decode(text, at)
        except json.JSONDecodeError as error:
            return error, None
        except (ValueError, RecursionError) as error:
            raise self._whole.broken(f"not readable as JSON: {error}") from error
        if not rest and not AFTER.match(text, end):  # a number may go on
            return json.JSONDecodeError("Unterminated value", text, end), None
        return value, end

    def _grown(self, size: int, error: json.JSONDecodeError, text: str, rest: bool) -> int:
        """A larger size to try again with; raises the error where that would not help."""
        broken_off = error.pos >= len(text) - LONGEST_MARK or error.msg.startswith("Unterminated")
        if rest or not broken_off:
            raise self._malformed(error.msg, len(text[: error.pos].encode()))
        if size > MAX_ITEM:
            raise self._whole.broken(f"an item or a value of more than {MAX_ITEM} bytes")
        return 8 * size

    def _more(self, size: int) -> None:
        """Have `size` bytes from here on, where the file has so many."""
        missing = size - (len(self._data) - self._at)
        if missing > 0 and not self._ended:
            read = self._file.read(missing)
            self._ended = len(read) < missing
            self._data = self._data[self._at :] + read
            self._start += self._at
            self._at = 0

    def _check_characters(self, length: int) -> None:
        """The fast reader passes over what it keeps raw, so it would not notice."""
        if self._data.isascii():
            return
        try:
            self._data[self._at : self._at + length].decode()
        except UnicodeDecodeError as error:
            raise self._no_text(error.start) from error

    def _no_text(self, at: int) -> BadDataset:
        return self._whole.broken(f"byte {self._start + self._at + at} of {self._whole.size} is no UTF-8")

    def _malformed(self, message: str, at: int = 0) -> BadDataset:
        place = self._start + self._at + at
        return self._whole.broken(f"not readable as JSON: {message} at byte {place} of {self._whole.size}")


def _last_end(window: bytes, before: int) -> int:
    """Where the last object ends that a comma and another object follow, or the last object of all; 0 without one."""
    end = window.rfind(b"}", 0, before)
    while end > 0 and NEXT.match(window, end) is None:
        further = window.rfind(b"}", 0, end)
        if further < 0:
            return window.rfind(b"}", 0, before) + 1
        end = further
    return end + 1
