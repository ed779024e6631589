# SPDX-License-Identifier: Apache-2.0
"""include/iokv/iokv.h as data: enums, structures, functions and the comments beside them. Reads what the header is made
of and no more; a line that it does not understand is an error, so nothing can be left out in silence.

Invariants
 1. Order is the header's.
 2. Nothing here knows a size or an offset: those come from a C compiler (layout.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

HEADER = Path(__file__).resolve().parents[2] / "include" / "iokv" / "iokv.h"


@dataclass(frozen=True)
class Constant:
    name: str
    value: int
    comment: str


@dataclass(frozen=True)
class Enum:
    name: str
    comment: str
    constants: list[Constant]


@dataclass(frozen=True)
class Variable:
    """A field or a parameter: `type` without qualifiers of arrays, `count` 0 where it is none."""

    type: str
    name: str
    count: int = 0
    comment: str = ""


@dataclass(frozen=True)
class Structure:
    name: str
    comment: str
    fields: list[Variable]


@dataclass(frozen=True)
class Function:
    name: str
    result: str
    parameters: list[Variable]
    comment: str


@dataclass
class Header:
    macros: list[Constant] = field(default_factory=list)
    enums: list[Enum] = field(default_factory=list)
    structures: list[Structure] = field(default_factory=list)
    handles: list[str] = field(default_factory=list)  # structures that only the library knows
    numbers: dict[str, str] = field(default_factory=dict)  # typedef name -> its integer type
    functions: list[Function] = field(default_factory=list)

    @property
    def constants(self) -> list[Constant]:
        return self.macros + [constant for enum in self.enums for constant in enum.constants]

    @property
    def errors(self) -> list[Constant]:
        return next(enum.constants for enum in self.enums if enum.name == "iokv_error")


COMMENT = r"/\*.*?\*/"
DECLARATION = re.compile(
    rf"""(?P<comment>{COMMENT})
      | \#define\ (?P<macro>IOKV_\w+)\ (?P<value>\d+)[ \t]*(?P<beside>{COMMENT})?\n
      | (?P<directive>\#[^\n]*\n(?:[^\n]*\\\n)*)
      | enum\ (?P<enum>\w+)\ \{{(?P<constants>.*?)\}};
      | typedef\ struct\ (?P<struct>\w+)\ \{{(?P<fields>.*?)\}}\ (?P=struct);
      | typedef\ struct\ (?P<handle>\w+)\ (?P=handle);
      | typedef\ (?P<number>u?int\d+_t)\ (?P<alias>\w+);
      | IOKV_API\ (?P<function>[^;]*);
      | (?P<linkage>extern\ "C"\ \{{|\}}\n)
      | \s+""",
    re.VERBOSE | re.DOTALL,
)
# A comment on a line of its own is about several.
ALONE = rf"\s*(?:{COMMENT}\s*)?"
CONSTANT = re.compile(rf"{ALONE}(\w+) = (-?\d+),?[ \t]*({COMMENT})?", re.DOTALL)
FIELD = re.compile(rf"{ALONE}([\w ]+?[ *]+)(\w+)(?:\[(\d+)\])?;[ \t]*({COMMENT})?", re.DOTALL)


def plain(comment: str | None) -> str:
    """A comment's words on one line."""
    text = re.sub(r"^\s*\*(?!/) ?|/\*|\*/", "", comment or "", flags=re.MULTILINE)
    return " ".join(text.split())


def spelled(type_: str) -> str:
    return re.sub(r"\s*\*", "*", type_.strip())


def parameters_of(text: str) -> list[Variable]:
    found = []
    for parameter in text.split(","):
        match = re.fullmatch(r"\s*(.+?[ *])(\w+)\s*", parameter, re.DOTALL)
        assert match is not None, parameter
        found.append(Variable(spelled(match[1]), match[2]))
    return found


def all_matches(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    """The matches that make up all of the text; an error where something lies between them."""
    found, position = [], 0
    while text[position:].strip():
        match = pattern.match(text, position)
        assert match is not None and match.end() > position, f"not understood: {text[position:position + 80]!r}"
        found.append(match)
        position = match.end()
    return found


def read(path: Path = HEADER) -> Header:
    header = Header()
    comment = ""
    for match in all_matches(DECLARATION, path.read_text(encoding="utf-8")):
        if match["comment"]:
            comment = plain(match["comment"])
            continue
        if match["macro"]:
            header.macros.append(Constant(match["macro"], int(match["value"]), plain(match["beside"])))
        elif match["enum"]:
            constants = [Constant(m[1], int(m[2]), plain(m[3])) for m in all_matches(CONSTANT, match["constants"])]
            header.enums.append(Enum(match["enum"], comment, constants))
        elif match["struct"]:
            fields = [
                Variable(spelled(m[1]), m[2], int(m[3] or 0), plain(m[4])) for m in all_matches(FIELD, match["fields"])
            ]
            header.structures.append(Structure(match["struct"], comment, fields))
        elif match["handle"]:
            header.handles.append(match["handle"])
        elif match["number"]:
            header.numbers[match["alias"]] = match["number"]
        elif match["function"]:
            parts = re.fullmatch(r"(.+?[ *])(\w+)\((.*)\)", match["function"], re.DOTALL)
            assert parts is not None, match["function"]
            header.functions.append(Function(parts[2], spelled(parts[1]), parameters_of(parts[3]), comment))
        else:
            continue
        comment = ""
    return header
