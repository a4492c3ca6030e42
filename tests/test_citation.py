"""CITATION.cff follows the Citation File Format 1.2.0 and agrees with pyproject.toml and the methods."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import jsonschema
import yaml

ROOT = Path(__file__).parents[1]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))

TEXT = {"type": "string", "minLength": 1}
PERSON = {"properties": {"family-names": TEXT, "given-names": TEXT}, "required": ["family-names"]}
AUTHORS = {
    "type": "array",
    "minItems": 1,
    "items": {"anyOf": [PERSON, {"properties": {"name": TEXT}, "required": ["name"]}]},
}
IDENTIFIER = {
    "type": "object",
    "properties": {"type": {"enum": ["doi", "url", "swh", "other"]}, "value": TEXT, "description": TEXT},
    "required": ["type", "value"],
    "additionalProperties": False,
}
REFERENCE = {
    "type": "object",
    "properties": {
        "type": {"enum": ["article", "conference-paper"]},
        "title": TEXT,
        "authors": AUTHORS,
        "year": {"type": "integer"},
        "identifiers": {"type": "array", "items": IDENTIFIER},
    },
    "required": ["type", "title", "authors"],
    "additionalProperties": False,
}
#: The part of the format's own schema that is used here. A key that it lacks is refused.
SCHEMA = {
    "type": "object",
    "properties": {
        "cff-version": {"const": "1.2.0"},
        "message": TEXT,
        "type": {"enum": ["software", "dataset"]},
        "title": TEXT,
        "abstract": TEXT,
        "version": TEXT,
        "license": TEXT,
        "authors": AUTHORS,
        "keywords": {"type": "array", "items": TEXT, "uniqueItems": True},
        "references": {"type": "array", "items": REFERENCE},
    },
    "required": ["cff-version", "message", "title", "authors"],
    "additionalProperties": False,
}


def test_it_is_a_citation_file() -> None:
    jsonschema.validate(CITATION, SCHEMA)


def test_it_agrees_with_the_package() -> None:
    from consistency_bench import __version__

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert CITATION["version"] == __version__
    assert CITATION["title"] == project["name"]
    assert CITATION["abstract"] == project["description"]
    assert (CITATION["license"], CITATION["keywords"]) == (project["license"], project["keywords"])
    assert CITATION["authors"] == project["authors"]


def test_it_names_the_paper_of_each_method() -> None:
    cited = {identifier["value"] for paper in CITATION["references"] for identifier in paper["identifiers"]}
    modules = [ROOT / "methods" / f"{name}.py" for name in ("ict", "ect", "sct", "vct", "edm")]
    stated = [re.findall(r"arXiv (\d{4}\.\d{5})", module.read_text(encoding="utf-8"))[0] for module in modules]
    assert cited == {f"arXiv:{number}" for number in stated}
