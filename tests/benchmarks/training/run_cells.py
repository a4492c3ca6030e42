"""Run by test_distributed as one of several processes: `python run_cells.py JOBS ANSWERS`.

JOBS is a JSON list of {"folder": of a cell, ...}; further keys bring about what tests want to see:
    stop:  [rank, call], the process that is asked to stop, and from which question on
    spoil: [rank, calls], whose loss is NaN in these steps
    fail:  [rank, name], which process fails in a training step ("step") or in this function of the module `sample`
    kill:  in place of that the process is killed
    costly: features of real data are kept on disk
ANSWERS-<rank>.json gets how each ended, a digest of the weights, and which files this process wrote, moved or removed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from consistency_bench.benchmarks.common.distributed import OutOfStepError, Ranks, joined, ranks_from_environment
from consistency_bench.benchmarks.evaluation import sample
from consistency_bench.benchmarks.execution import cell
from consistency_bench.benchmarks.metrics.extractors import registry as extractors
from consistency_bench.benchmarks.training.trainer import Outcome, Trainer
from consistency_bench.methods.parts.base import LossTerms

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def watch(written: list[str], below: str) -> None:
    """Note what this process does to files below a folder."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str) and path.startswith(below) and flags & WRITING:
                written.append(path)
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.link") and str(arguments[0]).startswith(below):
            written.append(str(arguments[0]))

    sys.addaudithook(hook)


def run(job: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    answer: dict[str, Any] = {}
    calls = itertools.count(1)

    def should_stop() -> bool:
        call = next(calls)
        return "stop" in job and ranks.rank == job["stop"][0] and call >= job["stop"][1]

    def failing(*_: Any, **__: Any) -> None:
        if "kill" in job:
            os._exit(9)
        raise RuntimeError("the disk is on fire")

    class Watched(Trainer):
        steps = itertools.count()

        def train(self, *arguments: Any) -> Outcome:
            outcome = super().train(*arguments)
            content = b"".join(value.numpy().tobytes() for value in self.weights.state_dict().values())
            answer["digest"] = hashlib.sha256(content).hexdigest()
            return outcome

        def accumulate(self, *arguments: Any) -> LossTerms:
            if job.get("fail") == [ranks.rank, "step"]:
                failing()
            terms = super().accumulate(*arguments)
            if "spoil" in job and ranks.rank == job["spoil"][0] and next(self.steps) in job["spoil"][1]:
                terms.total.fill_(math.nan)
            return terms

    def kept_on_disk(*given: Any) -> Any:
        return dataclasses.replace(build(*given), costly=True)

    build = extractors.build
    rank, name = job.get("fail", (None, "step"))
    with contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch.object(cell, "Trainer", Watched))
        if rank == ranks.rank and name != "step":
            patches.enter_context(mock.patch.object(sample, name, failing))
        if "costly" in job:
            patches.enter_context(mock.patch.object(extractors, "build", kept_on_disk))
        try:
            answer["state"] = cell.run_cell(Path(job["folder"]), should_stop=should_stop, ranks=ranks)
        except Exception as error:
            answer["error"] = f"{type(error).__name__}: {error}"
            answer["ended"] = isinstance(error, OutOfStepError)
    return answer


def main(jobs: str, answers: str) -> None:
    torch.set_num_threads(1)
    ranks = ranks_from_environment()
    written: list[str] = []
    given = json.loads(Path(jobs).read_text(encoding="utf-8"))
    watch(written, str(Path(jobs).parent))
    results = []
    try:
        with joined(ranks):
            for job in given:
                results.append(run(job, ranks))
                if results[-1].get("ended"):
                    raise OutOfStepError
    except OutOfStepError:
        pass
    answer = {"results": results, "written": written}
    Path(f"{answers}-{ranks.rank}.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
