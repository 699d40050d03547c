"""Where the elements of a tile lie: in registers, in shared memory, and what it takes to move them.

`RegisterLayout` maps (thread, register) to coordinates, `SharedLayout` coordinates to offsets. Both
are frozen data in lowest terms, so equal layouts compare and hash equal, and both have an oracle in
NumPy (`coords`, `offsets`) against which every shortcut is tested.
"""

from __future__ import annotations

from .access import Access, access_terms
from .banks import (
    access_phases,
    bank_conflicts,
    conflict_degree,
    ldmatrix_conflicts,
    ldmatrix_rows,
    quietest_layout,
)
from .chunks import VECTOR_BITS, chunked, crosswise
from .constraints import (
    Choice,
    Constraint,
    Contains,
    Convert,
    Default,
    Derived,
    Equal,
    Fixed,
    OneOf,
    Option,
    System,
    Unsatisfiable,
    Variable,
)
from .conversion import Conversion, ShuffleStep, classify
from .distributions import blocked, replicated, rows_over_warps
from .fragments import (
    MFMA_SHAPES,
    mfma,
    mfma_accumulator,
    mma_m8n8,
    mma_m16n8,
    wgmma_a,
    wgmma_accumulator,
)
from .operands import (
    TmaBoxes,
    WgmmaOperand,
    box_bytes,
    filled_by_waves,
    tma_boxes,
    wgmma_operand,
)
from .pairs import packed_layout, unpacked_layout
from .reduction import ReductionPlan, ScanStep, plan_reduction, plan_scan
from .register import Digit, RegisterLayout
from .shared import SharedLayout, choose_swizzle
from .solver import FUEL, Solution, solve
from .swizzle import ATOM_ROWS, SPANS, Swizzle
from .term import Term
from .text import format_layout, from_attributes, kind_of, parse_layout, to_attributes

__all__ = [
    "ATOM_ROWS",
    "FUEL",
    "MFMA_SHAPES",
    "SPANS",
    "VECTOR_BITS",
    "Access",
    "Choice",
    "Constraint",
    "Contains",
    "Conversion",
    "Convert",
    "Default",
    "Derived",
    "Digit",
    "Equal",
    "Fixed",
    "OneOf",
    "Option",
    "ReductionPlan",
    "RegisterLayout",
    "ScanStep",
    "SharedLayout",
    "ShuffleStep",
    "Solution",
    "Swizzle",
    "System",
    "Term",
    "TmaBoxes",
    "Unsatisfiable",
    "Variable",
    "WgmmaOperand",
    "access_phases",
    "access_terms",
    "bank_conflicts",
    "blocked",
    "box_bytes",
    "choose_swizzle",
    "chunked",
    "classify",
    "conflict_degree",
    "crosswise",
    "filled_by_waves",
    "format_layout",
    "from_attributes",
    "kind_of",
    "ldmatrix_conflicts",
    "ldmatrix_rows",
    "mfma",
    "mfma_accumulator",
    "mma_m8n8",
    "mma_m16n8",
    "packed_layout",
    "parse_layout",
    "plan_reduction",
    "plan_scan",
    "quietest_layout",
    "replicated",
    "rows_over_warps",
    "solve",
    "tma_boxes",
    "to_attributes",
    "unpacked_layout",
    "wgmma_a",
    "wgmma_accumulator",
    "wgmma_operand",
]
