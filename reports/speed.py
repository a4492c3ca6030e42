"""How long a report of many cells takes, how much memory, and how soon its page is there: the measurements alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from .synthetic import Size, write_cells

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 120.0  # seconds for a browser
LOOKS = 0.05  # seconds between looks at the memory

#: Runs in a process of its own, so that its memory is that of a report and of nothing else.
_REPORT = (
    "import pathlib, sys; from {module} import build_report; build_report(pathlib.Path(sys.argv[1]), mlflow={mlflow})"
)
#: The page stands in a frame of another, whose title says when it was loaded: `--dump-dom` prints no frames.
_FRAME = """<!DOCTYPE html><title>-</title><script>const began = performance.now();</script>
<iframe src="{page}" width="1400" height="900" onload="document.title = performance.now() - began"></iframe>
"""


@dataclass(frozen=True)
class Build:
    """One `bench report`, from the start of its process to its end.

    seconds: of the clock; cpu: of all its processes. peak: the most memory that one of them held, in bytes. page: of
    `report.html`, in bytes.
    """

    seconds: float
    cpu: float
    peak: int
    page: int


def make_cells(out: Path, size: Size) -> float:
    """Write the cells below `out`; the seconds it took."""
    began = time.perf_counter()
    write_cells(out, size)
    return time.perf_counter() - began


def build(out: Path, *, mlflow: bool) -> Build:
    """Build the report of `out` in a process of its own; mlflow: with the import of its cells.

    Raises subprocess.CalledProcessError where that fails.
    """
    command = _command(out, mlflow)
    began = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    unit = 1 if sys.platform == "darwin" else 1024
    page = (out / "report.html").stat().st_size
    return Build(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit, page)


def memory_together(out: Path, *, mlflow: bool) -> int | None:
    """Build the report of `out` once more; the most memory, in bytes, that its processes held together.

    What they share counts once. Looking slows them down, so this measures no time. None where the system does not tell.
    Raises subprocess.CalledProcessError where the report fails.
    """
    command = _command(out, mlflow)
    found = []
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            found.append(sum(map(_proportional, (process.pid, *_children(process.pid)))))
            time.sleep(LOOKS)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return max(found, default=0) or None


def _command(out: Path, mlflow: bool) -> list[str]:
    return [sys.executable, "-c", _REPORT.format(module=f"{__package__}.build", mlflow=mlflow), str(out)]


def _children(process: int) -> list[int]:
    """Of its first thread, which is the one that forks."""
    try:
        return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:  # it is gone, or this is no Linux
        return []


def _proportional(process: int) -> int:
    """Bytes of its own, and its share of those that it has together with others; 0 of a process that is gone."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0
    found = re.search(r"^Pss: +(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def browser() -> str | None:
    """The path of a Chromium, None where there is none."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def load_seconds(page: Path, program: str) -> float:
    """From the first byte asked for to the load event: parsing, the page's script, layout at 1400 × 900.

    Raises RuntimeError where the browser does not say.
    """
    with tempfile.TemporaryDirectory() as folder:
        frame = Path(folder) / "frame.html"
        frame.write_text(_FRAME.format(page=page.absolute().as_uri()), encoding="utf-8")
        root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # root has no sandbox
        options = ["--headless", "--disable-gpu", *root, f"--user-data-dir={folder}/profile", "--dump-dom"]
        said = subprocess.run(
            [program, *options, frame.as_uri()], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    found = re.search(r"<title>([\d.]+)</title>", said.stdout)
    if found is None:
        raise RuntimeError(f"{program} has not opened the page: {said.stderr.strip()[-200:] or 'it says nothing'}")
    return float(found[1]) / 1000
