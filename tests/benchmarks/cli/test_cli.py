"""The `bench` command as its user meets it: exit status, one sentence for a mistake, nothing half-written."""

from __future__ import annotations

import importlib.metadata
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import typer
import yaml

from consistency_bench.benchmarks.cli.main import app
from consistency_bench.benchmarks.common.files import read_json, write_json
from consistency_bench.benchmarks.common.lock import acquire
from consistency_bench.benchmarks.config.compose import choices
from consistency_bench.benchmarks.execution.cell import run_cell
from consistency_bench.benchmarks.metrics.registry import EXAMPLES
from consistency_bench.benchmarks.runs.folder import RECORDS, STATUS

from ..conftest import BENCH, TINY, Bench, Said, environment, put, tiny_cell

HEAVY = {"torch", "torchvision", "mlflow", "pandas", "matplotlib", "seaborn", "sklearn", "scipy", "submitit"}
NO_ACCELERATOR = "mps" if torch.cuda.is_available() else "cuda"


def tree(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


# Mistakes

MISTAKES = {
    "method": (
        ["--methods", "ekt"],
        "unknown method 'ekt'. Did you mean: ect? Available: ect, ect+gc, ect+ot, edm, ict",
    ),
    "no method": (["--methods", ""], "--methods names no method. Available: ect"),
    "sct+ot": (
        ["--methods", "sct+ot"],
        "'sct+ot' is refused: minibatch optimal transport has no conditional density p(x_t | x), "
        "which the weights of SCT's target need",
    ),
    "vct+ot": (["--methods", "vct+ot"], "'vct+ot' is refused: 'vct' already couples its noise"),
    "two couplings": (["--methods", "ect+vc+ot"], "'ect+vc+ot' is refused: a method couples its noise in one way"),
    "seeds backwards": (["--seeds", "5-2"], "--seeds has the range '5-2', which ends before it starts"),
    "metric": (["eval.metrics=[fd_digit_2k]"], "unknown metric 'fd_digit_2k'. Did you mean: fd_digits_2k"),
    "fid": (["eval.metrics=[fidd50k]"], "unknown metric 'fidd50k'. Did you mean: fid50k"),
    "metric of other data": (["eval.metrics=[fd_points_2k]"], ""),
    "key": (["train.bacth=3"], "unknown key 'train.bacth'. Did you mean: train.batch? Available: train.images"),
    "option of a part": (["method.times.foo=3"], "unknown key 'method.times.foo'. Available: "),
    "option of the network": (["network.foo=3"], "unknown key 'network.foo'. Available: width, blocks, dropout"),
    "kind": (["method.coupling.kind=foo"], "method.coupling.kind is 'foo', must be one of: independent, optimal"),
    "kind of network": (
        ["network.kind=foo"],
        "network.kind is 'foo', must be one of: mlp, ddpmpp",
    ),
    "kind of average": (["train.ema.kind=foo"], "train.ema.kind is 'foo', must be one of: halflife, constant"),
    "average without its option": (["train.ema={kind: halflife}"], "train.ema.images is missing"),
    "other paper's part": (["--methods", "ect", "method.times.kind=karras_bins"], "'ect' cannot have method.times"),
    "size of a tensor": (
        ["--methods", "ect", f"network.width={10**18}"],
        "the networks of ect cannot be built with these sizes (",
    ),
    "parameters": (
        ["--methods", "vct", f"network.width={10**9}"],
        "the networks of vct have 1.0e+19 parameters in all, must be at most 1e+12: reduce network.*",
    ),
    "blocks": ([f"network.blocks={10**9}"], "network.blocks is 1000000000, must be from 1 to 1,000"),
    "digits": (["--seeds", "1" * 5000], "--seeds has '1111"),
    "bare key": (
        ["kl_weight=3"],
        "unknown key 'kl_weight'. Did you mean: method.coupling.kl_weight? Available: benchm",
    ),
    "misspelt key": (
        ["--methods", "vct", "method.coupling.kl_wieght=3"],
        "unknown key 'method.coupling.kl_wieght'. Did you mean: method.coupling.kl_weight? Available: method.coupling",
    ),
    "misspelt kind": (
        ["method.distance.kind=hubber"],
        "method.distance.kind is 'hubber', must be one of: huber, huber_elementwise_sum, huber_elementwise_mean, "
        "squared. Did you mean: huber?",
    ),
    "password": (["https://me:secret@host/?token=secret"], "'https://***@host/?***"),
    "width": (["network.width=3"], "network.width is 3, must be a positive multiple of 4"),
    "steps without levels": (["sample.sigma_mid=[]"], "eval.nfe is 2: without intermediate levels in sample.sigma_mid"),
    "variant": (["benchmark=toy2d", "data.variant=x"], "unknown variant of toy2d 'x'. Available: two_modes"),
    "option of another network": (
        ["network.kind=ncsnpp", "network.width=8"],
        "unknown key 'network.width'. Available: channels, channel_mult, blocks, attn_resolutions, dropout, label_dro",
    ),
    "too many levels": (
        ["network.kind=ddpmpp", "network.channel_mult=[1,1,1,1,1]"],
        "network: channel_mult has 5 levels, but 8×8 images cannot be halved 4 times",
    ),
    "network for images": (
        ["benchmark=toy2d", "network.kind=adm"],
        "this kind of network is for square images, not for samples of shape (2,); use mlp",
    ),
    "device not here": ([f"run.device={NO_ACCELERATOR}"], f"run.device is {NO_ACCELERATOR}, which this machine does"),
    "no value": (["train.lr"], "'train.lr' is not of the form key=value"),
    "mlflow": (["--mlflow-uri", "./mlruns"], "--mlflow-uri is './mlruns', must begin with one of: http, https, sqlite"),
    "line end": (["train.lr=1\n2"], r"'train.lr=1\n2' "),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=list(MISTAKES))
def test_a_mistake_is_one_sentence_and_nothing_is_written(
    arguments: list[str], message: str, call: Callable[..., Said], tmp_path: Path
) -> None:
    said = call("run", "--out", "new/runs", *arguments)
    assert said.status == 2
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith(f"bench: {message}")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_data_set_is_one_sentence(call: Callable[..., Said], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    settings = ["data.name=cifar10", "data.download=false", "data.root=data"]
    said = call("run", "--methods", "ect", "--out", "runs", *settings)
    assert said.status == 2
    (line,) = said.err.splitlines()
    assert line.startswith(
        f"bench: data set 'cifar10' is missing or damaged in {tmp_path}/data/cifar-10-batches-py: allow the"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--jobs", "0"],
        ["run", "--jobs", "x"],
        ["run", "--launcher", "slrum"],
        ["run", "--foo"],
        ["foo"],
        ["show"],
        ["run", "--seeds"],
        ["run", "--preset", "smoke"],
        ["run", "--out", ""],
        ["list", "https://me:secret@host/"],
    ],
    ids=" ".join,
)
def test_a_wrong_option_is_a_usage_error(arguments: list[str], call: Callable[..., Said], tmp_path: Path) -> None:
    said = call(*arguments)
    assert said.status == 2
    *usage, error = said.err.splitlines()
    assert not usage or usage[0].startswith("Usage: bench")
    assert error.startswith("Error: ")
    assert ("write preset=VALUE" in error) == ("--preset" in arguments)
    assert "secret" not in said.err
    assert "Traceback" not in said.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", ["file", "file/new", "/dev/null", "/proc/new"])
@pytest.mark.parametrize("dry", [False, True])
def test_an_output_that_cannot_be_is_one_sentence(
    out: str, dry: bool, call: Callable[..., Said], tmp_path: Path
) -> None:
    """Below a regular file, and in /proc, not even root can make a folder."""
    (tmp_path / "file").write_text("mine")
    said = call("run", "--methods", "ect", "--out", out, *TINY, *(["--dry-run"] if dry else []))
    assert said.status == 2
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert re.fullmatch(
        rf"bench: output folder {out}: .* is not (a folder|writable.*); choose another with --out", line
    )
    assert (tmp_path / "file").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_something_in_the_way_of_a_cell_is_one_sentence(call: Callable[..., Said], tmp_path: Path) -> None:
    (tmp_path / "toy2d").write_text("mine")
    said = call("run", "--methods", "ect", "--seeds", "0", "--out", ".", *TINY)
    assert said.status == 2
    (line,) = said.err.splitlines()
    assert line.startswith("bench: toy2d")
    assert [path.name for path in tmp_path.iterdir()] == ["toy2d"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "--out", "none"], "bench: no cells below none: run `bench run` first"),
        (["report", "--out", "."], "bench: no cells below .: "),
        (["status", "--out", "none"], "bench: no cells below none: run `bench run` first"),
        (["show", "ekt"], "bench: unknown method, benchmark or cell in runs 'ekt'. Did you mean: ect? Avail"),
        (
            ["show", "digit"],
            "bench: unknown method, benchmark or cell in runs 'digit'. Did you mean: digits? Available: ",
        ),
        (["run", "smoke"], "bench: 'smoke' is not of the form key=value, such as preset=smoke"),
        (
            ["run", "ect"],
            "bench: 'ect' is not of the form key=value, such as train.lr=1e-3; methods are named by --met",
        ),
        (["run", "--mlflow-uri", "https:/me:secret@host"], "bench: --mlflow-uri is 'https:/***@host', must begin"),
        (["show", "ect", "train.bacth=1"], "bench: unknown key 'train.bacth'"),
    ],
)
def test_nothing_to_show_is_one_sentence(
    arguments: list[str], message: str, call: Callable[..., Said], tmp_path: Path
) -> None:
    said = call(*arguments)
    assert said.status == 2
    (line,) = said.err.splitlines()
    assert line.startswith(message)
    assert list(tmp_path.iterdir()) == []


#: The files of the only cell that each subcommand reads, with its exit status where one is damaged.
READS = {
    "status": (1, ["status.json", "config.yaml"]),
    "report": (2, ["config.yaml", "status.json", "run.json", "records.jsonl"]),
    "show": (2, ["config.yaml", "records.jsonl"]),
}


@pytest.mark.parametrize(("subcommand", "file"), [(name, file) for name, (_, files) in READS.items() for file in files])
def test_a_damaged_file_is_named(subcommand: str, file: str, call: Callable[..., Said], tmp_path: Path) -> None:
    """How sound cells fare beside it is in `tests/faults/test_damage.py`."""
    cell = tiny_cell("ect")
    folder = put(cell, tmp_path)
    run_cell(folder)
    (folder / file).write_text("{]\n{}\n")
    arguments = {"show": [cell.id], "report": ["--no-mlflow"], "status": []}
    said = call(subcommand, *arguments[subcommand], "--out", ".")
    assert said.status == READS[subcommand][0]
    assert f"{cell.name}/{file}" in said.err


# Unforeseen errors


def test_an_unexpected_error_is_a_sentence_and_its_trace_is_in_a_file(bench: Bench, tmp_path: Path) -> None:
    """A library that is broken on this machine stands for all unforeseen errors."""
    for folder in ("libraries", "temporary"):
        (tmp_path / folder).mkdir()
    (tmp_path / "libraries" / "yaml.py").write_text("raise RuntimeError('lost https://me:secret@host/?token=secret')")
    said = bench("show", "ect", PYTHONPATH=str(tmp_path / "libraries"), TMPDIR=str(tmp_path / "temporary"))
    assert (said.returncode, said.stdout) == (1, "")
    (line,), (log,) = said.stderr.splitlines(), (tmp_path / "temporary").glob("*.log")
    assert line == f"bench: unexpected error: RuntimeError: lost https://***@host/?***; details are in {log}"
    assert log.read_text().startswith("bench show ect\nTraceback")
    assert "secret" not in log.read_text()


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)  # as `bench list | true`
    done = subprocess.run(
        [BENCH, "list"], stdout=write_end, stderr=subprocess.PIPE, check=False, cwd=tmp_path, env=environment()
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("list >&-", 0, ""),
        ("list >&- 2>&-", 0, ""),
        ("nope 2>&-", 2, ""),
        ("nope 2>/dev/full", 2, ""),
        ("show nope 2>/dev/full", 2, ""),
        ("--version >/dev/full", 1, "No space left on device"),
        ("list >/dev/full", 1, "No space left on device"),
    ],
)
def test_output_that_is_closed_or_full_is_no_stack_trace(command: str, status: int, said: str, tmp_path: Path) -> None:
    done = subprocess.run(
        f"'{BENCH}' {command}", shell=True, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment()
    )
    assert (done.returncode, done.stderr.count("\n")) == (status, 1 if said else 0)
    assert said in done.stderr
    assert "unexpected" not in done.stderr


def test_a_terminal_without_a_character_shows_its_code(bench: Bench) -> None:
    said = bench("show", "fashion_mnist", "data.root=/datä", PYTHONIOENCODING="ascii")
    assert (said.returncode, said.stderr) == (0, "")
    assert "root: /dat\\xe4" in said.stdout


def test_an_endless_line_of_a_log_is_cut(call: Callable[..., Said], tmp_path: Path) -> None:
    folder = put(tiny_cell("ect"), tmp_path)
    cut = b"x" * 4070 + b" https://me:secret" + b"s" * 5000 + b"@host\n"
    lines = [b"begin\n", b"x" * 10_000_000 + b"\n", cut, b"https://me:secret@host \x1b[2J\n", b"end"]
    (folder / "log.txt").write_bytes(b"".join(lines))
    said = call("logs", "--out", ".", folder)
    assert said.status == 0
    assert "secret" not in said.out
    begin, long, _, address, end = said.out.split("\n")
    assert (begin, address, end) == ("begin", "https://***@host \ufffd[2J", "end")
    assert re.fullmatch(r"x{4096}… \(9,995,90[45] more bytes\)", long)


# Looking around


def modules_after(*arguments: str | Path, cwd: Path) -> tuple[int, set[str]]:
    """Exit status, and the heavy modules that are imported by the time `bench` ends."""
    code = f"""
import sys
from consistency_bench.benchmarks.cli.main import main
try:
    main()
except SystemExit as end:
    print(end.code, *({HEAVY!r} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True, cwd=cwd
    )
    status, *modules = done.stderr.split()
    return int(status), set(modules)


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["list"], ["list", "--json"]])
def test_looking_around_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    assert modules_after(*arguments, cwd=tmp_path) == (0, set())
    assert list(tmp_path.iterdir()) == []


def commands(group: typer.core.TyperGroup, *path: str) -> Iterator[tuple[str, ...]]:
    """The words of each subcommand."""
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, typer.core.TyperGroup):
            yield from commands(command, *path, name)


ROOT = typer.main.get_command(app)
assert isinstance(ROOT, typer.core.TyperGroup)
COMMANDS = list(commands(ROOT))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_help_of_a_subcommand_explains_all_its_options(words: tuple[str, ...], call: Callable[..., Said]) -> None:
    said = call(*words, "-h")
    assert (said.status, said.err) == (0, "")
    assert said == call(*words, "--help")
    command = ROOT
    for word in words:
        assert isinstance(command, typer.core.TyperGroup)
        command = command.commands[word]
    assert (command.help or "").split("\n\n")[0].endswith(".")
    for param in command.params:
        assert getattr(param, "help", None), param.name
        assert param.opts[0] in said.out or param.metavar in said.out


def test_the_help_names_every_subcommand_and_no_line_is_cut_off(call: Callable[..., Said]) -> None:
    said = call("--help")
    assert said.status == 0
    for name in ROOT.commands:
        assert re.search(rf"^  {name} ", said.out, re.MULTILINE)
    assert "..." not in said.out.partition("Commands:")[2]
    assert "Usage: bench" in call().err


def test_the_version_is_that_of_the_package(call: Callable[..., Said], tmp_path: Path) -> None:
    version = importlib.metadata.version("consistency-bench")
    assert (call("--version").status, call("--version").out) == (0, f"bench {version}\n")
    code = "import consistency_bench; print(consistency_bench.__version__)"
    for arguments in (["-m", "consistency_bench", "--version"], ["-c", code]):
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, cwd=tmp_path)
        assert done.stdout.split()[-1] == version


def test_a_shell_completes_subcommands(bench: Bench) -> None:
    said = bench(_BENCH_COMPLETE="complete_bash", COMP_WORDS="bench re", COMP_CWORD="1")
    assert said.stdout.split() == ["retry", "report", "register"]


def test_list_names_everything_there_is(call: Callable[..., Said]) -> None:
    said = call("list")
    assert said.status == 0
    for name in (*choices("method"), *choices("benchmark"), *choices("preset")):
        assert re.search(rf"^  {re.escape(name)} ", said.out, re.MULTILINE), name
    for name in EXAMPLES:
        assert re.search(rf"(^    |, ){re.escape(name)}(,|$)", said.out, re.MULTILINE), name


@pytest.mark.parametrize("name", ["ect", "sct+vc", "ect+vc"])
def test_show_prints_the_configuration_that_would_run(name: str, call: Callable[..., Said]) -> None:
    said = call("show", name, "train.lr=2e-3")
    assert said.status == 0
    shown = yaml.safe_load(said.out)
    assert shown["train"]["lr"] == 0.002
    assert shown["method"]["name"] == {"ect+vc": "vct"}.get(name, name)


def test_doctor_finds_this_machine_well(call: Callable[..., Said]) -> None:
    said = call("doctor")
    assert said.status == 0
    assert "MISSING" not in said.out
    assert "digits classifier: weights are intact" in said.out
    assert "data set digits: 1,797 samples" in said.out


def test_a_dry_run_writes_nothing(call: Callable[..., Said], tmp_path: Path) -> None:
    said = call(
        "run", "--methods", "ect,vct", "--seeds", "0-1", "--dry-run", "--out", "runs", *TINY, "train.lr=1e-3,3e-3"
    )
    assert said.status == 0
    assert len(re.findall(r"^ ?toy2d/(?:ect|vct)/s[01]-[0-9a-f]{8} .* new +2,560", said.out, re.MULTILINE)) == 8
    assert "train.lr=0.003" in said.out
    assert list(tmp_path.iterdir()) == []


# A finished, a diverged and a killed cell, run once for all tests below

GRID = ["--methods", "ect", "--seeds", "0", "--no-mlflow", "--jobs", "1"]
SWEEP = [*TINY, "train.max_skipped=3"]


@dataclass(frozen=True)
class Finished:
    folder: Path  # where the command was called
    out: str  # as it was typed
    said: subprocess.CompletedProcess[str]
    good: str  # the name of the cell that is done
    bad: str  # and of the one that diverged


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("call")
    out = "rüns with späces"
    said = subprocess.run(
        [str(BENCH), "run", *GRID, "--out", out, *SWEEP, "train.lr=1e-3,1e30"],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment(),
    )
    good, bad = (tiny_cell("ect", "train.max_skipped=3", f"train.lr={lr}").name for lr in ("1e-3", "1e30"))
    return Finished(folder, out, said, good, bad)


@pytest.fixture
def there(finished: Finished, call: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> Finished:
    """The finished cells, in the folder where the command was called."""
    monkeypatch.chdir(finished.folder)
    return finished


@pytest.mark.slow
def test_a_diverged_cell_is_a_result_that_shows_in_the_exit_status(finished: Finished) -> None:
    said = finished.said
    assert said.returncode == 1
    (line,) = said.stderr.splitlines()
    assert re.match(rf"{finished.bad}: diverged after \d,\d{{3}} images \(see .*log\.txt\)", line)
    lines = said.stdout.splitlines()
    assert lines[0].startswith("cells: 2, 0 done, 2 to run (1 at once")
    end = re.compile(rf"[\d:]{{8}} {re.escape(finished.good)} \(1 of 2[^)]*\) done")
    assert any(end.fullmatch(line) for line in lines)
    assert lines[-1] == f"leaderboard: {finished.out}/leaderboard.md"
    assert "\x1b" not in said.stdout  # no terminal, no colours
    text = (finished.folder / finished.out / "leaderboard.md").read_text(encoding="utf-8")
    assert "1 diverged" in text


@pytest.mark.slow
def test_running_it_again_says_that_it_is_done(there: Finished, call: Callable[..., Said]) -> None:
    before = tree(there.folder)
    said = call("run", *GRID, "--out", there.out, *SWEEP, "train.lr=1e-3")
    assert said.status == 0
    lines = said.out.splitlines()
    assert lines[0] == "the cell is done already"
    assert lines[2] == "toy2d, fd_points_500 at NFE 1"
    assert "rank" in lines[3]
    assert lines[-2:] == [f"page: {there.out}/report.html", f"leaderboard: {there.out}/leaderboard.md"]
    said = call("run", *GRID, "--out", there.out, *SWEEP, "train.lr=1e-3,1e30")
    assert said.status == 1
    assert said.out.splitlines()[0] == "all 2 cells are done already"
    assert there.bad in said.err
    assert tree(there.folder) == before


@pytest.mark.slow
def test_running_it_again_imports_nothing_heavy(finished: Finished) -> None:
    again = ["run", *GRID, "--out", finished.out, *SWEEP, "train.lr=1e-3"]
    assert modules_after(*again, cwd=finished.folder) == (0, set())
    assert modules_after("status", "--out", finished.out, cwd=finished.folder) == (1, set())
    assert modules_after("show", finished.good.split("-")[-1], "--out", finished.out, cwd=finished.folder) == (0, set())


@pytest.mark.slow
def test_a_dry_run_of_what_is_there_shows_states_and_writes_nothing(
    there: Finished, call: Callable[..., Said], tmp_path: Path
) -> None:
    before = tree(there.folder)
    said = call("run", *GRID, "--out", there.out, *SWEEP, "train.lr=1e-3,1e30,2e-3", "--dry-run")
    assert said.status == 0
    assert re.search(rf"{there.good} .* done ", said.out)
    assert re.search(rf"{there.bad} .* diverged ", said.out)
    assert re.search(r" new .* \d+ s", said.out)  # an estimate from the finished cell
    assert "estimated training time" in said.out
    assert tree(there.folder) == before
    copy = shutil.copytree(there.folder / there.out, tmp_path / "copy")
    (copy / there.good / "records.jsonl").unlink()
    said = call("run", *GRID, "--out", copy, *SWEEP, "train.lr=1e-3", "--dry-run")
    assert re.search(rf"{there.good} .* incomplete .* -", said.out)  # scored again, not trained again


@pytest.mark.slow
def test_status_and_show_read_the_files(there: Finished, call: Callable[..., Said]) -> None:
    said = call("status", "--out", there.out)
    assert said.status == 1
    assert re.search(rf"{there.good} +done +100%", said.out)
    assert re.search(rf"{there.bad} .*diverged", said.out)
    names = [there.good, there.good.split("-")[-1], f"{there.out}/{there.good}"]
    shown = [call("show", name, "--out", there.out) for name in names]
    assert {one.status for one in shown} == {0}
    assert len({one.out for one in shown}) == 1
    config, _, records = shown[0].out.partition("records:\n")
    assert yaml.safe_load(config)["state"] == "done"
    assert len(records.splitlines()) == 2 + 4  # eval.curve at the first snapshot, eval.nfe at the last
    assert "diverged" in call("show", there.bad, "--out", there.out).out


# States


@pytest.mark.parametrize("held", [False, True])
def test_a_cell_whose_process_is_gone_is_interrupted(held: bool, call: Callable[..., Said], tmp_path: Path) -> None:
    cell = tiny_cell("ect")
    folder = put(cell, tmp_path / "runs")
    write_json(folder / STATUS, {"state": "running", "phase": "train", "images": 640, "total": 2560, "loss": 0.5})
    lock = acquire(folder / "lock")
    assert lock is not None
    if not held:
        lock.release()
    expected = "train" if held else "interrupted"
    said = call("status", "--out", "runs")
    assert said.status == 1
    assert re.search(rf"{cell.name} +{expected} +25%", said.out)
    said = call("run", "--methods", "ect", "--seeds", "0", "--out", "runs", "--dry-run", *TINY)
    assert re.search(rf"{cell.name} .* {'running' if held else 'interrupted'} ", said.out)
    lock.release()


def test_status_tells_why_a_cell_failed_on_one_line(call: Callable[..., Said], tmp_path: Path) -> None:
    cell = tiny_cell("ect")
    error = "RuntimeError: " + "something [very] long " * 20
    write_json(put(cell, tmp_path) / STATUS, {"state": "failed", "images": 0, "total": 2560, "error": error})
    said = call("status", "--out", ".")
    assert said.status == 1
    assert f"{cell.name}: {error.strip()} (see {cell.name}/log.txt)" in said.out.splitlines()


def test_all_done_is_status_0(call: Callable[..., Said], tmp_path: Path) -> None:
    run_cell(put(tiny_cell("ect"), tmp_path))
    said = call("status", "--out", ".")
    assert said.status == 0
    assert "1 of 1 done" in said.out


def on_a_terminal(*arguments: str, cwd: Path, **extra: str) -> str:
    """What `bench` prints on a terminal of 100 columns."""
    ours, theirs = pty.openpty()
    environ = environment(TERM="xterm-256color", COLUMNS="100", **extra)
    with subprocess.Popen([str(BENCH), *arguments], stdout=theirs, stderr=theirs, stdin=theirs, cwd=cwd, env=environ):
        os.close(theirs)
        parts = []
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux's way of saying that the other side is closed
                break
            if not part:
                break
            parts.append(part)
    os.close(ours)
    return b"".join(parts).decode()


def test_colours_are_for_terminals_that_want_them(tmp_path: Path) -> None:
    write_json(put(tiny_cell("ect"), tmp_path) / STATUS, {"state": "done", "images": 2560, "total": 2560})
    colour = re.compile(r"\x1b\[[0-9;]*3[0-9]m")
    assert colour.search(on_a_terminal("status", "--out", ".", cwd=tmp_path))
    plain = on_a_terminal("status", "--out", ".", cwd=tmp_path, NO_COLOR="1")
    assert "done" in plain
    assert not colour.search(plain)


def test_watching_on_a_terminal_leaves_one_table(tmp_path: Path) -> None:
    write_json(put(tiny_cell("ect"), tmp_path) / STATUS, {"state": "done", "images": 2560, "total": 2560})
    shown = on_a_terminal("status", "--watch", "--out", ".", cwd=tmp_path)
    assert "1 of 1 done" in shown.rpartition("\x1b[?25h")[2]  # after the cursor is visible again


def test_a_reader_who_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    done = subprocess.run(
        f"'{BENCH}' list | head -n 1", shell=True, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (done.stdout, done.stderr) == ("methods:\n", "")


@pytest.mark.slow
def test_a_cell_that_fails_is_named_with_its_log_and_its_row_is_missing(bench: Bench, tmp_path: Path) -> None:
    cell = tiny_cell("ect")
    folder = put(cell, tmp_path / "runs")
    (folder / "snapshots").write_text("a file where a folder must be")
    said = bench("run", "--methods", "ect", "--seeds", "0", "--no-mlflow", "--out", "runs", *TINY)
    assert said.returncode == 1
    assert "Traceback" not in said.stdout + said.stderr
    assert re.search(rf"^{cell.name}: \w+: .* \(see runs/{cell.name}/log\.txt\)$", said.stderr, re.MULTILINE)
    assert "Traceback" in (folder / "log.txt").read_text()
    assert read_json(folder / STATUS)["state"] == "failed"
    assert not (folder / RECORDS).exists()
