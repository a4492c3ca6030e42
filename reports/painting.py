"""Writes figures to files: here, or in helper processes while a large report goes on.

Most of the time of a report goes into matplotlib's `savefig`, one core at a time. A helper is this module run by
itself: it reads figures from its standard input until that ends, so it ends with the process that it helps, whatever
that dies of.
"""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
import threading
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
    """Write `figure` to `path` as a PNG of 150 dpi, drawn by the settings `look`; within `helped` at the end at latest.

    The same data give the same bytes, whoever draws. Raises OSError where the file cannot be written.
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
        self._saved.append(self._pool.submit(self._ask, task))

    def wait(self) -> None:
        for saved in self._saved:
            saved.result()

    def end(self) -> None:
        """What is being drawn is brought to its end, so that no file is left half-written."""
        self._pool.shutdown(cancel_futures=True)
        for process in self._processes:
            process.communicate()

    def _ask(self, task: bytes) -> None:
        if not hasattr(self._own, "process"):
            command = [sys.executable, "-P", "-m", __name__]
            # A session of its own: Ctrl-C is for the process that it helps.
            self._own.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
            self._processes.append(self._own.process)
        process: subprocess.Popen[bytes] = self._own.process
        assert process.stdin
        assert process.stdout
        try:
            process.stdin.write(task)
            process.stdin.flush()
            error = pickle.load(process.stdout)
        except (OSError, EOFError):
            raise ChildProcessError(f"a process that draws pictures ended with status {process.wait()}") from None
        if error is not None:
            raise error


def _save(figure: Figure, path: Path, look: Mapping[str, Any]) -> None:
    settings: dict[Any, Any] = dict(look)
    with matplotlib.rc_context(settings), atomic_path(path) as temporary:
        # No software version in the file: the same data give the same bytes.
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None}, bbox_inches="tight")


def _help(tasks: BinaryIO, answers: BinaryIO) -> None:
    """Write the figures of `tasks` until it ends; answers each with None, or with what went wrong."""
    while True:
        try:
            figure, path, look = pickle.load(tasks)
        except EOFError:
            return
        try:
            _save(figure, path, look)
            answer = None
        except Exception as error:  # raised again by the process that asked
            answer = error
        answers.write(pickle.dumps(answer))
        answers.flush()


if __name__ == "__main__":
    _help(sys.stdin.buffer, sys.stdout.buffer)
