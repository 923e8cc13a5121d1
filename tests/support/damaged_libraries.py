"""``python -m tests.support.damaged_libraries LIBRARY FOLDER``: loads the emulator cut off, and with a changed header.

Prints a line for each damage, the way in which a process ended that asked for the backend: ``loaded``, ``refused`` and
the reason, or ``killed`` and the signal. Each has a copy in FOLDER and a process of its own.
"""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from hive_kernels import native


def damages(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """What is done to the library, and its bytes after it."""
    for length in (0, 1, 63, 64, 500, *range(4096, len(whole), len(whole) // 12), len(whole) - 1):
        yield f"cut to {length} of {len(whole)}", whole[:length]
    for byte in range(64):  # the ELF header
        yield f"byte {byte} changed", bytes([*whole[:byte], whole[byte] ^ 0x81, *whole[byte + 1 :]])


def outcome(library: Path) -> str:
    """How a process ends that asks for the backend with this library."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        native.EMULATOR = library
        reason = native.reason_unavailable("cpu")
        os.write(write, b"loaded" if reason is None else f"refused: {reason}".encode())
        os._exit(0)
    os.close(write)
    said = b"".join(iter(lambda: os.read(read, 4096), b"")).decode()
    os.close(read)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return said if code == 0 else f"killed: {signal.Signals(-code).name if code < 0 else code}"


def main() -> None:
    """Tries all damages."""
    whole, folder = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2])
    for number, (damage, content) in enumerate([("nothing", whole), *damages(whole)]):
        library = folder / f"{number}.so"
        library.write_bytes(content)
        print(f"{damage}: {outcome(library)}")
        library.unlink()


if __name__ == "__main__":
    main()
