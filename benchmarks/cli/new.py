"""`bench new`: commented skeletons of a method, a benchmark or a study, which run as they are written."""

from __future__ import annotations

import ast
import keyword
from pathlib import Path
from typing import Annotated

import typer

from ...methods.parts.messages import quoted
from ..common.errors import UsageError
from ..common.files import write_text
from ..common.text import plain

LONGEST_NAME = 60
SKELETONS = Path(__file__).parent / "skeletons"

app = typer.Typer(name="new", help="Write a commented skeleton of a method, benchmark or study.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name: letters, digits and underscores.")]
Folder = Annotated[Path, typer.Option("--folder", metavar="PATH", help="Folder of the plug-in.")]


@app.command()
def method(name: Name, folder: Folder = Path("plugin")) -> int:
    """Write a method with a coupling of its own: methods/NAME.py and method/NAME.yaml."""
    _check_free(name, "method", "methods")
    _write(name, {"method.py": folder / f"methods/{name}.py", "method.yaml": folder / f"method/{name}.yaml"})
    print(f"try it:  bench run --include {folder} --methods ect,{name} preset=smoke")
    print(f"test it: bench check {folder}")
    return 0


@app.command()
def benchmark(name: Name, folder: Folder = Path("plugin")) -> int:
    """Write a benchmark with a data set of its own: benchmark/NAME.yaml and data/NAME.py."""
    _check_free(name, "benchmark", "data")
    _write(name, {"data.py": folder / f"data/{name}.py", "benchmark.yaml": folder / f"benchmark/{name}.yaml"})
    print(f"try it:  bench run --include {folder} --methods ect,vct benchmark={name} preset=smoke")
    print(f"test it: bench check {folder}")
    return 0


@app.command()
def study(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name; the file is NAME.yaml.")],
    folder: Annotated[Path, typer.Option("--folder", metavar="PATH", help="Folder of the file.")] = Path(),
) -> int:
    """Write a study: a question, and the cells that answer it."""
    from ..config.study import check_name

    check_name(name)
    file = folder / f"{name}.yaml"
    _write(name, {"study.yaml": file})
    print(f"run it:  bench run {file}")
    return 0


def _check_free(name: str, group: str, modules: str) -> None:
    """Raise UsageError for a name that cannot be one of a plug-in, or that is shipped."""
    from ..config.plugins import NAME, shipped

    if not NAME.fullmatch(name) or keyword.iskeyword(name) or len(name) > LONGEST_NAME:
        wanted = f"up to {LONGEST_NAME} letters, digits and underscores, beginning with a letter"
        raise UsageError(f"name is {quoted(name)}, must be {wanted}")
    for what in (f"{group}/{name}", f"{modules}/{name}"):
        if path := shipped(what):
            raise UsageError(f"name is {quoted(name)}, which is shipped ({path}); choose another")


def _write(name: str, files: dict[str, Path]) -> None:
    """Write skeletons to their files. Raises UsageError if a file exists, or if the name is a word of a skeleton."""
    texts = {skeleton: (SKELETONS / f"{skeleton}.txt").read_text(encoding="utf-8") for skeleton in files}
    for skeleton, path in files.items():
        if path.exists() or path.is_symlink():
            raise UsageError(f"{path} exists already; choose another name, or another --folder")
        if skeleton.endswith(".py") and name in _names(texts[skeleton]):
            raise UsageError(f"name is {quoted(name)}, a word of the skeleton itself; choose another")
    for path in files.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    for skeleton, path in files.items():
        write_text(path, texts[skeleton].replace("NAME", name))
        print(f"written: {plain(str(path))}")


def _names(source: str) -> set[str]:
    """The names that a module uses."""
    nodes = list(ast.walk(ast.parse(source)))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names}
    return imported | {node.id for node in nodes if isinstance(node, ast.Name)}
