"""The records of a cell: sample from its snapshots, score the samples, add the rows that are missing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy
import torch

from ..common.distributed import ALONE, Ranks
from ..common.files import atomic_path, read_jsonl, remove, write_jsonl
from ..common.lock import acquire
from ..common.oom import Memory
from ..config import plan
from ..config.schema import RunConfig
from ..data.base import Dataset
from ..metrics.evaluate import Evaluator, View
from ..metrics.references import StoppedError
from ..metrics.registry import parse
from ..metrics.scores import Score
from ..runs.folder import RECORDS, Run
from ..training.checkpoint import load_snapshot
from ..training.model import Model
from .artifacts import coupling_arrays, posterior_arrays, real_arrays, sample_arrays, shown
from .sample import Guide, NotFiniteError, latents, sample, sample_labels

MEMORY = 1_000  # samples that are compared with the training images for a picture of the nearest ones


def fill_records(
    config: RunConfig,
    model: Model,
    evaluator: Evaluator,
    folder: Path,
    device: torch.device,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    report: Callable[[int, int], None] = lambda done, total: None,
    ranks: Ranks = ALONE,
) -> str:
    """Add the rows that `config` asks for and that are not there yet, for a cell whose training is finished.

    Of several processes each draws and looks at batches of samples; rank 0 says what is missing, scores and writes.
    Returns "done", "interrupted" (`should_stop` is asked between passes), or "diverged" if a final row has no value.
    """
    wanted = list(plan.evaluations(config))
    rows = read_jsonl(folder / RECORDS) if ranks.is_writer else []
    sampler = plan.sampler_text(config)
    files, dataset = Run(folder), evaluator.dataset
    if any(row["sampler"] != sampler for row in rows):  # other sampling settings: those rows are replaced
        rows = [row for row in rows if row["sampler"] == sampler]
        for path in (*folder.glob("samples/nfe*.npz"), *folder.glob("samples/nearest-*.npz")):
            remove(path)
    averaged = model.averaged()
    missing = ranks.broadcast([plan.missing(config, rows, evaluation) for evaluation in wanted])
    draw = _drawer(config, averaged, _guide(config, model, folder), dataset, device)
    kept = MEMORY if evaluator.watches_memory else shown(dataset)
    loaded: int | None = None
    benchmark = config.benchmark.name
    for done, (evaluation, metrics) in enumerate(zip(wanted, missing, strict=True)):
        if not metrics:
            continue
        if ranks.agree(should_stop()):
            return "interrupted"
        if loaded != evaluation.images:
            load_snapshot(folder, evaluation.images, averaged.weights, config.evaluated_average)
            loaded = evaluation.images
        first: list[torch.Tensor] = []
        values: Mapping[str, Score | None] = {}
        stopped = False
        try:
            views = _views(draw, evaluation, evaluator, metrics, config.eval.batch, ranks, kept, first)
            resamples = config.eval.bootstrap if evaluation.images == config.budget_images else 0
            if ranks.is_writer:
                values = evaluator.score_views(views, resamples, metrics)
            else:
                for _ in views:
                    pass
        except StoppedError:
            stopped = True
        except NotFiniteError:  # weights that blow up when sampled from: that there is no value is the result
            first, values = [], dict.fromkeys(metrics)
        if ranks.agree(stopped):  # rank 0 may be stopped in the midst of a distance, which it works out alone
            return "interrupted"
        if not ranks.is_writer:
            continue
        rows += [_row(config, evaluation, metric, values[metric]) for metric in metrics]
        if first and evaluation.images == config.budget_images and evaluation.draw == 0:
            samples, path = torch.cat(first), files.samples(evaluation.nfe)
            # A metric of few samples that is added later leaves the pictures of more as they are.
            if len(samples) >= shown(dataset) or not path.exists():
                noise = latents(benchmark, 0, 1, len(samples[: shown(dataset)]), dataset.shape)
                _save_arrays(path, sample_arrays(dataset, samples, noise[0]))
            if any(parse(metric).distance == "authenticity" for metric in metrics):
                _save_arrays(files.nearest(evaluation.nfe), evaluator.nearest(samples[:MEMORY]))
            _save_arrays(files.coupling, _coupling_arrays(config, averaged, dataset))
            conditional = config.data.conditional
            _save_arrays(files.posterior, posterior_arrays(averaged, dataset, benchmark, conditional=conditional))
        rows.sort(key=_place)  # however often a cell was interrupted or scored again, its file is the same
        write_jsonl(folder / RECORDS, rows)
        report(done + 1, len(wanted))
    if ranks.is_writer:
        _save_arrays(files.real, real_arrays(dataset, benchmark))
    final = [row["value"] for row in rows if row["images"] == config.budget_images]
    return "diverged" if ranks.broadcast(None in final) else "done"


def _place(row: dict[str, Any]) -> tuple[int, int, int, str]:
    return row["images"], row["nfe"], row["draw"], row["metric"]


def record_divergence(config: RunConfig, folder: Path) -> None:
    """Divergence is a result: every row of the final snapshot is there, without a value."""
    final = [item for item in plan.evaluations(config) if item.images == config.budget_images]
    metrics = config.eval.metrics
    rows = [_row(config, item, metric, None) for item in final for metric in metrics]
    write_jsonl(folder / RECORDS, sorted(rows, key=_place))


def _guide(config: RunConfig, model: Model, folder: Path) -> Guide | None:
    """The earlier snapshot of this run that guides its sampling, where guidance is on."""
    images = config.guide_images
    if images is None:
        return None
    earlier = model.averaged()
    load_snapshot(folder, images, earlier.weights, config.evaluated_average)
    return Guide(earlier, config.sample.guidance)


Draw = Callable[[plan.Evaluation, int, int], torch.Tensor]


def _drawer(config: RunConfig, averaged: Model, guide: Guide | None, dataset: Dataset, device: torch.device) -> Draw:
    """(which pass, from which sample on, of how many) -> a batch, by the sections `sample` and `eval`."""
    benchmark, batch = config.benchmark.name, config.eval.batch
    truncate, law = config.eval.quantise == "truncate", config.sample.labels
    # Of several processes each has batches of its own: none waits for another's pass.
    memory = Memory(config.run.on_oom, batch, setting="eval.batch")

    def draw(evaluation: plan.Evaluation, start: int, total: int) -> torch.Tensor:
        number, count = evaluation.draw, min(batch, total - start)
        noise = latents(benchmark, number, evaluation.nfe, count, dataset.shape, start)
        labels = None
        if config.data.conditional:
            labels = sample_labels(benchmark, number, count, dataset, law, start)

        def at_most(size: int) -> torch.Tensor:
            return sample(averaged, dataset, noise, size, device, labels=labels, guide=guide, truncate=truncate)

        return memory.fit(at_most, rows=count)

    return draw


def _views(
    draw: Draw,
    evaluation: plan.Evaluation,
    evaluator: Evaluator,
    metrics: list[str],
    batch: int,
    ranks: Ranks,
    kept: int,
    first: list[torch.Tensor],
) -> Iterator[View]:
    """What the metrics see of the samples of a pass, in their order, on rank 0; nothing on the others.

    Batches are dealt out to the processes in turn, as they would be drawn by one: no number depends on who draws it.
    Those with the first `kept` samples are put into `first` on their way.

    Raises StoppedError, else NotFiniteError, in all processes where it is raised in one.
    """
    total = evaluator.samples_needed(metrics)
    starts = range(0, total, batch)
    for turn in range(0, len(starts), ranks.size):
        seen: tuple[torch.Tensor | None, list[View]] = None, []
        trouble: type[Exception] | None = None
        for start in starts[turn : turn + ranks.size][ranks.rank : ranks.rank + 1]:  # none at the end, for some
            try:
                samples = draw(evaluation, start, total)
                seen = samples if start < kept else None, list(evaluator.views(samples, start, metrics))
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


def write_reference(config: RunConfig, evaluator: Evaluator, path: Path, ranks: Ranks = ALONE) -> None:
    """What the metrics say of two halves of the real data and of noise: once a benchmark, its data and metric.

    Raises StoppedError where a process is asked to stop.
    """
    data = evaluator.dataset.fingerprint
    held = {row["metric"] for row in read_jsonl(path) if row.get("data", data) == data} if ranks.is_writer else set()
    if ranks.broadcast(set(config.eval.metrics) <= held):
        return
    evaluator.work_out_references(ranks)
    stopped = False
    if ranks.is_writer:
        try:
            _add_reference(config.benchmark.name, evaluator, path)
        except StoppedError:
            stopped = True
    if ranks.agree(stopped):
        raise StoppedError


def _add_reference(name: str, evaluator: Evaluator, path: Path) -> None:
    data = evaluator.dataset.fingerprint
    fresh = [{"benchmark": name, "data": data, **row} for row in evaluator.reference_rows()]
    ours = {row["metric"] for row in fresh}
    path.parent.mkdir(parents=True, exist_ok=True)
    while (lock := acquire(path.with_suffix(".lock"))) is None:  # cells of one benchmark share the file
        time.sleep(0.1)
    with lock:
        kept = [row for row in read_jsonl(path) if row.get("data", data) != data or row["metric"] not in ours]
        rows = sorted(kept + fresh, key=lambda row: (row.get("data", ""), row["metric"], row["what"]))
        write_jsonl(path, rows)


def _coupling_arrays(config: RunConfig, averaged: Model, dataset: Dataset) -> dict[str, torch.Tensor]:
    batch, conditional = config.train.batch, config.data.conditional
    return coupling_arrays(averaged, dataset, config.benchmark.name, batch, conditional=conditional)


def _save_arrays(path: Path, arrays: Mapping[str, torch.Tensor]) -> None:
    """Write `arrays` atomically; where there are none, no file."""
    content: dict[str, Any] = {name: array.numpy() for name, array in arrays.items()}
    if content:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            numpy.savez(file, **content)
