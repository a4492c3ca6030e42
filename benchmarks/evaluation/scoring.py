"""The records of a cell: sample from its snapshots, score the samples, add the rows that are missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ..common.distributed import ALONE, Ranks
from ..common.files import read_jsonl, remove, write_jsonl
from ..common.oom import Memory
from ..config import plan
from ..config.schema import RunConfig
from ..metrics.evaluate import Evaluator, View
from ..metrics.references import StoppedError
from ..metrics.registry import parse
from ..metrics.scores import Score
from ..runs.folder import RECORDS, Run
from ..training.checkpoint import load_snapshot
from ..training.model import Model
from .artifacts import coupling_arrays, posterior_arrays, real_arrays, sample_arrays, save_arrays, shown
from .sample import NotFiniteError, Sampler, latents

NEAREST = 1_000  # samples that are compared with the training images for the figure of nearest neighbours


class Scorer:
    """Adds the missing rows to the records of a cell whose training is finished.

    Of several processes each draws batches of samples and computes their features; rank 0 decides which rows are
    missing, computes the metrics and writes.

    devices: the kinds of device that trained the cell and score it. Rows say so where there are several.
    """

    def __init__(
        self,
        config: RunConfig,
        model: Model,
        evaluator: Evaluator,
        folder: Path,
        ranks: Ranks = ALONE,
        devices: Sequence[str] = (),
    ) -> None:
        self.mark = {"devices": list(devices)} if len(devices) > 1 else {}
        self.config, self.evaluator, self.ranks, self.files = config, evaluator, ranks, Run(folder)
        self.model, self.loaded = model.averaged(), -1
        self.sampler = Sampler(config, self.model, evaluator.dataset, self._guide(model))
        # Each of several processes has batches of its own: none waits for a pass of another.
        self.memory = Memory(config.run.on_oom, config.eval.batch, setting="eval.batch")

    def fill_records(
        self,
        should_stop: Callable[[], bool] = lambda: False,
        report: Callable[[int, int], None] = lambda done, total: None,
    ) -> str:
        """Add the rows that the configuration asks for and that do not exist yet.

        Returns "done", "interrupted" (`should_stop` is called between passes), or "diverged" if a row of the final
        snapshot has no value. report: called with (passes done, all passes).
        """
        config, ranks = self.config, self.ranks
        rows = self._valid_rows() if ranks.is_writer else []
        missing = ranks.broadcast(plan.missing(config, rows))
        for done, (evaluation, metrics) in enumerate(missing.items(), start=1):
            if not metrics:
                continue
            if ranks.agree(should_stop()):
                return "interrupted"
            try:
                values, samples = self._score(evaluation, metrics)
            except StoppedError:
                return "interrupted"
            if not ranks.is_writer:
                continue
            rows += [_row(config, evaluation, metric, values[metric]) | self.mark for metric in metrics]
            if samples and evaluation.images == config.budget_images and evaluation.draw == 0:
                self._save_figures(evaluation.nfe, metrics, torch.cat(samples))
            _write(self.files.path, rows)
            report(done, len(missing))
        if ranks.is_writer:
            self._draw_lost_figures(rows)
            save_arrays(self.files.real, real_arrays(self.evaluator.dataset, config.benchmark.name))
        final = [row["value"] for row in rows if row["images"] == config.budget_images]
        return "diverged" if ranks.broadcast(None in final) else "done"

    def _valid_rows(self) -> list[dict[str, Any]]:
        """The rows on disk. Those of other sampling settings are left out, and their samples deleted."""
        folder, sampler = self.files.path, plan.sampler_text(self.config)
        rows = read_jsonl(folder / RECORDS)
        if any(row["sampler"] != sampler for row in rows):
            for path in (*folder.glob("samples/nfe*.npz"), *folder.glob("samples/nearest-*.npz")):
                remove(path)
        return [row for row in rows if row["sampler"] == sampler]

    def _guide(self, model: Model) -> Model | None:
        images = self.config.guide_images
        if images is None:
            return None
        earlier = model.averaged()
        load_snapshot(self.files.path, images, earlier.weights, self.config.evaluated_average)
        return earlier

    def _load(self, images: int) -> None:
        if self.loaded != images:
            load_snapshot(self.files.path, images, self.model.weights, self.config.evaluated_average)
            self.loaded = images

    def _kept(self) -> int:
        return NEAREST if self.evaluator.watches_memory else shown(self.evaluator.dataset)

    def _score(
        self, evaluation: plan.Evaluation, metrics: list[str]
    ) -> tuple[Mapping[str, Score | None], list[torch.Tensor]]:
        """The values of a pass, and batches of its first samples; on rank 0 only.

        Values are None where the network returns samples that are not finite: it has diverged.

        Raises StoppedError in all processes where it is raised in one.
        """
        self._load(evaluation.images)
        resamples = self.config.eval.bootstrap if evaluation.images == self.config.budget_images else 0
        first: list[torch.Tensor] = []
        values: Mapping[str, Score | None] = {}
        stopped = False
        try:
            views = self._views(evaluation, metrics, first)
            if self.ranks.is_writer:
                values = self.evaluator.score_views(views, resamples, metrics)
            else:
                for _ in views:
                    pass
        except StoppedError:
            stopped = True
        except NotFiniteError:
            first, values = [], dict.fromkeys(metrics)
        if self.ranks.agree(stopped):  # rank 0 may be stopped while it computes a distance alone
            raise StoppedError
        return values, first

    def _views(self, evaluation: plan.Evaluation, metrics: list[str], first: list[torch.Tensor]) -> Iterator[View]:
        """Features of the samples of a pass, in order, on rank 0; nothing on the others.

        Batches are dealt to the processes in turn, and are the same for any number of processes. Those with the first
        samples are appended to `first`.

        Raises StoppedError, else NotFiniteError, in all processes where it is raised in one.
        """
        evaluator, ranks, size = self.evaluator, self.ranks, self.config.eval.batch
        kept = self._kept()
        total = evaluator.samples_needed(metrics)
        batches = [range(start, min(start + size, total)) for start in range(0, total, size)]
        for turn in range(0, len(batches), ranks.size):
            seen: tuple[torch.Tensor | None, list[View]] = None, []
            trouble: type[Exception] | None = None
            for rows in batches[turn : turn + ranks.size][ranks.rank : ranks.rank + 1]:  # none at the end, for some
                try:
                    samples = self._draw(evaluation, rows)
                    views = list(evaluator.views(samples, rows.start, metrics))
                    seen = samples if rows.start < kept else None, views
                except (StoppedError, NotFiniteError) as error:
                    trouble = type(error)
            troubles = ranks.exchange(trouble)
            for kind in (StoppedError, NotFiniteError):
                if kind in troubles:
                    raise kind
            for samples, views in ranks.gather(seen) or ():
                if samples is not None:
                    first.append(samples)
                yield from views

    def _draw(self, evaluation: plan.Evaluation, rows: range) -> torch.Tensor:
        def at_most(size: int) -> torch.Tensor:
            return self.sampler.draw(evaluation.draw, evaluation.nfe, rows, size)

        return self.memory.fit(at_most, rows=len(rows))

    def _save_figures(self, nfe: int, metrics: list[str], samples: torch.Tensor) -> None:
        """Write the arrays behind the figures, from the first samples of the final snapshot."""
        files, dataset, benchmark = self.files, self.evaluator.dataset, self.config.benchmark.name
        path = files.samples(nfe)
        # A metric of few samples that is added later does not replace the figure of more samples.
        if len(samples) >= shown(dataset) or not path.exists():
            noise = latents(benchmark, 0, 1, len(samples[: shown(dataset)]), dataset.shape)
            save_arrays(path, sample_arrays(dataset, samples, noise[0]))
        if any(parse(metric).distance == "authenticity" for metric in metrics):
            save_arrays(files.nearest(nfe), self.evaluator.nearest(samples[:NEAREST]))
        self._save_coupling()

    def _save_coupling(self) -> None:
        """Write what the coupling does and has learned, where it does."""
        files, dataset, benchmark = self.files, self.evaluator.dataset, self.config.benchmark.name
        conditional = self.config.data.conditional
        coupling = coupling_arrays(self.model, dataset, benchmark, self.config.train.batch, conditional=conditional)
        save_arrays(files.coupling, coupling)
        save_arrays(files.posterior, posterior_arrays(self.model, dataset, benchmark, conditional=conditional))

    def _draw_lost_figures(self, rows: list[dict[str, Any]]) -> None:
        """Draw the figures again that are not there although the rows of their samples are."""
        config, files = self.config, self.files
        metrics, budget, size = list(config.eval.metrics), config.budget_images, config.eval.batch
        final = [row for row in rows if (row["images"], row["draw"]) == (budget, 0)]
        if not final or any(row["value"] is None for row in rows if row["images"] == budget):
            return
        copies = any(parse(metric).distance == "authenticity" for metric in metrics)
        for nfe in sorted({row["nfe"] for row in final}):
            if files.samples(nfe).exists() and (files.nearest(nfe).exists() or not copies):
                continue
            self._load(budget)
            total, kept = self.evaluator.samples_needed(metrics), self._kept()
            parts = [range(start, min(start + size, total)) for start in range(0, min(kept, total), size)]
            drawn = [self._draw(plan.Evaluation(budget, nfe, 0), part) for part in parts]
            self._save_figures(nfe, metrics, torch.cat(drawn))
        if not (files.coupling.exists() and files.posterior.exists()):  # most methods have none
            self._load(budget)
            self._save_coupling()


def try_batch(config: RunConfig, model: Model, evaluator: Evaluator) -> None:
    """Draw one batch of `eval.batch` samples, as the scoring does after training, and drop it.

    Raises TooLargeError where it does not fit into memory and run.on_oom=stop.
    """
    rows = range(min(config.eval.batch, evaluator.samples_needed()))
    sampler = Sampler(config, model.averaged(), evaluator.dataset)
    with suppress(NotFiniteError):  # of weights that are not trained yet
        memory = Memory(config.run.on_oom, config.eval.batch, setting="eval.batch")
        memory.fit(lambda size: sampler.draw(0, min(config.eval.nfe), rows, size), rows=len(rows))


def record_divergence(config: RunConfig, folder: Path) -> None:
    """Write the rows of the final snapshot without values: a divergence is a result."""
    final = [item for item in plan.evaluations(config) if item.images == config.budget_images]
    _write(folder, [_row(config, item, metric, None) for item in final for metric in config.eval.metrics])


def _write(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write the records in a fixed order, which does not depend on the order of scoring."""
    ordered = sorted(rows, key=lambda row: (row["images"], row["nfe"], row["draw"], row["metric"]))
    write_jsonl(folder / RECORDS, ordered)


def _row(config: RunConfig, evaluation: plan.Evaluation, metric: str, score: Score | None) -> dict[str, Any]:
    identity = config.cell
    return {
        "benchmark": identity.benchmark,
        "method": identity.method,
        "version": config.method.version,
        "variant": identity.variant,
        "group": identity.group,
        "cell": identity.id,
        "seed": identity.seed,
        "images": evaluation.images,
        "nfe": evaluation.nfe,
        "draw": evaluation.draw,
        "metric": metric,
        "value": score and score.value,
        "error": score and score.error,
        "samples": parse(metric).samples,
        "sampler": plan.sampler_text(config),
    }
