"""Plug-ins: folders of the user's own methods, benchmarks, presets, data sets and metrics.

A plug-in is named on the command line (`--include`), in the environment, or by an entry point of an installed package.
Its modules are imported then, and only then: a plug-in that a stored file names is never imported. docs/plugins.md
describes its files.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import keyword
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from ...methods.parts.messages import quoted
from ..common.errors import UsageError
from ..common.files import read_yaml
from ..data import registry as data_sets
from ..metrics import registry as metrics
from .schema import PluginConfig, RunConfig

VARIABLE = "CONSISTENCY_BENCH_INCLUDE"
ENTRY_POINTS = ("consistency_bench.methods", "consistency_bench.benchmarks", "consistency_bench.metrics")
SHIPPED = Path(__file__).parent

#: Folders of yaml files, and of modules, below that of a plug-in.
YAML, MODULES = ("method", "benchmark", "preset"), ("methods", "data", "metrics")
LAYOUT = "methods/*.py, method/*.yaml, benchmark/*.yaml, data/*.py, preset/*.yaml, metrics/*.py"
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
YAML_NAME = {
    "method": re.compile(rf"{NAME.pattern}(\+(vc|ot|gc))?"),
    "preset": re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*"),
}

Cached = TypeVar("Cached", bound=Callable[..., Any])


@dataclass(frozen=True)
class Plugin:
    """A plug-in whose modules are imported.

    sha256: of its sources. files: yaml files and modules by "method/NAME", "methods/NAME" and so on.
    builders, parts, sources, extractors: what its modules define, see `_definitions`.
    """

    folder: Path
    sha256: str
    files: Mapping[str, Path]
    builders: Mapping[str, Callable[..., Any]]
    parts: Mapping[str, Mapping[str, type]]
    sources: Mapping[str, Callable[..., Any]]
    extractors: Mapping[str, Callable[..., Any]]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def provides(self) -> frozenset[str]:
        """What a cell can use of it: "method/NAME", "coupling/NAME", "data/NAME", …"""
        parts = (f"{section}/{kind}" for section, kinds in self.parts.items() for kind in kinds)
        return frozenset([*self.files, *parts])


_active: tuple[Plugin, ...] = ()
_refused: dict[str, str] = {}  # folder -> why it could not be included
_caches: list[Any] = []


def cached(function: Cached) -> Cached:
    """`lru_cache` for what depends on the included plug-ins."""
    wrapped = lru_cache(maxsize=256)(function)
    _caches.append(wrapped)
    return wrapped  # type: ignore[return-value]


def active() -> tuple[Plugin, ...]:
    """The plug-ins that are included in this process."""
    return _active


def included() -> tuple[str, ...]:
    """Their folders, for processes and jobs that go on with the same cells."""
    return tuple(str(plugin.folder) for plugin in _active)


def named_in_environment() -> list[str]:
    """The folders in the variable CONSISTENCY_BENCH_INCLUDE."""
    return [path for path in os.environ.get(VARIABLE, "").split(os.pathsep) if path]


def include(*folders: str | Path) -> None:
    """Include the plug-ins in these folders as well; their modules are imported.

    Raises:
        UsageError: A folder is no plug-in, a module cannot be imported, a name is already taken.
    """
    activate([*included(), *folders])


def activate(
    paths: Iterable[str | Path], installed: bool = False, note: Callable[[str], None] = lambda _: None
) -> None:
    """Include the plug-ins in these folders, and no others.

    installed: also those that entry points name. note: called with a sentence for each of these that is left out
    because it cannot be included.

    Raises UsageError, one sentence with file and line, for a folder that is no plug-in, for a module that cannot be
    imported, and for a name that is already taken. The plug-ins included before then stay.
    """
    global _active
    found: list[Plugin] = []
    for path in paths:
        _add(found, _folder(path))
    if installed:
        for name, locate in _installed():
            try:
                _add(found, locate())
            except UsageError as error:
                note(f"the plug-in of entry point {name} is left out: {error}")
    if [(plugin.folder, plugin.sha256) for plugin in found] != [(plugin.folder, plugin.sha256) for plugin in _active]:
        _register(found)
        _active = tuple(found)
        for function in _caches:
            function.cache_clear()


def _add(found: list[Plugin], folder: Path) -> None:
    if any(folder.resolve() == plugin.folder.resolve() for plugin in found):
        return
    try:
        plugin = _loaded(folder)
    except UsageError as error:
        _refused[str(folder)] = str(error)
        raise
    for what in sorted(plugin.provides):
        others = {f"{_place(other, what)} of the plug-in {other.name}" for other in found if what in other.provides}
        if path := shipped(what):
            others = {f"{path}, which is shipped"}
        for other in others:
            raise UsageError(f"{_place(plugin, what)}: the name is that of {other}; choose another")
    found.append(plugin)


def _place(plugin: Plugin, what: str) -> str:
    """The file that provides it; for a part, the folder of modules."""
    return str(plugin.files.get(what, f"{plugin.folder / 'methods'} ({what})"))


def shipped(what: str) -> str | None:
    """The shipped file or module of "method/NAME", "coupling/NAME", …; None if there is none."""
    group, _, name = what.partition("/")
    if group in YAML:
        path = SHIPPED / group / f"{name}.yaml"
        return str(path) if path.is_file() else None
    return _taken(group).get(name)


def _taken(group: str) -> dict[str, str]:
    """The shipped names of a group, with their places."""
    top = SHIPPED.parents[1]
    if group == "methods":
        folder = top / "methods"
        return {path.stem: str(path) for path in folder.glob("*.py")}
    if group == "data":
        return dict.fromkeys(data_sets.NAMES, str(SHIPPED.parent / "data" / "registry.py"))
    if group == "metrics":
        return dict.fromkeys(
            [*metrics.SHIPPED_EXTRACTORS, "inception"], str(SHIPPED.parent / "metrics" / "registry.py")
        )
    from ...methods.registry import SHIPPED_PARTS

    return dict.fromkeys(SHIPPED_PARTS.get(group, ()), str(top / "methods" / "registry.py"))


def _folder(path: str | Path) -> Path:
    """The folder that a user names. Raises UsageError where there is none."""
    folder = Path(os.path.abspath(os.path.expanduser(path)))
    if not str(path) or "\0" in str(path) or not folder.exists():
        raise UsageError(f"--include {quoted(str(path))}: there is no such folder")
    if not folder.is_dir():
        raise UsageError(f"--include {path} is a file, must be a folder with {LAYOUT}")
    if odd := sorted({"$", "\\", os.pathsep, "\n"} & set(str(folder))):
        raise UsageError(f"--include {quoted(str(folder))}: the path holds {odd[0]!r}; rename the folder")
    return folder


def _installed() -> Iterator[tuple[str, Callable[[], Path]]]:
    """The entry points of installed packages, each with what finds its folder."""
    seen = set()
    for group in ENTRY_POINTS:
        for point in entry_points(group=group):
            if point.value not in seen:
                seen.add(point.value)
                yield f"{point.name!r} ({point.value})", lambda module=point.module: _package(module)


def _package(module: str) -> Path:
    """The folder of a package. A package itself is not imported for that; raises UsageError where it is none."""
    try:
        spec = importlib.util.find_spec(module)
    except Exception as error:  # of a package around it, which is imported
        raise UsageError(f"{type(error).__name__}: {error}") from None
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"{module} is no package, must be one with {LAYOUT}")
    return Path(next(iter(spec.submodule_search_locations)))


def _loaded(folder: Path) -> Plugin:
    """The plug-in in a folder. Raises UsageError."""
    files = _files(folder)
    sources = sorted([*files.values(), *folder.glob("*.py"), *(p for m in MODULES for p in folder.glob(f"{m}/_*.py"))])
    digest = hashlib.sha256()
    for path in sources:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode() + content)
    for plugin in _active:
        if (plugin.folder, plugin.sha256) == (folder, digest.hexdigest()):
            return plugin
    for what, path in files.items():
        _check_yaml(path, *what.split("/", 1))
    modules = _imported(folder, {what: path for what, path in files.items() if what.split("/")[0] in MODULES}, sources)
    return Plugin(folder, digest.hexdigest(), files, *_definitions(folder, files, modules))


def _files(folder: Path) -> dict[str, Path]:
    """The yaml files and modules of a plug-in, by "method/NAME", … Raises UsageError for names that cannot be."""
    files = {}
    for group in (*YAML, *MODULES):
        ending = ".yaml" if group in YAML else ".py"
        for path in sorted((folder / group).glob("*.y*ml" if group in YAML else "*.py")):
            is_helper = group in MODULES and path.stem.startswith("_")
            if is_helper or not path.is_file():
                continue
            pattern = YAML_NAME.get(group, NAME)
            if path.suffix != ending or not pattern.fullmatch(path.stem) or keyword.iskeyword(path.stem):
                wanted = "letters, digits and underscores, beginning with a letter"
                more = {"method": ", then perhaps +vc, +ot or +gc"}.get(group, "")
                raise UsageError(f"{path}: the name must be {wanted}{more}, and end in {ending}")
            files[f"{group}/{path.stem}"] = path
    if not files:
        raise UsageError(f"{folder} is no plug-in: it holds none of {LAYOUT}")
    return files


def _check_yaml(path: Path, group: str, name: str) -> None:
    """Raise UsageError for a yaml file that hydra would put in another place, or that carries another name."""
    if group not in YAML:
        return
    content = read_yaml(path)
    header = re.match(r"(\s*(#.*)?\n)*?# *@package +_global_ *\n", path.read_text(encoding="utf-8"))
    if header is None:
        raise UsageError(f"{path}: line 1: must be # @package _global_")
    if not isinstance(content, dict):
        raise UsageError(f"{path}: it holds no settings: write sections such as {group}: and train:")
    section = content.get(group) if group != "preset" else {"name": name, "version": 1}
    if not isinstance(section, dict) or section.get("name") != name or type(section.get("version")) is not int:
        raise UsageError(f"{path}: it must hold {group}: {{name: {name}, version: 1}}, as the file is called")


def _imported(folder: Path, wanted: Mapping[str, Path], sources: Sequence[Path]) -> dict[str, ModuleType]:
    """The modules of a plug-in, as those of a package of its own. Raises UsageError where one cannot be imported."""
    package = f"consistency_bench_plugin_{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
    for name in [name for name in sys.modules if f"{name}.".startswith(f"{package}.")]:
        del sys.modules[name]
    importlib.invalidate_caches()
    top = ModuleType(package)
    top.__path__ = [str(folder)]
    sys.modules[package] = top
    modules = {}
    for what, path in wanted.items():
        with blamed([folder], path):
            modules[what] = importlib.import_module(f"{package}.{what.replace('/', '.')}")
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.startswith(f"{package}.") and file and Path(file) not in sources:
            where = ", ".join(f"{group}/" for group in MODULES)
            raise UsageError(f"{file} is imported but outside of {where} and the top of {folder}: move it there")
    return modules


@contextlib.contextmanager
def blamed(folders: Sequence[Path], path: Path | None = None) -> Iterator[None]:
    """Turn an error of code in these folders into a UsageError of one sentence with file and line.

    path: the file to name where no line of the folders is involved; without, such an error is raised as it is.
    """
    try:
        yield
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        place = _line_of(error, folders) or path
        if place is None:
            raise
        reason = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
        raise UsageError(f"{place}: {type(error).__name__}{f': {reason}' if reason else ''}") from error


def _line_of(error: BaseException, folders: Sequence[Path]) -> str | None:
    """`FILE:LINE`, of the innermost line in these folders that an error went through."""
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        places.append((error.filename, error.lineno))
    own = [place for place in places if any(Path(place[0]).is_relative_to(folder) for folder in folders)]
    return f"{own[-1][0]}:{own[-1][1]}" if own else None


def _definitions(
    folder: Path, files: Mapping[str, Path], modules: Mapping[str, ModuleType]
) -> tuple[dict[str, Any], dict[str, dict[str, type]], dict[str, Any], dict[str, Any]]:
    """Builders of methods, parts by section and kind, data sets and extractors.

    `methods/NAME.py` defines the function NAME, or `KINDS`: {section: {kind: class}}, or both. `data/NAME.py` and
    `metrics/NAME.py` define the function NAME. Raises UsageError where they do not.
    """
    functions: dict[str, dict[str, Any]] = {group: {} for group in MODULES}
    parts: dict[str, dict[str, type]] = {}
    for what, module in modules.items():
        group, _, name = what.partition("/")
        function, kinds = getattr(module, name, None), getattr(module, "KINDS", None) if group == "methods" else None
        if kinds is not None:
            _check_kinds(files[what], kinds)
            for section, own in kinds.items():
                parts.setdefault(section, {}).update(own)
        if callable(function):
            functions[group][name] = function
        elif kinds is None or f"method/{name}" in files:
            raise UsageError(f"{files[what]}: the function {name} is missing{_signature(group, name)}")
    for what, path in files.items():
        group, _, name = what.partition("/")
        base, _, suffix = name.partition("+")
        if group == "method" and base not in functions["methods"] and not (suffix and base in _taken("methods")):
            raise UsageError(f"{path}: the method's function is missing: {folder}/methods/{base}.py must define {base}")
        if group == "methods" and name in functions["methods"] and f"method/{name}" not in files:
            raise UsageError(f"{path}: the settings of the method are missing: write {folder}/method/{name}.yaml")
    return functions["methods"], parts, functions["data"], functions["metrics"]


def _signature(group: str, name: str) -> str:
    wanted = {"methods": "(parts, context) -> Method", "data": "(options) -> Source", "metrics": "(images) -> Tensor"}
    return f": write def {name}{wanted[group]}"


def _check_kinds(path: Path, kinds: object) -> None:
    """Raise UsageError unless it is {section: {kind: class}} with classes that can be such parts."""
    from ...methods.registry import PROTOCOLS, lacking

    shape = isinstance(kinds, dict) and all(isinstance(own, dict) for own in kinds.values())
    if not isinstance(kinds, dict) or not shape:
        raise UsageError(f"{path}: KINDS must be of the form {{'coupling': {{'mine': Mine}}}}")
    for section, own in kinds.items():
        if section not in PROTOCOLS:
            raise UsageError(f"{path}: KINDS has {quoted(section)}, must be one of: {', '.join(PROTOCOLS)}")
        for kind, part in own.items():
            if not isinstance(kind, str) or not NAME.fullmatch(kind):
                raise UsageError(f"{path}: KINDS has {section} {quoted(kind)}, must be a name such as mine")
            if missing := lacking(part, section):
                raise UsageError(f"{path}: {getattr(part, '__name__', part)} cannot be a {section}: it {missing}")


def _register(plugins: Sequence[Plugin]) -> None:
    """Enter what the plug-ins define into the tables of names, in place of what was there of plug-ins before."""
    data_sets.OWN.clear()
    for plugin in plugins:
        data_sets.OWN.update(plugin.sources)
    metrics.admit(name for plugin in plugins for name in plugin.extractors)
    if "torch" in sys.modules or any(plugin.builders or plugin.parts or plugin.extractors for plugin in plugins):
        from ...methods import registry as methods
        from ..metrics.extractors import registry as extractors

        methods.extend([plugin.builders for plugin in plugins], [plugin.parts for plugin in plugins])
        extractors.extend({name: (f, p.sha256[:16]) for p in plugins for name, f in p.extractors.items()})


def yaml_files(group: str) -> dict[str, Path]:
    """The files of a group, shipped and of plug-ins, by name: "benchmark", "method" or "preset"."""
    folder = SHIPPED / group
    files = {path.relative_to(folder).as_posix().removesuffix(".yaml"): path for path in folder.rglob("*.yaml")}
    for plugin in _active:
        own = {what.partition("/")[2]: path for what, path in plugin.files.items() if what.startswith(f"{group}/")}
        files |= own
    return dict(sorted(files.items()))


def owner(path: Path) -> Plugin | None:
    """The plug-in that a yaml file is of; None for a shipped one."""
    return next((plugin for plugin in _active if path in plugin.files.values()), None)


def used_by(config: RunConfig) -> tuple[PluginConfig, ...]:
    """What a configuration uses of the included plug-ins. Presets do not count: their values are in it."""
    method, sampler = config.method, config.sample.options.get("kind", "multistep")
    base = method.name.partition("+")[0]
    wanted = [
        f"method/{method.name}",
        f"method/{base}",
        f"benchmark/{config.benchmark.name}",
        f"data/{config.data.name}",
    ]
    wanted += [f"{section}/{part.get('kind')}" for section, part in method.parts.items()]
    wanted += [f"network/{config.network.get('kind')}", f"sample/{sampler}"]
    wanted += [f"metrics/{metrics.parse(name).extractor}" for name in config.eval.metrics if _active]
    found = []
    for plugin in _active:
        if uses := tuple(what for what in dict.fromkeys(wanted) if what in plugin.provides):
            found.append(PluginConfig(folder=str(plugin.folder), sha256=plugin.sha256, uses=uses))
    return tuple(found)


def require(config: RunConfig) -> None:
    """Raise UsageError, one sentence, if the cell uses a plug-in that is not included or has changed."""
    require_included(config)
    for used in config.plugins:
        same = [plugin for plugin in _active if plugin.sha256 == used.sha256]
        if used.trains and not same:
            now = next(plugin.sha256 for plugin in _active if {*used.uses} <= plugin.provides)
            raise UsageError(
                f"{_using(config, used)}, which has changed since (sources {used.sha256[:8]}, now {now[:8]}): restore "
                "it, or train with the new sources by `bench run`, which makes another cell"
            )


def require_included(config: RunConfig) -> None:
    """The same for a plug-in that is not included."""
    for used in config.plugins:
        if not any({*used.uses} <= plugin.provides for plugin in _active):
            if used.folder in _refused:  # it was named, but in vain
                raise UsageError(_refused[used.folder])
            raise UsageError(f"{_using(config, used)}, which is not included: add --include {used.folder}")


def _using(config: RunConfig, used: PluginConfig) -> str:
    name = f"{config.cell.benchmark}/{config.cell.method}/s{config.cell.seed}-{config.cell.id}"
    return f"cell {name} uses {', '.join(used.uses)} of the plug-in {Path(used.folder).name}"
