# SPDX-License-Identifier: Apache-2.0
"""The C# binding's declarations: structures, constants and imports."""

from __future__ import annotations

from html import escape

from header import Header, Variable

TYPES = {
    "int": "int",
    "char": "byte",
    "float": "float",
    "double": "double",
    "uint8_t": "byte",
    "int16_t": "short",
    "uint16_t": "ushort",
    "int32_t": "int",
    "uint32_t": "uint",
    "int64_t": "long",
    "uint64_t": "ulong",
    "void": "void",
}

HEAD = """// SPDX-License-Identifier: Apache-2.0
// Written by bindings/abi/generate from include/iokv/iokv.h: edit neither this nor its order.
using System;
using System.Runtime.InteropServices;

namespace Iokv.Native
{
#pragma warning disable CS1591, CS0649, IDE1006 // the names and comments are the header's
"""


def word(name: str) -> str:
    """iokv_open_options -> OpenOptions."""
    return "".join(part.capitalize() for part in name.removeprefix("iokv_").split("_"))


def type_of(header: Header, spelled: str) -> str:
    bare = spelled.replace("const ", "").replace("*", "").strip()
    stars = "*" * spelled.count("*")
    if bare in header.handles:
        return "ClientHandle" if stars == "*" else "IntPtr*"
    if bare in header.numbers:
        return TYPES[header.numbers[bare]] + stars
    return TYPES.get(bare, word(bare)) + stars


def field(header: Header, variable: Variable) -> str:
    inner = type_of(header, variable.type)
    if variable.count:
        return f"        public fixed {inner} {variable.name}[{variable.count}];"
    return f"        public {inner} {variable.name};"


def summary(comment: str, indent: str) -> list[str]:
    return [f"{indent}/// <summary>{escape(comment, quote=False)}</summary>"] if comment else []


def declarations(header: Header) -> str:
    lines = [HEAD, "    internal static class Constants", "    {"]
    for constant in header.constants:
        lines += [*summary(constant.comment, "        "), f"        public const int {constant.name} = {constant.value};"]
    lines.append("    }")
    for structure in header.structures:
        lines += ["", *summary(structure.comment, "    "), "    [StructLayout(LayoutKind.Sequential)]"]
        lines += [f"    internal unsafe struct {word(structure.name)}", "    {"]
        for variable in structure.fields:
            lines += [*summary(variable.comment, "        "), field(header, variable)]
        lines.append("    }")
    lines += ["", "    internal static unsafe partial class Library", "    {", '        public const string Name = "libiokv.so.1";']
    for function in header.functions:
        # A handle that is being released, or whose structure is not there yet, is passed as a number.
        raw = function.name == "iokv_disconnect"
        parameters = ", ".join(
            f"{'IntPtr' if raw and p.type == 'iokv_client*' else type_of(header, p.type)} {p.name}" for p in function.parameters
        )
        signature = f"{type_of(header, function.result)} {function.name}({parameters});"
        lines += ["", *summary(function.comment, "        "), "#if NET7_0_OR_GREATER", "        [LibraryImport(Name)]"]
        lines += [f"        public static partial {signature}", "#else"]
        lines += ["        [DllImport(Name, CallingConvention = CallingConvention.Cdecl, ExactSpelling = true)]"]
        lines += [f"        public static extern {signature}", "#endif"]
    lines += ["    }", "}", ""]
    return "\n".join(lines)
