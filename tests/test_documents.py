"""What a reader is pointed to exists: links, pages, make's targets."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks" / "README.md"])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(document):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8"))

    assert [target for target in targets if "://" not in target and not (document.parent / target).exists()] == []


def test_the_index_has_every_page():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")

    assert [page.name for page in ROOT.glob("docs/*.md") if f"({page.name})" not in index] == ["index.md"]


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_make_help_names_every_target():
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    printed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert targets is not None
    assert re.findall(r"^make ([\w-]+) +\S", printed, re.MULTILINE) == targets[1].split()
