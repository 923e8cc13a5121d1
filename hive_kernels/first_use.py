"""Checks a backend's kernels once on each GPU of a process, before they are first launched there.

The check launches kernels, whose modules import this one, so it can't be imported here: the package sets it with
:func:`check_with`. HIVE_SKIP_SELFCHECK=1 or ``skip()`` turns it off.
"""

import os
import threading
from collections.abc import Callable

import torch

Check = Callable[[torch.device, str], object]
"""Raises an error where the backend's kernels are wrong on the device."""

_check: Check | None = None
_checked: set[tuple[torch.device, str]] = set()
_skipped = False
_lock = threading.RLock()


def check_with(check: Check) -> None:
    """Sets the check that :func:`ensure` runs."""
    global _check
    _check = check


def skip(on: bool = True) -> None:
    """Turns the check of first launches off, or with ``on=False`` on again."""
    global _skipped
    _skipped = on


def mark_checked(device: torch.device, backend: str) -> None:
    """Makes :func:`ensure` do nothing for this backend and device, which has an index, from now on."""
    _checked.add((device, backend))


def ensure(device: torch.device, backend: str) -> None:
    """Runs the backend's check unless it has begun for ``device`` in this process or is turned off.

    A forward pass comes first, so the check never starts in autograd's thread, which its own backward passes need. A
    check that failed runs again at the next launch. Raises what the check raises.
    """
    key = (device, backend)
    if key in _checked or _check is None or _skipped or os.environ.get("HIVE_SKIP_SELFCHECK") == "1":
        return
    with _lock:
        if key in _checked:
            return
        mark_checked(device, backend)  # before it runs, since its launches call this function too
        check, failures = _check, []

        def work() -> None:
            try:
                with torch.cuda.device(device):
                    check(device, backend)
            except BaseException as error:
                failures.append(error)

        # A new thread has neither the caller's autocast and grad mode nor its dispatch modes.
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if failures:
            _checked.discard(key)
            raise failures[0]
