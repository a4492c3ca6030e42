"""The MLflow store that cells are imported into: how it is reached, searched, and named in messages."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ...benchmarks.common.files import owner_mark

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

#: What one request may hold. Metrics, parameters and tags of one request together may be as many as metrics alone.
BATCH, METRICS = 100, 1000
LONGEST_VALUE = 5000  # of a parameter or tag, below the limit of every MLflow store
PAGE = 1000

Item = TypeVar("Item")


def default_uri(out: Path) -> str:
    """An sqlite file in the output folder (MLflow no longer accepts a plain folder)."""
    return f"sqlite:///{(out.resolve() / 'mlflow.db').as_posix()}"


def files_beside(uri: str, out: Path) -> Path | None:
    """The folder for files where `uri` is a database: beside an sqlite file, else in `out`. None for a server.

    MLflow's own choice for a database would be a folder below the one that the command happens to run in.
    """
    if uri.startswith(("http", "databricks")):
        return None
    file = uri.removeprefix("sqlite:///").partition("?")[0]
    folder = Path(file).resolve().parent if uri.startswith("sqlite:///") else out.resolve()
    return folder / "mlartifacts"


def open_store(uri: str) -> MlflowClient:
    """A client for tracking and for the registry of models. Nothing is asked of the store yet."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Else minutes pass before a wrong address or a server that does not answer shows.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Else two lines for each run of a server, with the address as it was given: user, password and all.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def make_store(path: Path) -> None:
    """An empty MLflow store at `path`, made beside it and put in its place whole.

    MLflow makes its tables one by one, and a file in which it was killed meanwhile is of no use to it for ever after.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".mlflow-{owner_mark()}", suffix=".tmp")
    os.close(handle)
    try:
        open_store(f"sqlite:///{Path(name).resolve()}").search_experiments()
        with contextlib.suppress(FileExistsError):  # another report was faster: its store stays
            os.link(name, path)
    finally:
        Path(name).unlink()


def search(client: MlflowClient, experiment: str, condition: str) -> Iterator[Run]:
    """All runs of an experiment that meet `condition`, newest first."""
    token = None
    while True:
        page = client.search_runs([experiment], condition, max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """`items` in order, `size` at a time."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
