"""What a project that others join owes them: a changelog that keeps up, workflows that can do no more than they must, a light pack."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_the_changelog_tells_of_this_version_and_of_what_is_not_released():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", text, re.MULTILINE)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert sections[0] == ("Unreleased", "") and sections[1][0] == version
    assert all(date for _, date in sections[1:]) and len(re.findall("^## ", text, re.MULTILINE)) == len(sections)
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_may_read_only_and_run_pinned_actions(path):
    text = path.read_text(encoding="utf-8")
    assert re.search(r"^permissions:\n  contents: read\n\n", text, re.MULTILINE) and "write" not in text
    for action in re.findall(r"uses: (\S+)", text):
        assert action.startswith("./") or re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", action), action
    assert text.count("actions/checkout@") == text.count("persist-credentials: false")


def test_workflows_test_where_readme_says_it_runs():
    text = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    for system in ("ubuntu", "windows", "macos"):
        assert f"{system}-latest" in text
    versions = re.search(r"python: \[(.+)\]", text)[1].replace('"', "").split(", ")
    assert versions == ["3.10", "3.11", "3.12", "3.13"] and "Python 3.10 to 3.13" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_what_only_developers_need_is_not_published():
    ignored = (ROOT / ".comfyignore").read_text().split()
    assert {".ci/", ".github/", ".comfyignore", ".editorconfig", ".gitignore", ".pre-commit-config.yaml", "CONTRIBUTING.md", "tests/",
            "bench/"} <= set(ignored)
    assert not {"README.md", "LICENSE", "NOTICE", "CHANGELOG.md", "requirements.txt", "pyproject.toml"} & set(ignored)
