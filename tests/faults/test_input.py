"""Whatever is typed, and whatever lies in a file: exit status 0, 1, 2 or 130, a sentence, never a stack trace.

FUZZ=10000 tries that many inputs in each test, other ones each time.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from consistency_bench.benchmarks.cli import main as command
from consistency_bench.benchmarks.common.files import DamagedError, read_json, read_jsonl
from consistency_bench.benchmarks.config.schema import is_as_typed, keys_of
from consistency_bench.benchmarks.runs.folder import CONFIG, RECORDS, RUN, STATUS, TRAIN_LOG, Run, find_cells
from consistency_bench.reports.analysis.cells import baselines, survey
from consistency_bench.slurm import clusters

from ..benchmarks.conftest import put, tiny_cell

FUZZ = int(os.environ.get("FUZZ", "0"))
bounded = settings(
    max_examples=FUZZ or 60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=not FUZZ, database=None
)
many = settings(bounded, max_examples=FUZZ or 120)


def said(*arguments: str) -> tuple[int, str, str]:
    """`bench` in this process: status, output, errors. Any exception but its own way out is a stack trace."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["bench", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as end,
    ):
        command.main()
    status = end.value.code
    assert status in (0, 1, 2, 130), status
    assert "Traceback" not in out.getvalue() + err.getvalue()
    assert "unexpected error" not in err.getvalue()  # the handler for unforeseen errors
    if status == 2:
        assert err.getvalue().strip()
    return int(status or 0), out.getvalue(), err.getvalue()


def leaves(config: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in config.items():
        found += leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]
    return found


KEYS = [key for key in leaves(tiny_cell("vct").config.to_dict()) if key.split(".")[0] not in ("cell", "seed")]
KEYS += [f"{section}.{name}" for section in ("benchmark", "data", "train", "eval", "run") for name in keys_of(section)]
NUMBERS = st.one_of(
    st.integers(), st.floats(), st.sampled_from(["1e400", "-0", "0x10", "1_000", "nan", "-inf", "9" * 400])
)
WORDS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            "null",
            "true",
            "[]",
            "[1,2",
            "{a: 1}",
            "{}",
            "''",
            '"',
            "${train.lr}",
            "${oc.env:HOME}",
            "???",
            "a,b",
            "[[[]]]",
            "range(1,3)",
            "glob(*)",
            "shuffle(1,2)",
            "1,2,3",
            "ect",
            "digits",
            "choice()",
            "\x00",
            "é😀",
            "\u202e",
            "%s",
            "{0}",
            "[" * 900 + "]" * 900,
            "${" * 300,
            "1" * 5000,
            "0x" + "f" * 5000,
            "1e999",
            "=",
            "a=b",
            "/datä/ü",
            "https://me:secret@host/?token=secret",
        ]
    ),
)
VALUES = st.one_of(NUMBERS.map(str), WORDS, st.lists(st.one_of(NUMBERS, WORDS), max_size=3).map(str))
SETTINGS = st.builds(lambda key, value: f"{key}={value}", st.sampled_from(KEYS), VALUES)
NAMES = st.one_of(
    st.text(max_size=8), st.sampled_from(["ect", "vct,ict", "ect+ot", "sct+ot", "+", ",", "ect+", "a/../b"])
)
SEEDS = st.one_of(st.text(max_size=6), st.sampled_from(["0", "0-2", "3-1", "-1", "1e3", "0-99999999999", "0,,1", "٣"]))


@pytest.mark.slow
@many
@given(st.lists(st.one_of(SETTINGS, SETTINGS, st.text(max_size=15)), max_size=3), NAMES, SEEDS)
@example(["benchmark=toy2d", "train.lr=1"], "ect", "0")
def test_any_settings_names_and_seeds(given_settings: list[str], methods: str, seeds: str) -> None:
    said(
        "run",
        "--dry-run",
        "--out",
        "/nonexistent-runs",
        f"--methods={methods}",
        f"--seeds={seeds}",
        "--",
        *given_settings,
    )


@many
@given(st.sampled_from(KEYS), VALUES)
def test_a_value_that_is_refused_is_refused_with_its_key(key: str, value: str) -> None:
    """A part is named by its section where it refuses an option: `network: …`, `method.times: …`."""
    setting = f"{key}={value}"
    status, _, err = said("run", "--dry-run", "--out", "/nonexistent-runs", "--methods=vct", "--seeds=0", "--", setting)
    if status == 2:
        (line,) = err.strip().splitlines()
        assert line.startswith("bench: ")
        names = {
            key,
            key.split(".")[0],
            ".".join(key.split(".")[:2]),
            key.rpartition(".")[2].rstrip("s"),
            repr(setting),
        }
        assert any(name in line for name in names), line


SETTABLE = [f"{section}.{name}" for section in ("data", "train", "eval", "run") for name in keys_of(section)]
TYPED = [key for key in SETTABLE if key != "data.fingerprint" and not is_as_typed(key)]


@pytest.mark.parametrize("key", TYPED)
def test_a_value_of_the_wrong_type_is_told_the_right_one(key: str) -> None:
    wrong = "{}" if key in ("eval.nfe", "eval.metrics", "eval.curve") else "[{}]"
    status, _, err = said("run", "--dry-run", "--out", "/nonexistent-runs", "--methods=ect", f"{key}={wrong}")
    assert status == 2
    assert key in err
    assert "must be" in err


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(["1G", "2h"])
)
YAML = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(SCALARS, inner, max_size=3)),
    max_leaves=6,
)
CLUSTER = {"gpus_per_node": 0, "cpus_per_gpu": 1, "time_limit": "1h", "array_parallelism": 1}
ODD_YAML = [
    "setup: &a [*a]",
    "environment: &a {A: *a}",
    "requeue: &a {enabled: *a}",
    "sbatch: &a {nice: *a}",
    "srun_args: &a [*a]",
    "&a [*a]",
    "&a {*a : 1}",
    "a: &a [1]\n? *a\n: 2",
    "cpus_per_gpu: " + "1" * 5000,
    "cpus_per_gpu: 0x" + "f" * 5000,
    "0x" + "f" * 5000 + ": 1",
    "cpus_per_gpu: " + "[" * 2000,
    "time_limit: 2024-99-99",
    "time_limit: " + "9" * 400 + "h",
    "memory_per_gpu: " + "9" * 400 + "G",
    "tflops: " + "9" * 400,
    "tflops: 1e999",
    "setup: &a [x, x]\nenvironment: &b [*a, *a]\nsbatch: {a: [*b, *b]}",
    "setup: !!python/object/apply:os.system [ls]",
    "cpus_per_gpu: !!int x",
    "a: !!timestamp x",
    "- " * 2000,
    "\ufeffa: 1",
    "%YAML 9.9\n---\na: 1",
    "a: 1\n---\nb: 2",
]
LAUGHS = "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{f'*a{n - 1},' * 9}]" for n in range(1, 20)), "setup: *a19"])


@many
@given(
    keys=st.dictionaries(st.sampled_from([*clusters.KEYS, "nope"]), YAML, max_size=4),
    lines=st.lists(st.one_of(st.sampled_from([*ODD_YAML, LAUGHS]), st.text(max_size=20)), max_size=2),
    raw=st.binary(max_size=20),
)
@example(keys={}, lines=[LAUGHS], raw=b"")
def test_any_cluster_file(
    tmp_path_factory: pytest.TempPathFactory, keys: dict[str, Any], lines: list[str], raw: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    text = yaml.safe_dump({**CLUSTER, **keys}, allow_unicode=True) + "".join(f"{line}\n" for line in lines)
    path.write_bytes(text.encode(errors="surrogatepass") + raw)
    status, _, err = said("sweep", "--dry-run", "--methods=ect", "--seeds=0", "--cluster", str(path), "preset=smoke")
    if status == 2:
        (line,) = err.strip().splitlines()
        assert path.name in line
        assert len(line) < 2000


@pytest.mark.parametrize("line", [*ODD_YAML, LAUGHS], ids=lambda line: line[:20])
def test_an_odd_line_of_a_cluster_file_is_refused(tmp_path: Path, line: str) -> None:
    kept = "".join(f"{key}: {value}\n" for key, value in CLUSTER.items() if not line.startswith(f"{key}:"))
    path = tmp_path / "odd.yaml"
    path.write_text(f"{kept}{line}\n", encoding="utf-8")
    status, out, err = said("sweep", "--dry-run", "--cluster", str(path))
    assert (status, out) == (2, "")
    assert err.startswith(f"bench: {path}")


WORD = st.one_of(
    st.text(max_size=10),
    st.sampled_from(
        ["--help", "--failed", "-f", "--out", "--nfe", "--metrics=fid50k", "--nfe=0", "--draws=-1", "--json"]
    ),
    st.sampled_from(
        ["..", "/dev/null", "s0", "ect", "digits", "*", "-", "--", "--metrics", "--readme", "--by=x", "--snapshots=no"]
    ),
)
COMMANDS = [
    "status",
    "logs",
    "compare",
    "retry",
    "cancel",
    "report",
    "list",
    "show",
    "eval",
    "diagnose",
    "prepare",
    "wait",
]
COMMANDS += ["register", "sweep", "run --dry-run", "xyz"]


@many
@given(st.sampled_from(COMMANDS), st.lists(WORD, max_size=4))
def test_any_words_after_a_command(tmp_path_factory: pytest.TempPathFactory, name: str, words: list[str]) -> None:
    folder = tmp_path_factory.getbasetemp() / "words"
    folder.mkdir(exist_ok=True)
    with contextlib.chdir(folder):
        said(*name.split(), *words)


# Files

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)


@many
@given(
    content=st.one_of(
        st.binary(max_size=60), st.lists(JSON, max_size=4).map(lambda r: "\n".join(map(json.dumps, r)).encode())
    )
)
def test_the_readers_return_data_or_name_the_file(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "readers"
    folder.mkdir(exist_ok=True)
    for name, reader in {"a.json": read_json, "a.jsonl": read_jsonl}.items():
        (folder / name).write_bytes(content)
        try:
            reader(folder / name)
        except DamagedError as error:
            assert name in str(error)  # noqa: PT017  (it may also be read)
    (folder / CONFIG).write_bytes(content)
    try:
        Run(folder).config  # noqa: B018
    except DamagedError as error:
        assert CONFIG in str(error)  # noqa: PT017


ROW = {
    "cell": st.one_of(JSON, st.just("ID")),
    "images": st.one_of(JSON, st.just(2560)),
    "nfe": st.one_of(JSON, st.just(1)),
    "draw": st.one_of(JSON, st.just(0)),
    "metric": st.one_of(JSON, st.just("fd_points_500")),
    "value": st.one_of(JSON, st.just(1.0)),
    "error": JSON,
}


@bounded
@given(
    name=st.sampled_from([RECORDS, STATUS, RUN, "reference.jsonl"]),
    rows=st.lists(st.fixed_dictionaries({}, optional=ROW), max_size=3),
    other=JSON,
    plain=st.booleans(),
)
def test_the_report_s_reader_takes_any_json(
    tmp_path_factory: pytest.TempPathFactory, name: str, rows: list[dict[str, Any]], other: Any, plain: bool
) -> None:
    out = tmp_path_factory.getbasetemp() / "fuzzed"
    cell = tiny_cell("ect")
    folder = put(cell, out)
    for old in (RECORDS, STATUS, RUN):
        (folder / old).unlink(missing_ok=True)
    path = out / "toy2d" / name if name == "reference.jsonl" else folder / name
    rows = [{**row, "cell": cell.id} if row.get("cell") == "ID" else row for row in rows]
    text = json.dumps(other) if plain else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    cells, found = survey(find_cells(out))
    _, lost = baselines(out, cells)
    path.unlink()
    assert all(name in item.reason for item in (*found, *lost) if item.file == path)
    assert len(cells) == 1 or found
    assert len(find_cells(out)) == 1


@many
@given(JSON)
def test_any_configuration_on_disk_is_data_or_a_sentence(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    out = tmp_path_factory.getbasetemp() / "configured"
    folder = put(tiny_cell("ect"), out)
    config = Run(folder).config.to_dict()
    section = sorted(config)[len(json.dumps(value)) % len(config)]
    (folder / CONFIG).write_text(json.dumps({**config, section: value}), encoding="utf-8", errors="replace")
    cells, found = survey(find_cells(out))
    assert len(cells) + len(found) == 1
    with contextlib.chdir(out.parent):
        said("status", "--out", "configured")


STRANGE = st.sampled_from(["1e999", "9" * 400, "9" * 5000, "NaN", "-1", "true", '"x"', "null", "[]", "0.5", "7"])
TEMPLATES = {
    RUN: '{"attempts": [{"started": %s, "threads": %s}], "compute": {"train_seconds": %s}}',
    STATUS: '{"state": "done", "images": %s, "total": %s, "loss": %s}',
    RECORDS: '{"cell": "ID", "metric": "m", "images": %s, "nfe": %s, "draw": 0, "value": %s}\n',
    TRAIN_LOG: '{"images": %s, "loss": %s, "penalty": %s}\n',
    "lock": '{"pid": %s, "token": %s, "restart": %s}',
}


@many
@given(name=st.sampled_from(sorted(TEMPLATES)), values=st.tuples(*[STRANGE] * 3), junk=st.binary(max_size=20))
def test_any_number_in_a_file_of_a_cell_is_read_or_named(
    tmp_path_factory: pytest.TempPathFactory, name: str, values: tuple[str, str, str], junk: bytes
) -> None:
    out = tmp_path_factory.getbasetemp() / "numbered"
    cell = tiny_cell("ect")
    folder = put(cell, out)
    content = (TEMPLATES[name] % values).replace("ID", cell.id).encode()
    (folder / name).write_bytes(content + (junk if len(junk) < 5 else b""))
    with contextlib.chdir(out.parent):
        status, text, errors = said("status", "--out", "numbered")
    (folder / name).unlink()
    assert cell.path(out).name in text
    assert status == 1  # it is not done
    assert "Traceback" not in errors
