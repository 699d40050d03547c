"""hiprtc's interface as a library of AMD's has it: the one in Debian's libamdhip64-5 (HIP 5.2), which
needs no GPU to compile for gfx90a. What it does not know ends its process, so it gets one of its own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels import programs
from tests.kernels.instructions import count_instructions
from tilec.runtime.clang import find_system_clang
from tilec.runtime.driver import lower

pytestmark = pytest.mark.hip
LIBRARY = "libamdhip64.so.5"
COMPILE = """
import sys
from pathlib import Path
from tilec.errors import CompilerFailed
from tilec.runtime.hiprtc import HiprtcCompiler
source, code = map(Path, sys.argv[2:])
compiler = HiprtcCompiler.load(sys.argv[1])
print(compiler.version, compiler.where)
try:
    binary = compiler.compile(source.read_text(), source.name, "gfx90a")
except CompilerFailed as refused:
    print(refused.code, refused.message)
else:
    code.write_bytes(binary.code)
"""


def compile_with_hiprtc(text: str, folder: Path) -> tuple[str, Path]:
    """What the library's process prints, and the code object that it leaves."""
    source, code = folder / "kernel.hip", folder / "kernel.co"
    source.write_text(text)
    command = (sys.executable, "-c", COMPILE, LIBRARY, str(source), str(code))
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return done.stdout, code


def test_a_gemm_becomes_a_code_object(tmp_path: Path) -> None:
    """The launch class without buffer resources, which clang 15 lacks: as many MFMA as in the IR."""
    lowered = lower(programs.gemm(), (), "hip:gfx90a", {})
    lowered.add_general()
    variant = lowered.variants[1]
    assert "buffer_load" not in variant.text
    printed, code = compile_with_hiprtc(variant.text, tmp_path)
    assert printed.split()[1:] == [LIBRARY]
    objdump = Path(find_system_clang().where).resolve().with_name("llvm-objdump")
    command = (str(objdump), "-d", "--no-show-raw-insn", str(code))
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "<matmul_kernel>:" in listing and "s_endpgm" in listing
    assert listing.count("v_mfma_f32_32x32x8") == count_instructions(variant.program)["mfma"] > 0


def test_a_mistake_comes_back_with_the_log(tmp_path: Path) -> None:
    printed, code = compile_with_hiprtc("int ok;\nint wrong = ;\n", tmp_path)
    assert "TLC0701" in printed and "refused kernel.hip" in printed
    assert ":2:13: error: expected expression" in printed  # the file's name there is the library's
    assert not code.exists()
