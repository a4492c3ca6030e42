"""`bench speed sweep`: how long it takes to submit many cells to the SLURM of this shell."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ..common.errors import UsageError
from ..config.compose import compose_cells

WANTED_SECONDS = 20.0  # for a thousand cells
METHODS = 4


def sweep(cells: int, cluster: str) -> int:
    """Submit so many smallest cells of four methods, held so that none starts, and cancel them. Exit status 0.

    Raises UsageError where there is no SLURM, where it refuses, and for no cells or an unknown cluster.
    """
    from ...slurm import clusters
    from ...slurm.queue import cancel
    from ...slurm.submit import check_slurm, submit_cells
    from ..execution.launch import prepare
    from ..execution.preflight import check_cells

    if cells < METHODS or cells % METHODS:
        raise UsageError(f"--cells is {cells}, must be a multiple of the {METHODS} methods")
    check_slurm()
    site = clusters.load(cluster)
    site = dataclasses.replace(site, sbatch={**site.sbatch, "hold": True})
    took: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="bench-speed-") as folder:
        out = Path(folder) / "runs"
        with _timed(took, "compose"):
            grid = compose_cells(["ict", "ect", "sct", "vct"], range(cells // METHODS), ["preset=smoke"])
        with _timed(took, "check"):
            check_cells(grid, here=False)
        with _timed(took, "write"):
            folders = prepare(grid, out)
        work = list(zip(folders, [cell.config for cell in grid], strict=True))
        with _timed(took, "submit"):
            submitted = submit_cells(work, out, site, pack=1, share=1, command="bench speed sweep")
        cancel([array.job for array in submitted.arrays if array.job])
    total = sum(took.values())
    parts = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in took.items())
    print(f"{len(grid)} cells in {len(submitted.arrays)} array(s), {total:.1f} s: {parts}")
    bound = WANTED_SECONDS * cells / 1000
    print(f"wanted: at most {bound:g} s ({'met' if total <= bound else 'NOT MET'})")
    return 0


@contextlib.contextmanager
def _timed(took: dict[str, float], what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    took[what] = time.monotonic() - began
