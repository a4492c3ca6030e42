"""Hooks of mkdocs: files of the repository that lie outside docs/ become part of the site.

README.md is the start page. Every file that a page links to is added to the site under its path in the repository, and
links between them are rewritten. They work on GitHub as they stand, and in the site without knowing its address.
"""

from __future__ import annotations

import os
import posixpath
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files as resources
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
#: What stands for a folder that is linked to.
FRONTS = ("README.md", "leaderboard.md")
#: The target of a link or an image, in Markdown and in HTML. Addresses and anchors of the page itself are left alone.
LINK = re.compile(r"""(?<=\]\()(?![a-z]+:)[^)#\s]+|(?<=src=")(?![a-z]+:)[^"]+""")
#: What a block of commands needs, by the word after its language. `tests/test_docs.py` does not run such a block.
NEEDS = {"gpu": "Needs a GPU", "cluster": "Needs SLURM", "data": "Needs data or weights", "server": "Needs a server"}
MARKED = re.compile(rf"^```bash ({'|'.join(NEEDS)})$", re.MULTILINE)
SCRIPT = "mathjax/tex-svg.js"
COMMANDS = "commands.md"


def in_site(path: str) -> str:
    """The place in the site's sources of a path relative to the repository."""
    return "index.md" if path == "README.md" else path.removeprefix("docs/")


def in_repository(uri: str) -> str:
    """The inverse of `in_site`."""
    if uri == "index.md":
        return "README.md"
    return f"docs/{uri}" if (ROOT / "docs" / uri).exists() else uri


def target(page: str, link: str) -> str:
    """The file that a link on a page leads to, both relative to the repository."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    fronts = [f"{path}/{name}" for name in FRONTS if (ROOT / path / name).is_file()]
    return fronts[0] if fronts else path


def on_startup(command: str, dirty: bool) -> None:
    """Lay out the package as it is installed, for the reference: its subpackages are folders of the repository.

    At startup, since the plug-in that writes the reference takes only folders that are there when it is configured.
    """
    package = ROOT / "build" / "site-sources" / "consistency_bench"
    package.mkdir(parents=True, exist_ok=True)
    sources = [*(ROOT / "benchmarks" / "package").glob("*.py")]
    sources += [ROOT / name for name in ("methods", "benchmarks", "reports", "slurm")]
    for source in sources:
        if not (package / source.name).exists():
            (package / source.name).symlink_to(os.path.relpath(source, package))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages at the top of the repository, and whatever a page links to outside docs/."""
    script = resources("mathjax").joinpath("static/mathjax/es5/tex-svg.js").read_bytes()
    files.append(File.generated(config, SCRIPT, content=script))
    files.append(File.generated(config, COMMANDS, content=commands()))
    waiting = [*PAGES, *(f"docs/{file.src_uri}" for file in files.documentation_pages())]
    seen: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in seen or not (ROOT / path).is_file():
            continue  # mkdocs names a link that leads nowhere
        seen.add(path)
        if files.get_file_from_path(in_site(path)) is None:
            added = File.generated(config, in_site(path), abs_src_path=str(ROOT / path))
            added.inclusion = InclusionLevel.NOT_IN_NAV  # it may be there and need not
            files.append(added)
        if path.endswith(".md"):
            text = (ROOT / path).read_text(encoding="utf-8")
            waiting += [target(path, link) for link in LINK.findall(text)]
    return files


def commands() -> str:
    """The reference of all commands, which typer writes from their help."""
    typer = (sys.executable, "-m", "typer", "consistency_bench.benchmarks.cli.main", "utils", "docs", "--name", "bench")
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    page = subprocess.run(typer, capture_output=True, text=True, check=True, env=environment).stdout
    return page.replace("# `bench`", "# Commands", 1)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links between files of the repository to links between files of the site, and markers to titles."""
    markdown = MARKED.sub(lambda match: f'```bash title="{NEEDS[match[1]]}"', markdown)
    return LINK.sub(rewrite(page.file.src_uri), markdown)


def rewrite(uri: str) -> Callable[[re.Match[str]], str]:
    source, folder = in_repository(uri), posixpath.dirname(uri)
    return lambda match: posixpath.relpath(in_site(target(source, match[0])), folder or ".")
