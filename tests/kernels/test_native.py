"""The CUDA backend's library as a file: how it is built and installed, when it is loaded, why it is refused."""

import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hive_kernels import native, native_check, native_file, resolve
from tests.support.kernel_backends import ROOT, emulator


def built_for_a_gpu(library: Path, architectures: str) -> Path:
    """Writes what a build for a GPU leaves, as far as it is read: the emulator with another record."""
    record = b'"key": "CUDA", "sources": "%s", "architectures": "%s"' % (b"\\1", architectures.encode())
    pattern = rb'"key": "CPU", "sources": "(\w+)", "architectures": ""'
    content, found = re.subn(pattern, record, emulator().read_bytes())
    assert found == 1
    library.write_bytes(content)
    return library


def test_it_is_found_by_its_environment_variable():
    program = "import hive_kernels; print(hive_kernels.resolve('cuda', 'cpu'))"
    environment = os.environ | {"HIVE_CUDA_EMULATOR": str(emulator())}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "cuda"


def test_a_library_that_can_not_be_loaded(monkeypatch, tmp_path):
    """For a machine of another kind: that is byte 18 of its header."""
    broken, content = tmp_path / "broken.so", bytearray(emulator().read_bytes())
    content[18] ^= 0xFF
    broken.write_bytes(content)
    monkeypatch.setattr(native, "EMULATOR", broken)
    with pytest.raises(ValueError, match=r"'cuda', .*broken.so can't be loaded \(cannot .*\); build the emulator"):
        resolve("cuda", "cpu")


def test_a_damaged_library_never_ends_python(tmp_path):
    """Cut off, as by a full disk, loading it would end the process with SIGBUS."""
    command = [sys.executable, "-m", "tests.support.damaged_libraries", str(emulator()), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    whole, *damaged = done.stdout.splitlines()
    assert whole == "nothing: loaded"
    cut = [line for line in damaged if line.startswith("cut to ")]
    assert len(cut) > 15
    assert len(damaged) == len(cut) + 64
    assert all(
        re.search(r"so is (cut off or damaged|no library of 64-bit Linux).*; build the emulator", x) for x in cut
    )
    assert not [line for line in damaged if "killed" in line]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no library", "is no library of 64-bit Linux; build the emulator"),
        (b"\x7fELF\2\1\1", "is cut off or damaged: 7 bytes of 64; build the emulator"),
        (None, r"can't be read \(No such file or directory\); build the emulator"),
        (Path(torch.__file__).parent / "lib" / "libc10.so", "is no library of ours, or of an older version; build the"),
    ],
)
def test_a_file_that_is_something_else(monkeypatch, tmp_path, content, reason):
    library = content if isinstance(content, Path) else tmp_path / "library.so"
    if isinstance(content, bytes):
        library.write_bytes(content)
    monkeypatch.setattr(native, "EMULATOR", library)
    with pytest.raises(ValueError, match=f"{library.name} {reason}"):
        resolve("cuda", "cpu")


def test_a_library_for_another_kind_of_device(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "EMULATOR", built_for_a_gpu(tmp_path / "library.so", "86"))
    with pytest.raises(ValueError, match=r"library.so has no CPU kernels but CUDA kernels; build the emulator"):
        resolve("cuda", "cpu")
    monkeypatch.setattr(native, "EMULATOR", None)
    with pytest.raises(ValueError, match="on a CPU HIVE_CUDA_EMULATOR names"):
        resolve("cuda", "cpu")


def test_what_a_library_was_built_from():
    """CMake and Python agree on the sources."""
    record = native_file.read(emulator())
    version = torch.__version__.partition("+")[0]
    assert record == native_file.BuildRecord("CPU", native_file.hash_sources(ROOT) or "", "", version)


def copied_sources(folder: Path) -> Path:
    shutil.copytree(ROOT / "csrc", folder / "csrc")
    shutil.copy(ROOT / "CMakeLists.txt", folder)
    return folder


@pytest.mark.parametrize("change", ["csrc/packing.cuh", "CMakeLists.txt", "csrc/new.h", "csrc/emulator/block.h"])
def test_a_library_of_other_sources_is_refused(tmp_path, change):
    library, root = built_for_a_gpu(tmp_path / "library.so", "86"), copied_sources(tmp_path)
    assert native_file.problem(library, "CUDA", (8, 6), root) is None
    assert native_file.reason_to_build(library, (8, 6), root) is None
    (root / "csrc" / "notes.txt").write_text("is not compiled")
    assert native_file.problem(library, "CUDA", (8, 6), root) is None
    with (root / change).open("a") as file:
        file.write("\n")
    reason = native_file.problem(library, "CUDA", (8, 6), root)
    assert reason == f"{library} was built from other sources than {root / 'csrc'} has now; {native_file.BUILD['CUDA']}"
    assert native_file.reason_to_build(library, (8, 6), root) == reason
    shutil.rmtree(root / "csrc")  # as where the package is installed
    assert native_file.problem(library, "CUDA", (8, 6), root) is None


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_a_build_records_the_sources_of_its_day(tmp_path):
    """In a folder that is configured already."""
    root, build = copied_sources(tmp_path / "clone"), tmp_path / "build"
    torch_folder = Path(torch.__file__).parent
    options = ["-DHIVE_EMULATED=ON", f"-DHIVE_TORCH={torch_folder}", "-G", "Unix Makefiles"]
    subprocess.run(["cmake", "-S", root, "-B", build, *options], check=True, capture_output=True)
    hashes = []
    for change in ("csrc/types.h", "csrc/new.h", ""):
        command = ["make", "-C", build, "cmake_check_build_system", "csrc/build_record.o"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        (built,) = build.rglob("build_record.cpp.o")
        recorded = re.findall(rb'"sources": "(\w+)"', built.read_bytes())
        assert recorded == [str(native_file.hash_sources(root)).encode()]
        hashes += recorded
        if change:
            with (root / change).open("a") as file:
                file.write("// changed\n")
    assert len({*hashes}) == 3


@pytest.mark.parametrize(
    ("architectures", "capability", "machine_code", "ptx"),
    [
        ("86", (8, 6), True, True),
        ("86", (8, 9), True, True),
        ("86", (9, 0), False, True),
        ("86", (8, 0), False, False),
        ("86-real", (9, 0), False, False),
        ("86-real", (8, 6), True, False),
        ("86-virtual", (8, 6), False, True),
        ("80-real,90-real", (8, 6), True, False),
        ("80-real,90-virtual", (12, 0), False, True),
        ("80,86,89,90,120", (10, 0), False, True),
        ("80,86,89,90,120", (12, 1), True, True),
        ("90a", (9, 0), True, True),
        ("90a", (10, 0), False, False),
        ("100f", (10, 3), True, True),
        ("100f", (12, 0), False, False),
    ],
)
def test_which_gpus_a_library_is_for(tmp_path, architectures, capability, machine_code, ptx):
    """NVIDIA's rules: machine code within a major version, PTX on all later GPUs; 90a for 9.0 alone, 100f for 10.x."""
    library = built_for_a_gpu(tmp_path / "library.so", architectures)
    record = native_file.read(library)
    assert (record.has_machine_code(capability), record.has_ptx(capability)) == (machine_code, ptx)
    name = "".join(map(str, capability))
    assert native_file.problem(library, "CUDA", capability) == (
        None
        if machine_code or ptx
        else f"{library} was built for {architectures}, and this GPU is {name}; run make native ARCHS={name} in a "
        f"clone, or HIVE_CUDA_ARCHITECTURES={name} HIVE_BUILD_CUDA=1 pip install ., where nvcc is"
    )
    assert (native_file.reason_to_build(library, capability) is None) == machine_code


def test_why_a_library_has_to_be_built(tmp_path):
    library = tmp_path / "library.so"
    assert native_file.reason_to_build(library, (8, 6)) == "there is none"
    built_for_a_gpu(library, "86")
    assert native_file.reason_to_build(library, (9, 0)) == f"{library} has no machine code for 90"
    library.write_bytes(library.read_bytes()[:-100])
    assert "is cut off" in str(native_file.reason_to_build(library, (8, 6)))


def test_the_file_is_asked_for_once(monkeypatch, tmp_path):
    """Every call of an operation asks whether the backend is there."""
    library = tmp_path / "library.so"
    monkeypatch.setattr(native, "FILE", library)
    assert native.reason_unavailable("cuda") == f"not built; {native_file.BUILD['CUDA']}"
    library.write_text("a file by now")
    assert native.reason_unavailable("cuda") == f"not built; {native_file.BUILD['CUDA']}"


def test_installing_replaces_a_library_as_a_whole(tmp_path):
    """A process that runs the old one keeps it, and so does everybody where the copy ends half-way."""
    library = tmp_path / "hive_kernels" / "lib" / "libhive_kernels_emulated.so"
    library.parent.mkdir(parents=True)
    library.write_text("an older library")
    command = ["cmake", "--install", emulator().parent, "--prefix", tmp_path]
    limit = (resource.RLIMIT_FSIZE, (100_000, 100_000))  # as a disk that is full
    done = subprocess.run(command, capture_output=True, preexec_fn=lambda: resource.setrlimit(*limit))
    assert done.returncode != 0
    assert library.read_text() == "an older library"
    with library.open() as old:
        subprocess.run(command, check=True, capture_output=True)
        assert old.read() == "an older library"
    assert library.read_bytes() == emulator().read_bytes()
    assert [*library.parent.iterdir()] == [library]


def test_hive_build_cuda_is_a_yes_or_a_no():
    """As pip runs setup.py, up to the point where it would build."""
    pytest.importorskip("setuptools")
    program = """
import os, sys
from distutils.core import run_setup
for value in sys.argv[1:]:
    os.environ["HIVE_BUILD_CUDA"] = value
    print(bool(run_setup("setup.py", stop_after="init").ext_modules))
"""
    yes, no = ["1", "true", "YES", "on"], ["", "0", "false", "No", "off"]
    command = [sys.executable, "-W", "ignore", "-c", "import setuptools" + program]
    done = subprocess.run([*command, *yes, *no], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * len(yes) + ["False"] * len(no)
    environment = os.environ | {"HIVE_BUILD_CUDA": "maybe"}
    command = [sys.executable, "setup.py", "--version"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    said = "HIVE_BUILD_CUDA is 'maybe'; allowed: 1, true, yes or on, and 0, false, no, off or nothing."
    assert done.stderr.splitlines() == [said]


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
@pytest.mark.parametrize("library", ["emulator", "cuda"])
def test_only_the_stable_abi_is_used(library):
    """No symbol of torch's C++: those change with every release."""
    path = emulator() if library == "emulator" else native.FILE
    if not Path(path).exists():
        pytest.skip("run make native first")
    listing = subprocess.run(["nm", "-DC", "--undefined-only", path], capture_output=True, text=True, check=True).stdout
    assert "torch_library_impl" in listing
    assert not re.findall(r"^.*\b(?:at|c10|torch)::.*$", listing, re.MULTILINE)


def test_a_build_without_torch_says_so(tmp_path):
    command = ["cmake", "-S", ROOT, "-B", tmp_path / "build", "-DHIVE_EMULATED=ON", f"-DHIVE_TORCH={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "install torch 2.11 or later first, or give its folder by" in " ".join(done.stderr.split())


@pytest.mark.parametrize("generations", ["86,90", "75;86", "8.6", "sm_86"])
def test_a_build_for_generations_that_do_not_exist(tmp_path, generations):
    command = ["cmake", "-S", ROOT, "-B", tmp_path, "-DHIVE_EMULATED=ON", f"-DHIVE_CUDA_ARCHITECTURES={generations}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"HIVE_CUDA_ARCHITECTURES is {generations}; allowed: compute capabilities" in " ".join(done.stderr.split())


def test_the_check_of_machine_code_explains_itself(capsys):
    with pytest.raises(SystemExit) as stopped:
        native_check.main(["--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("usage: python -m hive_kernels.native_check [-h] [FILE]")


def test_what_the_machine_code_is_asked(monkeypatch, capsys, tmp_path):
    """As cuobjdump lists a library: one good kernel, one that spills, one without tensor cores."""
    kernel = "_ZN4hive54_GLOBAL__N__2165ee29_20_attention_forward_cu_79c3110d{}I6__halfLi64EEEvNS_9AttentionE"
    good, spills, scalar = (kernel.format(name) for name in ("11good_kernel", "10bad_kernel", "11slow_kernel"))
    usage = "arch = sm_86\n" + "".join(
        f" Function {name}:\n  REG:130 STACK:{stack} SHARED:0 LOCAL:0 CONSTANT[0]:496\n"
        for name, stack in ((good, 0), (spills, 8), (scalar, 0))
    )
    code = "\tcode for sm_86\n" + "".join(
        f"\t\tFunction : {name}\n /*0010*/ {instruction} R4 ;\n"
        for name, instruction in ((good, "HMMA.16816.F32"), (spills, "HMMA.16816.F32"), (scalar, "FFMA"))
    )
    listings = {"--dump-resource-usage": usage, "--dump-sass": code}
    monkeypatch.setattr(native_check, "cuobjdump", lambda option, library: listings[option])
    monkeypatch.setattr(native_check, "_demangle", lambda mangled: {good: "g", spills: "s", scalar: "attention_x"})
    library = tmp_path / "library.so"
    assert native_check.main([str(library)]) == 2
    built_for_a_gpu(library, "86")
    assert native_check.main([str(library)]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[-4:] == [
        "sm_86 attention_x: no tensor cores",
        "sm_86 s: spills 8 bytes",
        "3 kernels in library.so, 2 not good enough",
        f"built for 86 with the headers of torch {torch.__version__.partition('+')[0]}",
    ]
