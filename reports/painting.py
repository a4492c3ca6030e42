"""Writes figures to files: here, or in helper processes while a large report goes on.

Most of the time of a report goes into matplotlib's `savefig`, one core at a time. A helper is this module run by
itself: it reads figures from its standard input until that ends, so it ends with the process that it helps, whatever
that dies of.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import Any, BinaryIO

import matplotlib
from matplotlib.figure import Figure

from ..benchmarks.files import atomic_path

_helpers: ContextVar[_Helpers | None] = ContextVar("helpers", default=None)


def save_figure(figure: Figure, path: Path, look: Mapping[str, Any]) -> None:
    """Write `figure` to `path` as a PNG of 150 dpi, drawn by the settings `look`: now; within `helped` until its end.

    The same data give the same bytes, whoever draws. Raises OSError where the file cannot be written; `helped` does so
    at its end.
    """
    if helpers := _helpers.get():
        helpers.save(figure, path, look)
    else:
        _save(figure, path, look)


@contextlib.contextmanager
def helped(count: int) -> Iterator[None]:
    """Have figures written by up to `count` processes; all are written, and the processes gone, at the end.

    count 0: they are written where `save_figure` is called. Raises what drawing raises, OSError for a
    file that cannot be written, and ChildProcessError, which is one, for a helper that died.
    """
    if not count:
        yield
        return
    helpers = _Helpers(count)
    token = _helpers.set(helpers)
    try:
        yield
        helpers.wait()
    finally:
        _helpers.reset(token)
        helpers.end()


class _Helpers:
    """Threads that wait for a process each, which is started with the first figure it gets."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count)
        self._own = threading.local()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._saved: list[Future[None]] = []

    def save(self, figure: Figure, path: Path, look: Mapping[str, Any]) -> None:
        task = pickle.dumps((figure, path, dict(look)))
        self._saved.append(self._pool.submit(self._ask, task, path))

    def wait(self) -> None:
        for saved in self._saved:
            saved.result()

    def end(self) -> None:
        """What is being drawn is brought to its end, so that no file is left half-written."""
        self._pool.shutdown(cancel_futures=True)
        for process in self._processes:
            process.communicate()

    def _ask(self, task: bytes, path: Path) -> None:
        if not hasattr(self._own, "process"):
            self._own.process = self._start()
        process: subprocess.Popen[bytes] = self._own.process
        assert process.stdin
        assert process.stdout
        try:
            process.stdin.write(task)
            process.stdin.flush()
            error = pickle.load(process.stdout)
        except (OSError, EOFError):
            reason = f"the process that was to draw it ended with status {process.wait()}"
            raise ChildProcessError(errno.ECHILD, reason, str(path)) from None
        if error is not None:
            raise error

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", __name__]
        try:
            # A session of its own: Ctrl-C is for the process that it helps.
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        except OSError as error:  # no memory, no more processes
            raise ChildProcessError(error.errno, error.strerror, sys.executable) from None
        self._processes.append(process)
        return process


def _save(figure: Figure, path: Path, look: Mapping[str, Any]) -> None:
    settings: dict[Any, Any] = dict(look)
    with matplotlib.rc_context(settings), atomic_path(path) as temporary:
        # No software version in the file: the same data give the same bytes.
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None}, bbox_inches="tight")


def _help(tasks: BinaryIO, answers: BinaryIO) -> None:
    """Write the figures of `tasks`; answer each with None, or with what went wrong. EOFError when there are no more."""
    while True:
        figure, path, look = pickle.load(tasks)
        try:
            _save(figure, path, look)
            answer = None
        except Exception as error:  # raised again by the process that asked
            error.add_note(f"while drawing {path}:\n{traceback.format_exc()}")
            answer = error
        answers.write(pickle.dumps(answer))


if __name__ == "__main__":
    # What anything prints goes elsewhere, and nothing that nobody reads any more is kept to be written at the end.
    channel = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    # The other process is gone: at rest, in the middle of a figure, or while one was drawn for it.
    with contextlib.suppress(EOFError, pickle.UnpicklingError, BrokenPipeError):
        _help(sys.stdin.buffer, channel)
