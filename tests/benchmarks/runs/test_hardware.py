"""Which kinds of device have computed a cell."""

from __future__ import annotations

from typing import Any

from consistency_bench.benchmarks.runs.hardware import device_kinds


def attempt(device: str, gpu: str | None = None, *, resumes: bool = True) -> dict[str, Any]:
    return {"device": device, "hardware": {"gpu": gpu}, "resumes": resumes}


def test_models_of_gpus_are_told_apart_and_numbers_of_devices_are_not() -> None:
    first = attempt("cuda:0", "H100", resumes=False)
    assert device_kinds([first, attempt("cuda:1", "H100")]) == ["H100"]
    assert device_kinds([first, attempt("cuda", "A100"), attempt("cuda", "H100")]) == ["H100", "A100"]
    assert device_kinds([first, attempt("cpu", "H100")]) == ["H100", "CPU"]


def test_an_attempt_that_left_nothing_does_not_count() -> None:
    assert device_kinds([attempt("cuda", "H100", resumes=False), attempt("cpu", resumes=False)]) == ["CPU"]


def test_attempts_of_earlier_versions_count() -> None:
    assert device_kinds([{"device": "cuda", "hardware": {"gpu": "H100"}}, attempt("cpu")]) == ["H100", "CPU"]
