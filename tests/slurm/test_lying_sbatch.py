"""A real cluster behind an sbatch that does not do what it reports: nothing is lost, and nothing runs twice."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import pytest

from consistency_bench.benchmarks.runs.folder import find_cells
from consistency_bench.slurm.sweeps import read

from .sweeping import Place, until
from .sweeping import slurm as call

pytestmark = pytest.mark.slow

SMALL = ("benchmark=toy2d", "train.images=2560", "run.snapshots=1", "eval.nfe=[1]", "network.width=8")
BUSY = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
LATE = '(sleep 10; {real} "$@"; touch "$f-late")'

#: What sbatch does when it first gets a script; the second time it does as told.
LIES = {
    "submits and reports a timeout": f'{{real}} "$@" >/dev/null; echo "{BUSY}" >&2; exit 1',
    "does not submit and reports a timeout": f'echo "{BUSY}" >&2; exit 1',
    "hangs and then submits": 'sleep 6; exec {real} "$@"',
    "reports a timeout and submits late": f'{LATE} >/dev/null 2>&1 & echo "{BUSY}" >&2; exit 1',
}
#: As on a real cluster, but in seconds; and a controller that allows two elements per array.
QUICK = """
from consistency_bench.slurm import sbatch
sbatch.ANSWER_SECONDS, sbatch.GRACE_SECONDS, sbatch.TOTAL_SECONDS = 2, 4, {total}
"""
SCONTROL = 'test "$*" = "show config" || exec {real} "$@"\n{real} "$@" | sed "s/^MaxArraySize .*/MaxArraySize = 3/"'


def lying(place: Place, lie: str, total: int = 60) -> Place:
    """The place with an sbatch that lies first on PATH."""
    folder = place.out.parent / "lies"
    folder.mkdir()
    first = 'f="$(dirname "$1")/told"; test -e "$f" && exec {real} "$@"; touch "$f"\n'
    for name, body in (("sbatch", first + lie), ("scontrol", SCONTROL)):
        (folder / name).write_text("#!/bin/sh\n" + body.replace("{real}", f"/usr/bin/{name}") + "\n")
        (folder / name).chmod(0o755)
    path = f'PATH="{folder}:$PATH"; exec "$@"'
    return dataclasses.replace(place, wrap=("sh", "-c", path, "sh"), prelude=QUICK.format(total=total))


@pytest.mark.parametrize(
    ("lie", "seeds"), [(lie, seeds) for lie in LIES for seeds in ("0-1", "0-3") if seeds == "0-1" or "late" not in lie]
)
def test_every_cell_is_done_once(lie: str, seeds: str, shared: Place) -> None:
    liar = lying(shared, LIES[lie])
    liar.bench("sweep", "--cluster", liar.cluster(), "--methods", "ect", "--seeds", seeds, *SMALL)
    until(lambda: are_done(shared))
    (sweep,) = read(shared.out)
    assert len(sweep.arrays) == (2 if seeds == "0-3" else 1)
    number = 4 if seeds == "0-3" else 2
    assert len(shared.statuses()) == number
    assert {status["job"].partition("_")[0] for status in shared.statuses().values()} == {a.job for a in sweep.arrays}
    assert shared.attempts() == [1] * number
    for path in shared.out.glob("*/*/*/records.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert set(Counter((row["nfe"], row["metric"], row["draw"]) for row in rows).values()) == {1}
    if "late" in lie:  # what was submitted late is cancelled, or ends by itself
        folder = sweep.folder(shared.out, sweep.arrays[0])
        until(lambda: (folder / "told-late").exists() and not live(sweep.arrays[0].name))
        assert shared.attempts() == [1] * number
    else:
        assert [names(array.name) for array in sweep.arrays] == [{array.job} for array in sweep.arrays]


def are_done(place: Place) -> bool:
    return {status["state"] for status in place.statuses().values()} == {"done"}


def names(name: str) -> set[str]:
    """The numbers of all arrays of a name, ended ones included."""
    lines = call("squeue", "--noheader", "--states=all", f"--name={name}", "--format=%F").splitlines()
    return {line.strip() for line in lines}


def live(name: str) -> str:
    return call("squeue", "--noheader", f"--name={name}", "--format=%F")


def test_a_submission_that_stays_unknown_keeps_everything(shared: Place) -> None:
    liar = lying(shared, f'rm "$f"; {LIES["does not submit and reports a timeout"]}', total=1)
    said = liar.bench("sweep", "--cluster", liar.cluster(), "--methods", "ect", "--seeds", "0-3", *SMALL, status=1)
    assert "Socket timed out" in said
    assert "repeat this command later for 2 further cells" in said
    assert said.rstrip().splitlines()[-1].count("`bench retry --failed`") == 1
    (sweep,) = read(shared.out)
    (array,) = sweep.arrays
    assert array.job is None
    assert (sweep.folder(shared.out, array) / "element-1.pkl").exists()
    assert [status["state"] for status in shared.statuses().values()] == ["queued"] * 2
    assert len(find_cells(shared.out)) == 2  # of the others there is nothing
    # The request arrives at last, long after its client has given up.
    call("sbatch", str(sweep.folder(shared.out, array) / "submission.sh"))
    assert "nothing to retry" in shared.bench("retry", "--failed", "--cluster", shared.cluster())
    until(lambda: are_done(shared))
    assert shared.attempts() == [1, 1]


def test_a_refusal_of_a_later_array_leaves_its_cells_as_they_were(shared: Place) -> None:
    liar = lying(shared, 'case "$1" in */array-1/*) echo "sbatch: error: AssocMaxSubmitJobLimit" >&2; exit 1;; esac')
    sbatch = liar.out.parent / "lies" / "sbatch"
    sbatch.write_text(sbatch.read_text() + 'exec /usr/bin/sbatch "$@"\n')
    said = liar.bench("sweep", "--cluster", liar.cluster(), "--methods", "ect", "--seeds", "0-3", *SMALL, status=2)
    assert "sbatch refused the array: AssocMaxSubmitJobLimit; submitted before it: job " in said
    assert len(find_cells(shared.out)) == 2
    until(lambda: are_done(shared))
