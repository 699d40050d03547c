"""Faults seeded into programs by editing their text, each with the code that must refuse it.

The programs in faults/ are the GEMM and the dequantising GEMM of examples/ for three machines, as
the pipeline left them once, and two written by hand. They stay as they are when the pipeline
changes, so that the edits keep their meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "faults"


@dataclass(frozen=True)
class Edit:
    """Occurrence `nth` of `old` (None: all) becomes `new`; there must be `of` of them."""

    old: str
    new: str
    of: int = 1
    nth: int | None = 0

    def apply(self, text: str) -> str:
        pieces = text.split(self.old)
        assert len(pieces) == self.of + 1, f"{len(pieces) - 1} of {self.old!r}"
        if self.nth is None:
            return self.new.join(pieces)
        before, after = pieces[: self.nth + 1], pieces[self.nth + 1 :]
        return self.old.join(before) + self.new + self.old.join(after)


@dataclass(frozen=True)
class Fault:
    """A program with edits. `codes`: what may be found first, by the trip counts in their order."""

    name: str
    base: str
    codes: str
    edits: tuple[Edit, ...]

    @property
    def text(self) -> str:
        text = (FOLDER / f"{self.base}.tir").read_text(encoding="utf-8")
        for edit in self.edits:
            text = edit.apply(text)
        return text


def _fault(name: str, base: str, codes: str, *edits: Edit) -> Fault:
    return Fault(name, base, codes, edits)


E = Edit
_WAIT_FULL = "            mbarrier_wait %full, %slot_1, %20\n"
_WAIT_EMPTY = "            mbarrier_wait %empty, %slot_2, %73\n"
_MEET = "        barrier <barrier = 1, threads = 256>\n"
_SLAB_WAIT = "          bulk_commit\n          bulk_wait <pending = 1, read>\n"

PLANNED = (
    _fault(
        "too few slots for the lead",
        "plan_sm_80",
        "TLC0352",
        E("channel<3>", "channel<2>", 4, None),
    ),
    _fault(
        "registers that nobody gives",
        "plan_sm_90a",
        "TLC0357",
        E("registers = 232", "registers = 240"),
    ),
    _fault("a lead too many", "plan_sm_80", "TLC0352", E("lead = 2", "lead = 3")),
    _fault("get without free", "plan_sm_80", "TLC0350", E("        free %B_s\n", "")),
    _fault("put without commit", "plan_sm_80", "TLC0350", E("        commit %A_s\n", "")),
    _fault(
        "commit twice",
        "plan_sm_80",
        "TLC0350",
        E("        commit %A_s\n", "        commit %A_s\n" * 2),
    ),
    _fault(
        "used after its free",
        "plan_sm_80",
        "TLC0352",
        E("        free %A_s\n", ""),
        E("        %acc_4 = gemm", "        free %A_s\n        %acc_4 = gemm"),
    ),
    _fault(
        "a stage that runs ahead uses the accumulator",
        "plan_sm_80",
        "TLC0350",
        E('label = "mma"', 'label = "mma", lead = 1'),
    ),
    _fault(
        "shared memory of two stages with different leads",
        "plan_sm_80",
        "TLC0352",
        E(
            "    %acc = splat",
            "    %x = alloc <type = shared f16[8]> : shared f16[8]\n    %acc = splat",
        ),
        E("        commit %A_s\n", "        commit %A_s\n        fill %x, 0.0:f16\n"),
        E(
            "        free %A_s\n",
            "        free %A_s\n        %y = "
            "load_tile %x[0] <shape = [8], dims = [0]> : tile f16[8]\n",
        ),
    ),
    _fault("a receive before its send", "plan_gfx942", "TLC0351", E("lead = 2", "lead = 1")),
    _fault("registers sent twice", "plan_gfx942", "TLC0352", E("lead = 2", "lead = 3")),
    _fault(
        "too few slots for deposits",
        "plan_gfx942",
        "TLC0352",
        E("channel<2> shared", "channel<1> shared", 4, None),
    ),
    _fault("a get before its put", "plan_dequantize_sm_80", "TLC0351", E("lead = 2", "lead = 0")),
    _fault(
        "freed while a gemm reads it",
        "plan_sm_90a",
        "TLC0352",
        E("<defer = 1>", "<defer = 0>", 2, None),
    ),
    _fault(
        "a wait that leaves one too many",
        "plan_sm_90a",
        "TLC0352",
        E("<pending = 1>", "<pending = 2>"),
    ),
    _fault(
        "one slot and a deferral", "plan_sm_90a", "TLC0357", E("channel<3>", "channel<1>", 4, None)
    ),
    _fault(
        "a role with more iterations",
        "plan_sm_90a",
        "TLC0350",
        E("add %K, 63", "add %K, 127", 2, 1),
    ),
    _fault(
        "a role with fewer iterations", "plan_sm_90a", "TLC0357", E("add %K, 63", "add %K, 0", 2, 1)
    ),
    _fault(
        "shared memory of two roles",
        "plan_sm_90a",
        "TLC0350",
        E(
            '    role <label = "consumer"',
            '    %x = alloc <type = shared f16[8]> : shared f16[8]\n    role <label = "consumer"',
        ),
        E(
            "              free %A_s <defer = 1>\n",
            "              free %A_s <defer = 1>\n"
            "              %y = load_tile %x[0] <shape = [8], dims = [0]> : tile f16[8]\n",
        ),
        E("            commit %A_s\n", "            commit %A_s\n            fill %x, 0.0:f16\n"),
    ),
)

LOWERED = (
    _fault(
        "registers of one resident block for two",
        "lowered_sm_90a",
        "TLC0357",
        E("resident = 1", "resident = 2"),
    ),
    # One role, cp.async
    _fault("no barrier after the wait", "lowered_sm_80", "TLC0353", E("      barrier\n", "")),
    _fault("no wait", "lowered_sm_80", "TLC0351", E("      cp_async_wait <pending = 1>\n", "")),
    _fault("a wait too loose", "lowered_sm_80", "TLC0351", E("<pending = 1>", "<pending = 2>")),
    _fault("a group not closed", "lowered_sm_80", "TLC0351", E("    cp_async_commit\n", "", 3, 1)),
    _fault(
        "slots one too few",
        "lowered_sm_80",
        "TLC0351 TLC0352",
        E(", 3 : i32", ", 2 : i32", 4, None),
    ),
    _fault(
        "a slot too many", "lowered_sm_80", "TLC0358", E("floormod %k, 3", "floormod %k, 4", 2, 0)
    ),
    _fault(
        "another slot than was filled",
        "lowered_sm_80",
        "TLC0351",
        E("floormod %k, 3", "floormod %14, 3", 2, 0),
    ),
    _fault(
        "a barrier for half the threads",
        "lowered_sm_80",
        "TLC0356",
        E(
            "      barrier\n",
            '      %t = thread_id : i32\n      %h = compare %t, 64 <predicate = "lt"> : bool\n'
            "      if %h {\n        barrier\n        yield\n      } {\n        yield\n      }\n",
        ),
    ),
    # One role, buffer_copy
    _fault("no barrier after the wait", "lowered_gfx950", "TLC0353", E("      barrier\n", "")),
    _fault("no wait", "lowered_gfx950", "TLC0351", E("      buffer_copy_wait <pending = 4>\n", "")),
    _fault("a wait too loose", "lowered_gfx950", "TLC0351", E("<pending = 4>", "<pending = 5>")),
    _fault(
        "copies that are not started where there is no data",
        "lowered_gfx950",
        "TLC0351",
        E("      copy %B[%43, %41]", "      if %39 {\n      copy %B[%43, %41]"),
        E("      %45 = floor", "      yield\n      } {\n      yield\n      }\n      %45 = floor"),
    ),
    _fault(
        "the last tile is not copied",
        "lowered_dequantize_sm_80",
        "TLC0351",
        E("compare %40, 16", "compare %40, 15"),
    ),
    _fault(
        "no barrier in the prologue",
        "lowered_dequantize_sm_80",
        "TLC0353",
        E("    barrier\n    %15", "    %15"),
    ),
    _fault(
        "no wait in the prologue",
        "lowered_dequantize_sm_80",
        "TLC0351",
        E("    cp_async_wait <pending = 0>\n    barrier\n", "    barrier\n"),
    ),
    _fault(
        "threads write the slot that gemm reads",
        "lowered_dequantize_sm_80",
        "TLC0352 TLC0353",
        E("%52 = floormod %50, 2", "%52 = floormod %k, 2"),
    ),
    _fault(
        "threads read the slot that a copy fills",
        "lowered_dequantize_sm_80",
        "TLC0351",
        E("%53 = floormod %50, 2", "%53 = floormod %k, 2"),
    ),
    # One role, registers
    _fault("no barrier", "lowered_gfx942", "TLC0353", E("      barrier\n", "")),
    _fault("slots one too few", "lowered_gfx942", "TLC0353", E(", 2 : i32", ", 1 : i32", 5, None)),
    _fault(
        "a deposit into the slot in use",
        "lowered_gfx942",
        "TLC0353",
        E("floormod %22, 2", "floormod %k, 2", 2, 0),
    ),
    # Roles, TMA
    _fault("no wait for data", "lowered_sm_90a", "TLC0351", E(_WAIT_FULL, "")),
    _fault("no wait for room", "lowered_sm_90a", "TLC0352", E(_WAIT_EMPTY, "")),
    _fault(
        "a consumer that keeps its phase",
        "lowered_sm_90a",
        "TLC0351 TLC0352 TLC0355 TLC0357",
        E("%37 = bit_xor %36, 1", "%37 = bit_xor %36, 0"),
    ),
    _fault(
        "a producer in the wrong phase",
        "lowered_sm_90a",
        "TLC0357",
        E("bit_xor %72, 1", "bit_xor %72, 0"),
    ),
    _fault(
        "arrivals for one warpgroup of two",
        "lowered_sm_90a",
        "TLC0355",
        E("<count = 2>", "<count = 1>"),
    ),
    _fault(
        "more arrivals asked for than come",
        "lowered_sm_90a",
        "TLC0357",
        E("<count = 2>", "<count = 8>"),
    ),
    _fault(
        "one warpgroup arrives for both",
        "lowered_sm_90a",
        "TLC0352 TLC0355",
        E("<count = 2>", "<count = 1>"),
        E("floormod %29, 128", "floormod %29, 256"),
        E("floormod %44, 128", "floormod %44, 256"),
    ),
    _fault(
        "fewer bytes than copies bring",
        "lowered_sm_90a",
        "TLC0351",
        E("%slot_2, 32768", "%slot_2, 16384"),
    ),
    _fault(
        "more bytes than copies bring",
        "lowered_sm_90a",
        "TLC0357",
        E("%slot_2, 32768", "%slot_2, 65536"),
    ),
    _fault(
        "whole boxes where the bytes of lower ones are expected",
        "lowered_clipped_sm_90a",
        "TLC0357",
        E(", clipped = [0]", ""),
    ),
    _fault(
        "lower boxes where the bytes of whole ones are expected",
        "lowered_clipped_sm_90a",
        "TLC0357",
        E("%slot_2, %14", "%slot_2, 32768"),
    ),
    _fault(
        "what lower boxes leave is never written",
        "lowered_clipped_sm_90a",
        "TLC0351",
        E("      fill %5, 0.0:f16\n", ""),
    ),
    _fault(
        "two threads feed the engine",
        "lowered_sm_90a",
        "TLC0355",
        E('%56 = compare %55, 0 <predicate = "eq">', '%56 = compare %55, 2 <predicate = "lt">'),
    ),
    _fault(
        "mbarriers not shown", "lowered_sm_90a", "TLC0355", E("      mbarrier_init_fence\n", "")
    ),
    _fault(
        "no barrier after the mbarriers are made",
        "lowered_sm_90a",
        "TLC0355",
        E("    barrier\n    %C", "    %C"),
    ),
    _fault(
        "freed before the gemm is over",
        "lowered_sm_90a",
        "TLC0352",
        E("%25 = sub %24, 1", "%25 = sub %24, 0"),
        E("%23 = compare %k, 1", "%23 = compare %k, 0"),
        E('%38 = compare %18, 1 <predicate = "ge">', '%38 = compare %18, 0 <predicate = "lt">'),
        E('compare %45, 0 <predicate = "eq">', 'compare %45, 0 <predicate = "lt">'),
    ),
    _fault(
        "a wait that leaves one gemm too many",
        "lowered_sm_90a",
        "TLC0352",
        E("wait %acc_5 <pending = 1>", "wait %acc_5 <pending = 2>"),
    ),
    _fault(
        "the last slot is not freed",
        "lowered_sm_90a",
        "TLC0357",
        E('%46 = compare %45, 0 <predicate = "eq">', '%46 = compare %45, 0 <predicate = "lt">'),
    ),
    _fault(
        "a loop of one turn does not free",
        "lowered_sm_90a",
        "TLC0357",
        E('%38 = compare %18, 1 <predicate = "ge">', '%38 = compare %18, 2 <predicate = "ge">'),
    ),
    _fault(
        "a gemm nobody waits for",
        "lowered_sm_90a",
        "TLC0352 TLC0359",
        E(
            "%acc_6 = wait %acc_3 :",
            "%acc_6 = splat 0.0 <shape = [128, 128], layout = #register1> :",
        ),
    ),
    _fault(
        "a role with more iterations",
        "lowered_sm_90a",
        "TLC0351 TLC0357",
        E("add %K, 63", "add %K, 127", 2, 1),
    ),
    _fault(
        "a role with fewer iterations",
        "lowered_sm_90a",
        "TLC0357",
        E("add %K, 63", "add %K, 0", 2, 1),
    ),
    # Staged stores, named barriers, fences
    _fault(
        "no proxy fence", "lowered_sm_90a", "TLC0354", E("        fence_proxy_async\n", "", 2, 1)
    ),
    _fault(
        "a proxy fence after the barrier",
        "lowered_sm_90a",
        "TLC0354",
        E("        fence_proxy_async\n" + _MEET, _MEET + "        fence_proxy_async\n", 2, 0),
    ),
    _fault(
        "no barrier before the engine reads",
        "lowered_sm_90a",
        "TLC0353",
        E("        fence_proxy_async\n" + _MEET, "        fence_proxy_async\n", 2, 0),
    ),
    _fault(
        "staging written while the engine reads",
        "lowered_sm_90a",
        "TLC0352",
        E(
            "          bulk_wait <pending = 1, read>\n          yield\n        } {\n",
            "          yield\n        } {\n",
            2,
            0,
        ),
    ),
    _fault(
        "a store that the block does not wait for",
        "lowered_sm_90a",
        "TLC0359",
        E("        bulk_wait <pending = 0>\n", ""),
    ),
    _fault(
        "a named barrier for too few",
        "lowered_sm_90a",
        "TLC0356",
        E("barrier <barrier = 1, threads = 256>", "barrier <barrier = 1, threads = 128>", 4, 2),
    ),
    _fault(
        "the block's barrier in a role",
        "lowered_sm_90a",
        "TLC0356",
        E("barrier <barrier = 1, threads = 256>", "barrier", 4, 0),
    ),
    _fault(
        "two roles at one barrier",
        "lowered_sm_90a",
        "TLC0356",
        E(
            "      set_registers <count = 40>\n",
            "      set_registers <count = 40>\n      barrier <barrier = 1, threads = 128>\n",
        ),
    ),
    # Roles, threads that write what an engine reads
    _fault(
        "a write not shown to the engine",
        "lowered_writers_sm_90a",
        "TLC0354",
        E("        fence_proxy_async\n", ""),
    ),
    _fault(
        "a lane arrives for its warp without meeting it",
        "lowered_writers_sm_90a",
        "TLC0351",
        E("        fence_proxy_async\n        warp_sync\n", "        fence_proxy_async\n"),
    ),
    _fault(
        "a free before the warp has met",
        "lowered_writers_sm_90a",
        "TLC0352",
        E("        warp_sync\n        %t =", "        %t ="),
    ),
    _fault(
        "half of the warps arrive",
        "lowered_writers_sm_90a",
        "TLC0351",
        E("%full, %i <count = 4>", "%full, %i <count = 2>"),
        E("floormod %t_1, 32", "floormod %t_1, 64"),
    ),
    _fault(
        "freed before the gemm is waited for",
        "lowered_writers_sm_90a",
        "TLC0352",
        E("        %next = wait %flying : tile f32[64, 64]\n", ""),
        E(
            "        yield %next\n",
            "        %next = wait %flying : tile f32[64, 64]\n        yield %next\n",
        ),
    ),
    # Threads of one block
    _fault(
        "threads exchange without a barrier",
        "simt",
        "TLC0353",
        E("        barrier\n        %mirror", "        %mirror"),
    ),
    _fault(
        "the next turn overwrites", "simt", "TLC0353", E("      }\n      barrier\n", "      }\n")
    ),
    _fault(
        "another thread's element",
        "simt",
        "TLC0353",
        E("%again = load %own[%t]", "%u = bit_xor %t, 1 : i32\n        %again = load %own[%u]"),
    ),
)
