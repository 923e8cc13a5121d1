"""Every attribute of an object is there once the object is made: none appears as a side effect of another method."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("hive", "hive_kernels", "benchmarks")


def late(source: str) -> Iterator[tuple[str, str]]:
    """(class, attribute) for each `self.attribute = ...` outside `__init__` that neither it nor a field declares."""
    for kind in ast.walk(ast.parse(source)):
        if not isinstance(kind, ast.ClassDef):
            continue
        fields = {f.target.id for f in kind.body if isinstance(f, ast.AnnAssign) and isinstance(f.target, ast.Name)}
        methods = [method for method in kind.body if isinstance(method, ast.FunctionDef)]
        stored = {method.name: set(_stored(method)) for method in methods}
        early = fields | stored.get("__init__", set())
        for name in sorted(set().union(*stored.values()) - early if stored else ()):
            yield kind.name, name


def _stored(method: ast.FunctionDef) -> Iterator[str]:
    for node in ast.walk(method):
        is_stored = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        if is_stored and isinstance(node.value, ast.Name) and node.value.id == "self":  # type: ignore[attr-defined]
            yield node.attr  # type: ignore[attr-defined]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_attribute_appears_later(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {kind}.{name}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for kind, name in late(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(["set all attributes in __init__:", *found])


def test_a_late_attribute_is_found() -> None:
    source = "class A:\n    b: int\n    def __init__(self):\n        self.c = 1\n    def f(self):\n        self.b = self.c = self.d = 2\n"  # noqa: E501
    assert list(late(source)) == [("A", "d")]
