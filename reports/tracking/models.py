"""Puts a packed cell into MLflow's registry of models: files with the cell's run, a version that points to them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .store import open_store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

PACKAGE = "consistency-bench"


@dataclass(frozen=True)
class Registered:
    """A version in the registry. new: False where the same weights were registered under that name already."""

    name: str
    version: int
    new: bool

    @property
    def uri(self) -> str:
        """What `mlflow.pyfunc.load_model` takes."""
        return f"models:/{self.name}/{self.version}"


def register(
    uri: str, run: str, cell: str, folder: Path, name: str, *, loader: str, columns: Sequence[str]
) -> Registered:
    """Register what `folder` holds as a version of model `name`, from a cell's run.

    loader: the module whose `_load_pyfunc` takes such a folder. columns: whole numbers that it is asked by.

    Repeating it adds nothing. Errors of the store are MLflow's own.
    """
    client = open_store(uri)
    digest = _digest(folder)
    held = _held(client, name, cell, digest)
    if held is not None:
        return Registered(name, int(held.version), new=False)
    place = f"model-{digest[:12]}"
    with tempfile.TemporaryDirectory() as temporary:
        _save(folder, Path(temporary) / place, loader, columns)
        client.log_artifacts(run, str(Path(temporary) / place), place)
    _make_name(client, name)
    source = f"{client.get_run(run).info.artifact_uri}/{place}"
    tags = {"bench.cell": cell, "bench.weights": digest}
    version = client.create_model_version(name, source, run, tags=tags)
    return Registered(name, int(version.version), new=True)


def _held(client: MlflowClient, name: str, cell: str, digest: str) -> ModelVersion | None:
    """The version of this name that was made of the same files of the same cell."""
    wanted, token = {"bench.cell": cell, "bench.weights": digest}.items(), None
    quoted = name.replace("'", "''")
    while True:
        page = client.search_model_versions(f"name = '{quoted}'", page_token=token)
        for version in page:
            if wanted <= version.tags.items() and version.status == "READY":
                return version
        token = page.token
        if not token:
            return None


def _make_name(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _save(folder: Path, target: Path, loader: str, columns: Sequence[str]) -> None:
    """As a pyfunc model of data and a loader that this package brings: no pickles, no code in the files."""
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*input example", category=UserWarning)  # the signature says it all
        mlflow.pyfunc.save_model(
            path=str(target),
            loader_module=loader,
            data_path=str(folder),
            signature=ModelSignature(inputs=Schema([ColSpec(DataType.long, column) for column in columns])),
            pip_requirements=[f"{PACKAGE}=={importlib.metadata.version(PACKAGE)}"],
        )


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()
