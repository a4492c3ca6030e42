"""`bench run --mlflow-live`: cells in MLflow while they train, imported from their files by one thread."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..common.files import DamagedError
from ..common.redact import without_password
from ..common.unexpected import describe
from ..config.study import Study
from ..runs.folder import Run
from .report import StoreError, naming_mlflow

SECONDS = 10.0  # between two imports


@contextlib.contextmanager
def live_import(cells: Sequence[Path], out: Path, uri: str | None, study: Study | None) -> Iterator[None]:
    """Import the cells again and again while the block runs. Nothing that happens to MLflow reaches the block.

    cells: their folders. uri: of the store, None for the file in `out`. study: what they belong to, if any.
    """
    stop = threading.Event()
    watcher = Repeated(lambda: import_begun(cells, out, uri, study), uri)
    thread = threading.Thread(target=watcher.run, args=(stop,), daemon=True, name="mlflow-live")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()  # the import at the end would wait for it anyway


class Repeated:
    """Calls an import every SECONDS until told to stop. A failure is one sentence, and so is the next success."""

    def __init__(self, call: Callable[[], None], uri: str | None) -> None:
        self.call, self.uri, self.failing = call, uri, False

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(SECONDS):
            self.once()

    def once(self) -> None:
        """Call it once, and say what has changed."""
        try:
            with naming_mlflow(self.uri, "the run goes on without, and the import is tried again"):
                self.call()
        except Exception as error:  # whatever it is, the cells go on
            if not self.failing:
                text = str(error) if isinstance(error, StoreError) else describe(error)
                print(f"bench: {without_password(text)}", file=sys.stderr, flush=True)
            self.failing = True
        else:
            if self.failing:
                print("MLflow answers again", file=sys.stderr, flush=True)
            self.failing = False


def import_begun(cells: Sequence[Path], out: Path, uri: str | None, study: Study | None) -> None:
    """Import what has begun of these cells. Damaged ones are left to the report."""
    from ...reports.analysis.cells import survey
    from ...reports.tracking.importer import export
    from ...reports.tracking.sweeps import StudyCells

    found, _ = survey([Run(path) for path in cells if Run(path).history_file.exists()])
    begun = [cell for cell in found if cell.attempts]
    if begun:
        own, studies = (begun, []) if study is None else ([], [StudyCells(study, begun)])
        with contextlib.suppress(DamagedError):
            export(out, own, uri, studies=studies, part=True)
