"""Writes figures to files: here, or in copies of this process while a large report goes on.

Most of the time of a report goes into matplotlib's `savefig`, which keeps one core busy. A copy (`fork`) has the figure
already, writes the one file, and ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import NoReturn

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ...benchmarks.common.files import atomic_path

DPI = 150
#: What is being drawn by copies of this process, oldest first.
_copies: ContextVar[_Copies | None] = ContextVar("copies", default=None)


def save_figure(figure: Figure, path: Path) -> None:
    """Write `figure` to `path` as a PNG of 150 dpi, cut to what is on it; within `beside` by its end at the latest.

    The same figure gives the same bytes, whichever process draws it. Nothing is to be drawn on it afterwards, and the
    settings in force must name no layout for all figures. Raises OSError where the file cannot be written; within
    `beside` that may come with a later figure, or at the end.
    """
    if copies := _copies.get():
        copies.save(figure, path)
    else:
        _save(figure, path)


@contextlib.contextmanager
def beside(count: int) -> Iterator[None]:
    """Have figures written by up to `count` copies of this process at a time; all are written at the end.

    count 0: by this process itself. It is so, too, where a copy would not be safe: in a process with several threads of
    Python, any of which might hold a lock that is never given back in the copy, and on systems other than Linux.
    """
    if not count or sys.platform != "linux" or threading.active_count() > 1:
        yield
        return
    copies = _Copies(count)
    token = _copies.set(copies)
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns of any thread; those of BLAS and of memory allocators know what a fork is.
            warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
            yield
            copies.finish()
    finally:
        _copies.reset(token)
        copies.end()


class _Copies:
    """Processes that draw a figure each, at most `count` of them."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._running: deque[tuple[int, Figure, Path, matplotlib.RcParams]] = deque()

    def save(self, figure: Figure, path: Path) -> None:
        while len(self._running) >= self._count:
            self._next()
        try:
            process = _fork(figure, path)
        except OSError:  # no more processes, no memory for one
            _save(figure, path)
            return
        self._running.append((process, figure, path, matplotlib.rcParams.copy()))

    def finish(self) -> None:
        while self._running:
            self._next()

    def end(self) -> None:
        """After an error here: what is being drawn is brought to its end."""
        while self._running:
            _wait(self._running.popleft()[0])

    def _next(self) -> None:
        """Wait for the oldest. What it could not do is done here, which says what was wrong, if it still is."""
        process, figure, path, look = self._running[0]
        failed = _wait(process)
        self._running.popleft()
        if failed:
            for left in path.parent.glob(f".{path.name}.*.tmp"):  # where it was killed
                left.unlink(missing_ok=True)
            with matplotlib.rc_context(look):
                _save(figure, path)


def _wait(process: int) -> bool:
    """Until it has ended; whether it failed, or nobody knows: a program that ignores SIGCHLD is not told."""
    try:
        return os.waitpid(process, 0)[1] != 0
    except ChildProcessError:
        return True


def _fork(figure: Figure, path: Path) -> int:
    """The number of a new copy that writes `figure`. Raises OSError."""
    maker = os.getpid()
    # A signal that comes in between must not find a copy that takes itself for its maker.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        process = os.fork()
        if not process:
            _write_and_exit(figure, path, maker, mask)
        return process
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _write_and_exit(figure: Figure, path: Path, maker: int, mask: Iterable[int]) -> NoReturn:
    """The life of a copy. It ends here, with nothing of what the process had in mind for its own end."""
    status = 1
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _save(figure, path, maker)
        status = 0
    finally:
        os._exit(status)  # an error is not lost: the figure is drawn again by the process that waits


def _save(figure: Figure, path: Path, maker: int | None = None) -> None:
    """maker: the process that waits for this one. Raises ProcessLookupError where it is gone."""
    # The same as `bbox_inches="tight"`, without the drawing that this throws away after it has laid out the figure.
    figure.set_dpi(DPI)
    renderer = FigureCanvasAgg(figure).get_renderer()
    with contextlib.suppress(ValueError):  # as when matplotlib draws: what cannot be laid out stays where it is
        if engine := figure.get_layout_engine():
            engine.execute(figure)
    box = figure.get_tightbbox(renderer).padded(matplotlib.rcParams["savefig.pad_inches"])
    figure.set_layout_engine(None)  # that of the settings, which name none
    with atomic_path(path) as temporary:
        # No software version in the file: the same data give the same bytes.
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None}, bbox_inches=box)
        if maker not in (None, os.getppid()):
            raise ProcessLookupError("the report is over, and the next one may have drawn this anew")
