"""Checks a backend's kernels once on each GPU of a process, before they are first launched there.

The check launches kernels itself, so this module can't import it: the package hands it over with :func:`check_with`.
HIVE_SKIP_SELFCHECK=1 or ``skip()`` leaves it out.
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
    """Sets what :func:`ensure` runs."""
    global _check
    _check = check


def skip(on: bool = True) -> None:
    """Sets whether first launches from now on go without the check."""
    global _skipped
    _skipped = on


def mark_checked(device: torch.device, backend: str) -> None:
    """From now on :func:`ensure` does nothing for this device, which has its index, and this backend."""
    _checked.add((device, backend))


def ensure(device: torch.device, backend: str) -> None:
    """Runs the backend's check unless this process has done so for ``device``, is doing so, or was told not to.

    Forward passes come first, so it never starts in autograd's thread, which its own backward passes need. A check that
    failed runs again at the next launch. Raises what the check raises.
    """
    key = (device, backend)
    if key in _checked or _check is None or _skipped or os.environ.get("HIVE_SKIP_SELFCHECK") == "1":
        return
    with _lock:
        if key in _checked:
            return
        mark_checked(device, backend)  # first, since the check's own launches come through here
        check, failures = _check, []

        def work() -> None:
            try:
                with torch.cuda.device(device):
                    check(device, backend)
            except BaseException as error:
                failures.append(error)

        # In a thread of its own neither the caller's autocast and grad mode nor a dispatch mode takes part.
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if failures:
            _checked.discard(key)
            raise failures[0]
