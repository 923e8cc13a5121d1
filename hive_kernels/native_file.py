"""The file of a built CUDA library, read before it is loaded: is it whole, of today's sources, and for this GPU?

Loading half a file ends Python with SIGBUS. CMakeLists.txt and csrc/build_record.cpp write what is read here.
"""

import hashlib
import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
"""In a clone it has csrc/; in an installed package it doesn't, and there is nothing to compare a library with."""
BUILD = {
    "CUDA": "run make native in a clone, or HIVE_BUILD_CUDA=1 pip install ., where nvcc is",
    "CPU": "build the emulator by CMake with -DHIVE_EMULATED=ON, as docs/kernels.md says",
}
"""What to do about a library that isn't good, by the dispatch key that it is needed for."""

_RECORD = re.compile(rb'hive_kernels was built as (\{"key": [^}\0]*\})\0')
_ARCHITECTURE = re.compile(r"(\d+)(\d)([af]?)(-real|-virtual|)")


@dataclass(frozen=True)
class BuildRecord:
    """What a library was built from and for."""

    key: str
    """The dispatch key of its kernels: CUDA, or CPU for the emulator."""
    sources: str
    """A hash of what it was compiled from, as :func:`hash_sources` computes it."""
    architectures: str
    """GPU generations as CMake names them, separated by commas: 86 (machine code and PTX), 90-real, 120-virtual."""
    torch: str
    """The version of torch whose headers it was compiled with. It runs with others: it uses their stable ABI alone."""

    def has_machine_code(self, capability: tuple[int, int]) -> bool:
        """Whether a GPU of this compute capability can run it as it is."""
        return self._serves(capability, "-virtual")

    def has_ptx(self, capability: tuple[int, int]) -> bool:
        """Whether the driver can compile it for a GPU of this compute capability, when it is first used."""
        return self._serves(capability, "-real")

    def _serves(self, capability: tuple[int, int], other: str) -> bool:
        """Machine code runs on later GPUs of its major version; PTX, where ``other`` is -real, on all later ones."""
        for major, minor, suffix, kind in _ARCHITECTURE.findall(self.architectures):
            built = (int(major), int(minor))
            if kind == other or built > capability or (suffix == "a" and built != capability):
                continue
            if built[0] == capability[0] or (other == "-real" and not suffix):
                return True
        return False


def read(library: Path) -> BuildRecord:
    """The record in a library.

    Raises:
        ValueError: there is no such file, or it is no whole library of ours; says which.
    """
    try:
        content = library.read_bytes()
    except OSError as error:
        raise ValueError(f"{library} can't be read ({error.strerror})") from None
    if content[:6] != b"\x7fELF\2\1":
        raise ValueError(f"{library} is no library of 64-bit Linux")
    size = _size_by_headers(content)
    if size > len(content):
        raise ValueError(f"{library} is cut off or damaged: {len(content)} bytes of {size}")
    record = _RECORD.search(content)
    if record is None:
        raise ValueError(f"{library} is no library of ours, or of an older version")
    return BuildRecord(**json.loads(record[1]))


def _size_by_headers(content: bytes) -> int:
    """How many bytes an ELF file has at least by its headers: up to the end of its tables and of what is loaded."""
    if len(content) < 64:
        return 64
    programs, sections, _, _, program_size, program_count, section_size, section_count = struct.unpack_from(
        "<QQIHHHHH", content, 32
    )
    end = max(programs + program_size * program_count, sections + section_size * section_count)
    if end > len(content) or program_size < 56:
        return end
    for i in range(program_count):
        offset, _, _, in_file = struct.unpack_from("<QQQQ", content, programs + i * program_size + 8)
        end = max(end, offset + in_file)
    return end


def hash_sources(root: Path) -> str | None:
    """A hash of all that a library is compiled from, the same as CMakeLists.txt computes; None where no sources are."""
    if not (root / "csrc").is_dir():
        return None
    suffixes = (".cu", ".cuh", ".cpp", ".h")
    files = sorted(path.relative_to(root).as_posix() for path in (root / "csrc").rglob("*") if path.suffix in suffixes)
    listing = "".join(f"{_hash((root / file).read_bytes())} {file}\n" for file in ("CMakeLists.txt", *files))
    return _hash(listing.encode())


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def problem(library: Path, key: str, capability: tuple[int, int] | None, root: Path = ROOT) -> str | None:
    """Why this library must not be loaded; None if it may.

    Args:
        library: its file.
        key: the dispatch key that it needs kernels for.
        capability: the GPU's compute capability; None for the emulator.
        root: where csrc/ is, if it is.
    """
    try:
        record = read(library)
    except ValueError as error:
        return f"{error}; {BUILD[key]}"
    if record.key != key:
        return f"{library} has no {key} kernels but {record.key} kernels; {BUILD[key]}"
    if hash_sources(root) not in (None, record.sources):
        return f"{library} was built from other sources than {root / 'csrc'} has now; {BUILD[key]}"
    if capability and not (record.has_machine_code(capability) or record.has_ptx(capability)):
        name = "{}{}".format(*capability)
        return (
            f"{library} was built for {record.architectures}, and this GPU is {name}; run make native ARCHS={name} "
            f"in a clone, or HIVE_CUDA_ARCHITECTURES={name} HIVE_BUILD_CUDA=1 pip install ., where nvcc is"
        )
    return None


def reason_to_build(library: Path, capability: tuple[int, int], root: Path = ROOT) -> str | None:
    """Why this GPU needs the library built, or built again; None if it has machine code of today's sources for it."""
    if not library.exists():
        return "there is none"
    reason = problem(library, "CUDA", capability, root)
    if reason is None and not read(library).has_machine_code(capability):
        reason = "{} has no machine code for {}{}".format(library, *capability)
    return reason
