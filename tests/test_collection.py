"""Tests that need a GPU and benchmarks are imported and collected on every machine, so that they can't rot unseen."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def marked(path: Path) -> set[str]:
    """The test functions of the file that are marked for a GPU, themselves or one of their parameters."""
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        if any("pytest.mark.gpu" in ast.unparse(decorator) for decorator in node.decorator_list)
    }


def collect(path: Path, session: pytest.Session) -> list[pytest.Function]:
    """The file's tests; a file that is skipped as a whole fails."""
    try:
        items = list(pytest.Module.from_parent(session, path=path).collect())
    except pytest.skip.Exception as skipped:
        pytest.fail(f"{path} is skipped as a whole: {skipped}")
    return [item for item in items if isinstance(item, pytest.Function)]


GPU_TESTS = {path: names for path in sorted((ROOT / "tests").rglob("test_*.py")) if (names := marked(path))}


@pytest.mark.parametrize("path", GPU_TESTS, ids=lambda path: path.stem)
def test_gpu_tests_are_collected(path: Path, request: pytest.FixtureRequest) -> None:
    collected = {item.originalname for item in collect(path, request.session) if item.get_closest_marker("gpu")}
    assert collected >= GPU_TESTS[path]


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("test_*.py")), ids=lambda path: path.stem)
def test_benchmarks_are_collected(path: Path, request: pytest.FixtureRequest) -> None:
    assert collect(path, request.session)


def test_a_skipped_file_is_not_collected(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    file = tmp_path / "test_hidden_behind_an_import.py"
    file.write_text("import pytest\npytest.importorskip('not_installed')\n@pytest.mark.gpu\ndef test_it(): ...\n")
    assert marked(file) == {"test_it"}
    with pytest.raises(pytest.fail.Exception, match="skipped as a whole"):
        collect(file, request.session)
