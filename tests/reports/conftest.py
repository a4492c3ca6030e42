"""Cell folders in the format of a run, with numbers like those of a small sweep."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from consistency_bench.benchmarks.config.plan import sampler_text
from consistency_bench.benchmarks.config.schema import RunConfig

SNAPSHOTS = 8
HALVES = {"fd_digits_2k": 4.0, "kd_digits_2k": 0.002, "classes_digits_2k": 10.0, "w2_toy2d": 0.02}
NOISE = {"fd_digits_2k": 898.0, "kd_digits_2k": 3.1, "classes_digits_2k": 1.0, "w2_toy2d": 2.5}
LEVELS = {"ict": 42.0, "ect": 31.0, "sct": 30.0, "vct": 24.0}


class Sweep:
    """Writes cells below `out`. Numbers depend only on the arguments."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def cell(
        self,
        method: str,
        seed: int,
        *,
        state: str = "done",
        variant: str = "",
        version: int = 1,
        benchmark: str = "digits",
        metrics: tuple[str, ...] = ("fd_digits_2k", "kd_digits_2k", "classes_digits_2k"),
        level: float | None = None,
        budget: int = 1_024_000,
        shape: tuple[int, ...] = (64, 1, 8, 8),
        error: str | None = None,
        draws: int = 1,
        settings: Mapping[str, Any] | None = None,
        compute: Mapping[str, Any] | None = None,
        penalty: float | None = None,
        nfes: tuple[int, ...] = (1, 2),
    ) -> Path:
        """Write one cell; `level` is its first metric at the last snapshot and NFE 1.

        settings: configuration values by dotted key. compute: further entries of the training cost. penalty: of the
        last row of the training log; earlier rows have 9. Without it no row has a penalty.
        """
        rng = np.random.default_rng([seed, len(method), *map(ord, method)])
        group = _digest(benchmark, method, version, variant, budget)
        identity = _digest(group, seed)
        folder = self.out / benchmark / method / f"s{seed}-{identity}"
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        reached = {"done": SNAPSHOTS, "diverged": 5, "failed": 2, "running": 3}.get(state, 0)
        config = {
            "cell": {
                "id": identity,
                "group": group,
                "benchmark": benchmark,
                "method": method,
                "variant": variant,
                "seed": seed,
                "overrides": _overrides(variant, settings or {}),
            },
            "benchmark": {"name": benchmark, "version": 1},
            "method": {"name": method, "version": version, "coupling": {"kl_weight": 3.0}, "process": {}},
            "data": {"name": benchmark},
            "network": {"kind": "mlp", "width": [128, 128]},
            "train": {"images": budget, "batch": 256, "lr": 0.002, "ema": {"kind": "constant"}},
            "sample": {},
            "eval": {"nfe": list(nfes), "metrics": list(metrics)},
            "run": {},
            "seed": seed,
        }
        for key, value in (settings or {}).items():
            *sections, name = key.split(".")
            functools.reduce(lambda part, section: part.setdefault(section, {}), sections, config)[name] = value
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        sampler = sampler_text(RunConfig.from_dict(config))
        level = level if level is not None else LEVELS.get(method, 35.0) * (1 + 0.06 * rng.standard_normal())
        rows, log = [], []
        for snapshot in range(1, reached + 1):
            images = budget * snapshot // SNAPSHOTS
            for nfe in nfes:
                for metric in metrics:
                    for draw in range(draws):
                        value = _value(metric, snapshot, nfe, level, draw)
                        if state == "diverged" and snapshot == reached:
                            value = None
                        rows.append(
                            {
                                **{key: config["cell"][key] for key in ("benchmark", "method")},
                                "version": version,
                                "variant": variant,
                                "group": group,
                                "cell": identity,
                                "seed": seed,
                                "images": images,
                                "nfe": nfe,
                                "draw": draw,
                                "metric": metric,
                                "value": value,
                                "samples": 2048,
                                "sampler": sampler,
                            }
                        )
            last = snapshot == reached
            log.append(
                {
                    "images": images,
                    "step": images // 256,
                    "loss": 1.0 / snapshot,
                    "penalty": penalty if last or penalty is None else 9.0,
                }
            )
        write_lines(folder / "records.jsonl", rows)
        write_lines(folder / "train.jsonl", log)
        status = {
            "state": state,
            "phase": "train",
            "images": budget * reached // SNAPSHOTS,
            "total": budget,
            "stage": 3,
            "loss": None,
            "images_per_s": 20_000.0,
            "updated": 1_790_000_000,
            "error": error,
        }
        (folder / "status.json").write_text(json.dumps(status))
        attempt = {
            "started": "2026-11-20T10:00:00+00:00",
            "ended": "2026-11-20T10:01:00+00:00" if state != "running" else None,
            "command": "bench run",
            "versions": {"python": "3.11.9"},
            "git": {"commit": "abc123", "dirty": False},
            "hardware": {"cpu": "Example CPU", "cores": 2, "gpu": None},
            "device": "cpu",
            "threads": 1,
            "train_seconds": 50.0,
        }
        cost = {
            "parameters": 141_000,
            "passes_per_step": 2.0,
            "flops_per_image": 1_500_000.0,
            "train_seconds": 50.0,
            "device": "cpu",
        }
        (folder / "run.json").write_text(
            json.dumps({"attempts": [attempt], "compute": {**cost, **(compute or {})} if state != "queued" else {}})
        )
        if state == "done":
            for name in ("nfe1", "nfe2", "real"):
                np.savez(folder / "samples" / f"{name}.npz", samples=_samples(shape, name, rng))
        self._reference(benchmark, metrics)
        return folder

    def default(self) -> Sweep:
        """Four methods × three seeds: one cell diverged, one still running."""
        for method in LEVELS:
            for seed in range(3):
                state = {("ict", 2): "diverged", ("sct", 1): "running"}.get((method, seed), "done")
                error = "the loss was not finite at 640000 images" if state == "diverged" else None
                self.cell(method, seed, state=state, error=error)
        return self

    def configurations(self, count: int, seeds: int = 3, **kwargs: Any) -> Sweep:
        """`count` configurations with names as users give them, of values near each other and far, some too wide."""
        for place, (method, settings) in enumerate(itertools.islice(_names(), count)):
            variant = ", ".join(f"{key}={value}" for key, value in settings.items())
            for seed in range(seeds):
                spread = (0.1, 1.0, 5.0)[place % 3]
                level = 16.0 + 0.7 * place + (40.0 if place % 7 == 6 else 0.0) + spread * math.sin(2 * seed + place)
                own = {"variant": variant, "settings": settings, "level": level} | kwargs
                self.cell(method, seed, **own)
        return self

    def many(self, count: int, seeds: int = 5) -> Sweep:
        """`count` cells of 48 rows each: two benchmarks, four methods, `seeds` seeds, as many variants as needed."""
        for place in range(count):
            seed, rest = place % seeds, place // seeds
            method, rest = tuple(LEVELS)[rest % len(LEVELS)], rest // len(LEVELS)
            benchmark, number = ("digits", "second")[rest % 2], rest // 2
            variant = f"train.lr={number}" if number else ""
            level = LEVELS[method] + number + 4 * math.sin(place**2)  # no two pairs of rows differ alike
            settings = {"train.lr": number} if number else {}
            self.cell(method, seed, benchmark=benchmark, variant=variant, settings=settings, level=level)
        return self

    def sweep(self, method: str, key: str, values: Mapping[Any, Iterable[float]], default: Any, **kwargs: Any) -> Sweep:
        """Cells of one swept key: value -> level per seed, NaN for a diverged seed."""
        for value, levels in values.items():
            variant = "" if value == default else f"{key}={value}"
            for seed, level in enumerate(levels):
                state = "diverged" if math.isnan(level) else "done"
                level = 50.0 if math.isnan(level) else level
                settings = {**kwargs.get("settings", {}), key: value}
                more = {**kwargs, "variant": variant, "state": state, "level": level, "settings": settings}
                self.cell(method, seed, **more)
        return self

    def _reference(self, benchmark: str, metrics: tuple[str, ...]) -> None:
        write_lines(
            self.out / benchmark / "reference.jsonl",
            [
                {"benchmark": benchmark, "what": what, "metric": metric, "value": values[metric], "samples": 2048}
                for what, values in (("halves", HALVES), ("noise", NOISE))
                for metric in metrics
                if metric in values
            ],
        )


def _names() -> Iterator[tuple[str, dict[str, Any]]]:
    """Methods, compositions, then ablations of VCT and others."""
    yield from ((method, {}) for method in (*LEVELS, "ict+ot", "sct+vc"))
    for weight in (0.3, 1, 10, 30):
        yield "vct", {"method.coupling.kl_weight": weight}
        yield "vct", {"method.coupling.kl_weight": weight, "method.coupling.encoder_variance": "fixed:0.09"}
    for lr in itertools.count(1):
        yield "ect", {"train.lr": lr / 10_000, "method.times.distribution": "lognormal(-1.1,2.0)"}


def _overrides(variant: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that `variant` names; what it names besides is text."""
    named = (part.partition("=") for part in re.split(r", (?=[\w.+-]+=)", variant) if part)
    return {key: settings.get(key, text) for key, _, text in named}


def write_lines(path: Path, rows: list[dict]) -> None:
    """Write a JSON-lines file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def _value(metric: str, snapshot: int, nfe: int, level: float, draw: int) -> float:
    if metric.startswith("classes_"):
        return 10.0 if snapshot > 2 else 7.0
    scale = {"kd_digits_2k": 0.001, "w2_toy2d": 0.01}.get(metric, 1.0)
    fall = (500 / level) ** ((SNAPSHOTS - snapshot) / (SNAPSHOTS - 1))
    return scale * level * fall * 0.8 ** math.log2(nfe) + 0.001 * draw


def _samples(shape: tuple[int, ...], name: str, rng: np.random.Generator) -> np.ndarray:
    if len(shape) == 2:
        centre = np.where(np.arange(shape[0]) % 2, 0.5, -0.5)[:, None] * [0.0, 1.0]
        return (centre + 0.05 * rng.standard_normal(shape)).astype(np.float32)
    if shape[1:] == (1, 8, 8):
        from sklearn.datasets import load_digits

        digits = load_digits().images[: shape[0], None] * 15.9
        noise = 0 if name == "real" else 25 * rng.standard_normal(shape)
        return np.clip(digits + noise, 0, 255).astype(np.uint8)
    return rng.integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """An empty output folder to write cells into."""
    return Sweep(tmp_path / "runs")
