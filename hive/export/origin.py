"""Which code wrote an export: versions of the libraries, and the commit where the engine runs from a git checkout."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import hive

PACKAGE = Path(hive.__file__).parent
CODE = ("hive", "hive_kernels")
SECONDS = 20  # git answers at once, or its folder lies on a network that does not answer


def versions() -> dict[str, str]:
    """The versions of the engine, Python and the libraries that compute, by name."""
    libraries = {name: version(name) for name in ("torch", "transformers")}
    return {"hive": hive.__version__, "python": platform.python_version(), **libraries}


def commit(package: Path = PACKAGE) -> str | None:
    """The git commit of the engine's code, followed by words where files were changed since; None without a checkout.

    A package that is installed in somebody else's checkout, as in a virtual environment there, is not tracked by it.
    """
    root = package.parent
    if _git(root, "ls-files", "--error-unmatch", f"{package.name}/__init__.py") is None:
        return None
    head, changes = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain", "--", *CODE)
    if head is None or changes is None:
        return None
    return f"{head} with uncommitted changes" if changes else head


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints in a folder; None where it fails or is not installed."""
    # A hook that runs this sets variables that would name its own repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], env=environment, capture_output=True, text=True, timeout=SECONDS
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
