"""What clang makes of every shipped example for AMD's targets: the matrix instructions and wide accesses of
the IR, waits where our asm statements put them, no spills, registers that leave room for waves.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from functools import cache

import pytest

import tilec
from tests.backends.hip.cdna.decode import Code
from tests.backends.hip.cdna.device import kernels
from tests.examples.test_builds import EXAMPLES
from tests.kernels.instructions import count_instructions
from tests.kernels.test_vendor_compilers import AMD_ISA
from tests.modules import example, example_targets
from tilec.ir.core import walk
from tilec.ir.ops.amd import BufferCopyWait
from tilec.language.kernel import Kernel
from tilec.runtime.amd_isa import KernelIsa
from tilec.runtime.clang import Assembled, find_amd_clang
from tilec.runtime.compiled import CompiledKernel
from tilec.runtime.driver import lower

pytestmark = pytest.mark.hip
ARCHES = ("gfx90a", "gfx942", "gfx950")
# Waves a SIMD, at least, of kernels that hold less than eight: tiles of 64 KiB of shared memory and
# of many registers are what makes them fast. One wave cannot hide what it waits for, so that those
# with one are named.
OCCUPANCY = {
    "gemm": 1, "dequantize_gemm": 1, "gemm_transposes": 1, "flash_attention": 1, "split_k_gemm": 1,
    "stream_k": 1, "convolution": 1, "mx_gemm": 1, "gemm_dtypes": 2, "cupy_pipeline": 2,
    "layer_norm": 5, "rms_norm": 7, "reductions": 7, "transpose": 7,
}  # fmt: skip

# Arguments of those whose T.const asks for shapes.
ARGUMENTS = {
    "flash_attention": (tilec.spec((4, 32, 512, 128), "float16"),) * 4,
    "convolution": tuple(
        tilec.spec(shape, "float16") for shape in ((2, 30, 30, 64), (576, 96), (2, 30, 30, 96))
    ),
}


CASES = tuple(
    (arch, name)
    for arch, name in itertools.product(ARCHES, EXAMPLES)
    if f"hip:{arch}" in example_targets(name)
)


def example_kernels(arch: str, name: str) -> Iterator[CompiledKernel]:
    """Every kernel that an example's module defines, lowered."""
    for kernel in vars(example(name)).values():
        if isinstance(kernel, Kernel):
            yield lower(kernel, ARGUMENTS.get(name, ()), f"hip:{arch}", {})


@cache
def assemble(arch: str, name: str) -> list[tuple[CompiledKernel, Assembled]]:
    clang = find_amd_clang(arch)
    return [
        (k, clang.assemble(k.lowered.text, k.lowered.file_name, arch))
        for k in example_kernels(arch, name)
    ]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A target and an example. The tests of one follow each other, so that one process compiles it
    for all of them."""
    found: tuple[str, str] = request.param
    return found


def test_counts_are_those_of_the_program(case: tuple[str, str]) -> None:
    found = assemble(*case)
    assert found
    for compiled, assembled in found:
        expected = count_instructions(compiled.lowered.program)
        for mnemonic, op in AMD_ISA.items():
            count = sum(isa.count(mnemonic) for isa in assembled.kernels)
            assert count == expected[op], f"{compiled.lowered.file_name}: {mnemonic}"
        copies = sum(i.endswith(" lds") for isa in assembled.kernels for i in isa.instructions)
        assert copies == expected["buffer_copy"]


def test_resources(case: tuple[str, str]) -> None:
    """By the directives from which the hardware is set up, and by the metadata."""
    for compiled, assembled in assemble(*case):
        codes = kernels(assembled.assembly)
        for isa, launch in zip(assembled.kernels, compiled.launches, strict=True):
            directives = codes[isa.name].directives
            assert (isa.vgpr_spills, isa.sgpr_spills, isa.scratch) == (0, 0, 0)
            assert directives["private_segment_fixed_size"] == 0
            assert isa.count("scratch_") == isa.count("flat_") == 0
            assert directives["group_segment_fixed_size"] == isa.lds == 0
            assert launch.shared_bytes <= compiled.target.shared_bytes
            registers = directives["next_free_vgpr"]
            assert registers <= 512 and directives["accum_offset"] >= isa.vgprs
            assert registers == (
                directives["accum_offset"] + isa.agprs if isa.agprs else max(isa.vgprs, 1)
            )
            waves = isa.occupancy(launch.threads, launch.shared_bytes)
            assert waves >= OCCUPANCY.get(case[1], 8), f"{isa.name} has {waves} waves"


def statements(assembly: str, code: Code) -> Iterator[tuple[int, list[str]]]:
    """The asm statements of a kernel: index of the first instruction, and the instructions."""
    lines = assembly.splitlines()
    by_line = {instruction.line: i for i, instruction in enumerate(code.instructions)}
    last = code.instructions[-1].line
    for number in range(code.instructions[0].line, last):
        if lines[number - 1].strip() == ";;#ASMSTART":
            inside = range(
                number + 1, next(n for n in range(number, last) if "#ASMEND" in lines[n - 1])
            )
            yield by_line[inside[0]], [code.instructions[by_line[n]].text for n in inside]


def check_waits(isa: KernelIsa, assembly: str, code: Code) -> None:
    """Every barrier is our statement, whole; and clang adds no wait for loads before it, but where
    their results are used between. Where copies to LDS are waited for, the wait is ours."""
    found = list(statements(assembly, code))
    kinds = {"s_barrier": 0, "lds": 0}
    ours = set()
    for first, text in found:
        last = text[-1].split()
        if text == ["s_waitcnt lgkmcnt(0)", "s_barrier"]:
            kinds["s_barrier"] += 1
            before = code.instructions[first - 1]
            waits = before.mnemonic == "s_waitcnt" and "vmcnt" in before.modifiers
            assert not waits or first - 1 in ours, str(before)
        elif text == ["s_waitcnt vmcnt(0) lgkmcnt(0)", "s_barrier"]:  # between stores that may meet
            kinds["s_barrier"] += 1
        elif last[0] == "buffer_load_dwordx4" and last[-1] == "lds":
            assert [line.split()[0] for line in text[:-1]] == ["s_mov_b32", "s_nop"]
            kinds["lds"] += 1
        else:
            assert len(text) == 1 and text[0].startswith("s_waitcnt vmcnt("), text
            ours.add(first)
    assert kinds["s_barrier"] == isa.counts["s_barrier"]
    assert kinds["lds"] == sum(line.endswith(" lds") for line in isa.instructions)
    assert bool(ours) == bool(kinds["lds"])
    for instruction in code.instructions:
        if instruction.mnemonic == "s_waitcnt":
            assert set(instruction.modifiers) <= {"vmcnt", "lgkmcnt"}, str(instruction)
            assert int(instruction.modifiers.get("vmcnt", 0)) < 63


def test_waits_stand_where_we_put_them(case: tuple[str, str]) -> None:
    for _, assembled in assemble(*case):
        codes = kernels(assembled.assembly)
        for isa in assembled.kernels:
            check_waits(isa, assembled.assembly, codes[isa.name])


LETTERS = {
    "v_mfma": "M", "ds_read_b128": "R", "ds_write_b128": "W", "buffer_load_dwordx4": "L", "s_cbranch": "?",
    "s_barrier": "|", "s_setprio 1": "(", "s_setprio 0": ")",
}  # fmt: skip


def letters(code: Code) -> str:
    """The instructions of interest, a letter each, in their order."""
    found = (
        next((x for start, x in LETTERS.items() if i.text.startswith(start)), "")
        for i in code.instructions
    )
    return "".join(found)


@pytest.mark.parametrize(
    ("arch", "order"),
    [
        ("gfx90a", r"R{6}((MR){6}M{10}){3}M{16}"), ("gfx942", r"R{6}((MR){6}M{10}){3}M{16}"),
        ("gfx950", r"R{6}((MR){6}M{2}){3}M{8}"),
    ],
)  # fmt: skip
def test_reads_are_issued_between_matrix_instructions(arch: str, order: str) -> None:
    """Those of the next step of k among the products of this one, in the loop of the GEMM; the same
    text gives the same bytes."""
    ((compiled, assembled),) = assemble(arch, "gemm")
    lowered = compiled.lowered
    again = find_amd_clang(arch).assemble(lowered.text, lowered.file_name, arch)
    assert again.assembly == assembled.assembly
    (code,) = kernels(assembled.assembly).values()
    found = letters(code).replace("L", "") if arch == "gfx950" else letters(code)
    assert re.search(rf"\({order}\)", found), found


@pytest.mark.parametrize("arch", ["gfx90a", "gfx942"])
def test_loads_are_issued_between_matrix_instructions(arch: str) -> None:
    """Those of a later tile into registers, behind the reads of the next step: in the first half of the
    steps, since the next turn stores them. No branch in the loop."""
    constants = {"block_M": 128, "block_N": 128, "block_K": 64}
    lowered = lower(example("gemm").matmul, (), f"hip:{arch}", constants).lowered
    assembled = find_amd_clang(arch).assemble(lowered.text, lowered.file_name, arch)
    (isa,), (code,) = assembled.kernels, kernels(assembled.assembly).values()
    check_waits(isa, assembled.assembly, code)
    assert (isa.vgpr_spills, isa.sgpr_spills, isa.scratch) == (0, 0, 0)
    form = r"\|W{8}\(R{4}((MR){4}(ML){4}){2}(MR){4}M{4}M{8}\)"
    assert len(re.findall(form, letters(code))) == 1, letters(code)


def test_copies_are_started_between_matrix_instructions() -> None:
    """On gfx950 those of a later tile: an equal share in each step of k but the first."""
    ((_, assembled),) = assemble("gfx950", "gemm")
    (code,) = kernels(assembled.assembly).values()
    texts = [x.text for x in code.instructions]
    inside = texts[texts.index("s_setprio 1") : texts.index("s_setprio 0")]
    matrix = [i for i, text in enumerate(inside) if text.startswith("v_mfma")]
    copies = [i for i, text in enumerate(inside) if text.endswith(" lds")]
    assert (len(matrix), len(copies)) == (32, 12)
    before = [sum(place < i for place in matrix) for i in copies]
    assert min(before) > 4 and max(before) < 32 and len(set(before)) >= 6
    assert max(before.count(n) for n in before) <= 3


@pytest.mark.parametrize("name", ["gemm", "gemm_dtypes", "flash_attention", "split_k_gemm"])
def test_copies_to_lds_are_waited_for_as_planned(name: str) -> None:
    """The waits are those of the program, and the only ones for vector memory in a loop that copies."""
    checked = 0
    for compiled, assembled in assemble("gfx950", name):
        program = compiled.lowered.program
        planned = [op.pending for op in walk(program.body) if isinstance(op, BufferCopyWait)]
        if not planned:
            continue
        (code,) = kernels(assembled.assembly).values()
        found = [text for _, text in statements(assembled.assembly, code) if "vmcnt" in text[0]]
        assert found == [[f"s_waitcnt vmcnt({pending})"] for pending in planned]
        names = [x.text for x in code.instructions]
        first = next(i for i, text in enumerate(names) if text.endswith(" lds"))
        last = max(i for i, x in enumerate(names) if x.startswith("v_mfma") or x.endswith(" lds"))
        waits = [text for text in names[first:last] if "vmcnt" in text]
        assert waits and set(waits) <= {text for (text,) in found}
        checked += 1
    assert checked


@pytest.mark.parametrize("name", ["gemm", "gemm_dtypes", "dequantize_gemm"])
def test_loads_of_the_next_tile_fly_across_the_matrix_instructions(name: str) -> None:
    """In the loop, nothing between the last load and the last matrix instruction waits for all
    loads: they are waited for where they are stored, and never with vmcnt(0) before a barrier."""
    checked = 0
    for _, assembled in assemble("gfx942", name):
        for code in kernels(assembled.assembly).values():
            matrix = [i for i, x in enumerate(code.instructions) if x.mnemonic.startswith("v_mfma")]
            if not matrix:
                continue
            loads = [
                i
                for i, x in enumerate(code.instructions)
                if x.mnemonic == "buffer_load_dwordx4" and i < matrix[-1]
            ]
            between = code.instructions[max(loads) : matrix[-1]]
            waits = [int(x.modifiers["vmcnt"]) for x in between if "vmcnt" in x.modifiers]
            assert 0 not in waits, waits
            checked += 1
    assert checked
