# SPDX-License-Identifier: Apache-2.0
"""The Python binding's declarations, as ctypes."""

from __future__ import annotations

from header import Header, Variable

HEAD = '''# SPDX-License-Identifier: Apache-2.0
"""Written by bindings/abi/generate from include/iokv/iokv.h: edit neither this nor its order."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure
'''


def word(name: str) -> str:
    return "".join(part.capitalize() for part in name.removeprefix("iokv_").split("_"))


def type_of(header: Header, spelled: str) -> str:
    if spelled.endswith("*"):
        inner = spelled[:-1].strip().removeprefix("const ").strip()
        simple = {"char": "ctypes.c_char_p", "void": "ctypes.c_void_p", "uint8_t": "ctypes.c_void_p"}
        if inner in simple:
            return simple[inner]
        if inner in header.handles:
            return "ctypes.c_void_p"
        return f"POINTER({type_of(header, inner)})"
    if spelled in header.numbers:
        spelled = header.numbers[spelled]
    if spelled.endswith("_t"):
        return "ctypes.c_" + spelled[:-2]
    if spelled in ("int", "float", "double", "char"):
        return "ctypes.c_" + spelled
    return word(spelled)


def field_type(header: Header, variable: Variable) -> str:
    return type_of(header, variable.type) + (f" * {variable.count}" if variable.count else "")


def declarations(header: Header) -> str:
    lines = [HEAD]
    for constant in header.constants:
        name = constant.name.removeprefix("IOKV_")
        lines.append(f"{name} = {constant.value}" + (f"  # {constant.comment}" if constant.comment else ""))
    for structure in header.structures:
        lines += ["", "", f"class {word(structure.name)}(Structure):", "    _fields_ = ["]
        for variable in structure.fields:
            comment = f"  # {variable.comment}" if variable.comment else ""
            lines.append(f'        ("{variable.name}", {field_type(header, variable)}),{comment}')
        lines.append("    ]")
    lines += ["", "", "# The header's name -> the structure", "STRUCTURES: dict[str, type[Structure]] = {"]
    lines += [f'    "{structure.name}": {word(structure.name)},' for structure in header.structures]
    lines += ["}", "", "CONSTANTS: dict[str, int] = {"]
    lines += [f'    "{constant.name}": {constant.name.removeprefix("IOKV_")},' for constant in header.constants]
    lines += ["}", "", "# name -> (result, arguments)", "PROTOTYPES: dict[str, tuple[object, list[object]]] = {"]
    for function in header.functions:
        result = "None" if function.result == "void" else type_of(header, function.result)
        arguments = ", ".join(type_of(header, parameter.type) for parameter in function.parameters)
        lines.append(f'    "{function.name}": ({result}, [{arguments}]),')
    lines += ["}", ""]
    return "\n".join(lines)
