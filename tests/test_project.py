"""The files around the code agree: what is locked, which Pythons there are, the version."""

import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.repository import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def locked(name):
    """The locked version of each package, of the newest Python where there are two; each has its hashes."""
    text = (ROOT / name).read_text()
    assert "://" not in text, "no place that packages come from"
    for entry in re.split(r"\n(?=[a-zA-Z])", text.partition("\n#")[2].split("\n", 1)[1]):
        assert re.fullmatch(r"\S+==\S+( ; .*?)? \\\n(    --hash=sha256:\w{64}( \\)?\n?)+", entry), entry
    return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE))


@pytest.mark.parametrize(("name", "extras"), [("requirements.txt", ["test"]), ("requirements-extras.txt", EXTRAS)])
def test_what_is_locked_is_what_the_project_asks_for(name, extras):
    versions = locked(name)
    asked = [Requirement(text) for text in [*PROJECT["dependencies"], *(text for e in extras for text in EXTRAS[e])]]
    for requirement in asked:
        if requirement.name != PROJECT["name"]:  # which names other extras
            version = versions[canonicalize_name(requirement.name)]
            assert version in requirement.specifier, f"{requirement}, {version} locked: make lock"


def test_the_supported_pythons_are_the_same_everywhere():
    low, high = map(int, re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups())
    makefile = (ROOT / "Makefile").read_text()
    assert f"(3, {low}) <= sys.version_info < (3, {high})" in makefile
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "check.yml").read_text())
    pythons = workflow["jobs"]["everything"]["strategy"]["matrix"]["python"]
    assert pythons == [f"3.{minor}" for minor in range(low, high)]
    words = f"{', '.join(pythons[:-1])} or {pythons[-1]}"
    for text in (makefile, (ROOT / "README.md").read_text(), (ROOT / "CONTRIBUTING.md").read_text()):
        assert f"Python {words}" in text


def test_a_citation_names_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
