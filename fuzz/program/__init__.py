"""The `.vmm` language: programs of hotplug, allocation and optimization operations.

docs/language.md is its definition. Text is the truth: `parse` and `format`. Bytes for coverage-guided engines derive
from it: `encode` and `decode`. `mutate`, `crossover` and `repair` make new legal programs from old ones. What a program
can contain is in one place, `OPERATIONS`.
"""

from fuzz.program.codec import decode, encode
from fuzz.program.errors import ProgramError
from fuzz.program.model import Op, Program, make_op
from fuzz.program.mutate import crossover, mutate, random_op
from fuzz.program.operations import OPERATIONS
from fuzz.program.repair import repair
from fuzz.program.scope import Scope
from fuzz.program.text import format, format_op, parse, parse_file  # noqa: A004  # read as program.format

__all__ = [
    "OPERATIONS",
    "Op",
    "Program",
    "ProgramError",
    "Scope",
    "crossover",
    "decode",
    "encode",
    "format",
    "format_op",
    "make_op",
    "mutate",
    "parse",
    "parse_file",
    "random_op",
    "repair",
]
