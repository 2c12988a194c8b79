"""Decoding of files from outside in a process of its own, with little memory and time: a hostile one ends that and nothing else.

`python -m db.limited MODULE FUNCTION` answers orders from its standard input, each a MessagePack value behind its length (4
bytes, little-endian), in the same way on its standard output. A child is made when the first is wanted, and again after one died.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import struct
import subprocess
import sys
import threading
from importlib import import_module
from queue import Empty, LifoQueue
from typing import Any, BinaryIO

import msgspec

from db.errors import WinnowError

MEMORY = 3 * 2**29  # bytes of address space above what the libraries take: four copies of 64 megapixels in RGBA
SECONDS = 60.0  # for one order: a hundred times what the largest image takes
START_SECONDS = 180.0  # until the libraries are there, on a busy machine
CPU_SECONDS = 3600  # for a child; one that reaches it is replaced
MOST_ORDERS = 20_000  # then a new child, so that what a decoder leaks stays small
INHERITED = ("PATH", "PYTHONPATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "TMPDIR")  # no keys
LENGTH = struct.Struct("<I")


class Limited:
    """A function `FUNCTION(order) -> answer` of a module, called in up to `children` processes. Orders and answers are what
    MessagePack can hold. Safe to use from several threads."""

    def __init__(self, module: str, function: str, *, children: int = 2, seconds: float = SECONDS) -> None:
        self._command = [sys.executable, "-m", "db.limited", module, function]
        self._seconds = seconds
        self._idle: LifoQueue[_Child] = LifoQueue()
        self._free = threading.BoundedSemaphore(children)
        atexit.register(self.close)

    def ask(self, order: Any) -> Any:
        """The answer. Raises WinnowError with the function's own words, or when the child ran out of memory or time or died."""
        with self._free:
            child = self._child()
            try:
                answer = child.ask(order, self._seconds)
            except (OSError, EOFError, TimeoutError, msgspec.MsgspecError) as error:
                child.end()
                raise WinnowError(_died(error, self._seconds)) from error
            self._idle.put(child)
        if "error" in answer:
            raise WinnowError(answer["error"])
        return answer["value"]

    def close(self) -> None:
        """End the children that wait."""
        while True:
            try:
                self._idle.get_nowait().end()
            except Empty:
                return

    def _child(self) -> _Child:
        try:
            child = self._idle.get_nowait()
        except Empty:
            return _Child(self._command)
        if child.orders < MOST_ORDERS and child.alive():
            return child
        child.end()
        return _Child(self._command)


class _Child:
    def __init__(self, command: list[str]) -> None:
        environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self.orders = 0

    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, order: Any, seconds: float) -> dict[str, Any]:
        assert self._process.stdin is not None
        if not self.orders:
            self._answer(START_SECONDS)
        self.orders += 1
        _write(self._process.stdin, order)
        return self._answer(seconds)

    def _answer(self, seconds: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        if not ready:
            raise TimeoutError
        answer: dict[str, Any] = _read(self._process.stdout)
        return answer

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


def _died(error: Exception, seconds: float) -> str:
    if isinstance(error, TimeoutError):
        return f"It took longer than {seconds:g} s to decode; the file is damaged, or made to take long."
    return "Its decoder broke down, or wanted more memory than it may have; the file is damaged, or made to do harm."


def _write(stream: BinaryIO | Any, value: Any) -> None:
    data = msgspec.msgpack.encode(value)
    stream.write(LENGTH.pack(len(data)) + data)
    stream.flush()


def _read(stream: BinaryIO | Any) -> Any:
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        raise EOFError
    (length,) = LENGTH.unpack(head)
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return msgspec.msgpack.decode(data)


def main() -> None:
    """The child: answer until the pipe ends."""
    function = getattr(import_module(sys.argv[1]), sys.argv[2])
    orders, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not disturb the conversation
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    _limit()
    _write(answers, {})  # ready: what follows is the time of the orders alone
    while True:
        try:
            order = _read(orders)
        except EOFError:
            return
        _write(answers, _answer(function, order))


def _answer(function: Any, order: Any) -> dict[str, Any]:
    try:
        return {"value": function(order)}
    except WinnowError as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": "It wants more memory than a decoder may have; the file is damaged, or made to do harm."}


def _limit() -> None:
    """No more memory than the libraries have taken and MEMORY, an end to its time, and no dump of its memory on the disk."""
    if sys.platform != "linux":
        return  # elsewhere the end of the process and of its time has to do
    import resource

    taken = int(_first("/proc/self/statm")) * resource.getpagesize()
    limits = {
        resource.RLIMIT_AS: taken + MEMORY,
        resource.RLIMIT_CPU: CPU_SECONDS,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in limits.items():
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def _first(path: str) -> str:
    with open(path) as file:
        return file.read().split()[0]


if __name__ == "__main__":
    main()
