"""Metadata of the package: one version, extras that errors name, and addresses."""

import configparser
import importlib.metadata
import re

import pytest
from _support import REPOSITORY

import snnjax

SETUP = configparser.ConfigParser()
SETUP.read(REPOSITORY / "setup.cfg")
EXTRAS = SETUP["options.extras_require"]


def text_of(name):
    return (REPOSITORY / name).read_text()


def test_the_version_is_in_one_place_and_others_agree():
    assert SETUP["metadata"]["version"] == "attr: snnjax.__version__"
    assert "version" not in text_of("pyproject.toml").split("[tool.")[0]
    assert text_of("CHANGELOG.md").split("\n## ")[1].split()[0] == snnjax.__version__
    assert re.findall(r"^version: (.*)$", text_of("CITATION.cff"), re.MULTILINE) == [
        snnjax.__version__
    ]
    assert f"snnjax-{snnjax.__version__}-py3-none-any.whl" in text_of("README.md")


def test_every_extra_that_an_error_or_page_names_exists():
    files = [*(REPOSITORY / "snnjax").rglob("*.py"), *(REPOSITORY / "docs").rglob("*.md")]
    files.append(REPOSITORY / "README.md")
    named = {
        extra
        for file in files
        for group in re.findall(r"pip install '?(?:snnjax|\.)\[([\w,]+)\]", file.read_text())
        for extra in group.split(",")
    }
    named |= {
        extra
        for file in (REPOSITORY / "snnjax").rglob("*.py")
        for extra in re.findall(r"_extras\.package\(\s*[^,]+, \"(\w+)\"", file.read_text())
    }
    assert named <= set(EXTRAS)
    assert set(EXTRAS) - {"dev", "docs"} <= named  # each is explained somewhere


def test_a_missing_package_names_its_extra():
    from snnjax import _extras

    with pytest.raises(
        ImportError, match=r"a reader needs the package no_such: pip install 'snnjax\[nir\]'"
    ):
        _extras.package("no_such.module", "nir", "a reader")


def test_requirements_are_installed_in_the_versions_that_they_ask_for():
    names = re.findall(r"^([\w-]+)[>=]", SETUP["options"]["install_requires"], re.MULTILINE)
    assert {"jax", "flax", "optax", "numpy", "chex", "tensorflow-datasets"} <= set(names)
    assert all(importlib.metadata.version(name) for name in names)


def test_addresses_of_the_repository_are_said_to_be_unpublished():
    """Remove this test, and the sentences, when the repository is published."""
    assert "is not published yet" in text_of("README.md")
    assert "is not published yet" in text_of("docs/index.md")
    assert "not published yet" in text_of("setup.cfg")


def test_the_public_workflow_runs_targets_that_exist():
    workflow, makefile = text_of(".github/workflows/test.yml"), text_of("Makefile")
    targets = re.findall(r"run: make (\w+)", workflow)
    assert targets == ["test", "more", "lint", "docs"]
    assert all(f"\n{target}:" in makefile for target in targets)
    versions = re.findall(r"Python :: (3\.\d+)$", SETUP["metadata"]["classifiers"], re.MULTILINE)
    (matrix,) = re.findall(r"python: \[(.*)\]", workflow)
    assert re.findall(r"3\.\d+", matrix) == versions
