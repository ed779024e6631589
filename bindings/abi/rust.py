# SPDX-License-Identifier: Apache-2.0
"""iokv-sys: the header as Rust, with its layout asserted at compile time."""

from __future__ import annotations

from header import Header, Variable

TYPES = {
    "int": "c_int",
    "char": "c_char",
    "void": "c_void",
    "float": "f32",
    "double": "f64",
    **{f"{sign}int{bits}_t": f"{'u' if sign else 'i'}{bits}" for sign in ("u", "") for bits in (8, 16, 32, 64)},
}

HEAD = """// SPDX-License-Identifier: Apache-2.0
// Written by bindings/abi/generate from include/iokv/iokv.h: edit neither this nor its order.

use core::ffi::{c_char, c_int, c_void};
"""


def type_of(spelled: str) -> str:
    if spelled.endswith("*"):
        inner = spelled[:-1].strip()
        # const T** is a pointer to a pointer to const T.
        constant = inner.startswith("const ") and not inner.endswith("*")
        return f"*{'const' if constant else 'mut'} {type_of(inner.removeprefix('const ') if constant else inner)}"
    return TYPES.get(spelled, spelled)


def field_type(field: Variable) -> str:
    inner = type_of(field.type)
    return f"[{inner}; {field.count}]" if field.count else inner


def doc(comment: str, indent: str = "") -> list[str]:
    escaped = comment.replace("[", "\\[").replace("]", "\\]").replace("<", "\\<")
    return [f"{indent}/// {escaped}"] if comment else [f"{indent}/// See `iokv.h`."]


def function(name: str, result: str, parameters: list[str]) -> list[str]:
    end = ";" if result == "c_void" else f" -> {result};"
    line = f"    pub fn {name}({', '.join(parameters)}){end}"
    if len(line) <= 100:
        return [line]
    return [f"    pub fn {name}(", *(f"        {parameter}," for parameter in parameters), f"    ){end}"]


def declarations(header: Header, layout: list[str]) -> str:
    lines = [HEAD]
    for constant in header.constants:
        lines += [*doc(constant.comment), f"pub const {constant.name}: c_int = {constant.value};"]
    lines.append("")
    for alias, number in header.numbers.items():
        lines += [*doc(""), f"pub type {alias} = {TYPES[number]};"]
    for handle in header.handles:
        lines += ["", "/// A connection; only the library knows what is in it.", "#[repr(C)]", f"pub struct {handle} {{"]
        lines += ["    _private: [u8; 0],", "    _not_send_or_sync: core::marker::PhantomData<*mut u8>,", "}"]
    for structure in header.structures:
        lines += ["", *doc(structure.comment), "#[repr(C)]", "#[derive(Clone, Copy, Debug)]"]
        lines.append(f"pub struct {structure.name} {{")
        for field in structure.fields:
            lines += [*doc(field.comment, "    "), f"    pub {field.name}: {field_type(field)},"]
        lines.append("}")
    lines += ["", 'unsafe extern "C" {']
    for entry in header.functions:
        lines += doc(entry.comment, "    ")
        parameters = [f"{'type_' if p.name == 'type' else p.name}: {type_of(p.type)}" for p in entry.parameters]
        lines += function(entry.name, type_of(entry.result), parameters)
    lines += ["}", "", "#[cfg(target_pointer_width = \"64\")]", "const _: () = {"]
    for line in layout:
        kind, name, *numbers = line.split()
        if kind == "size":
            lines.append(f"    assert!(core::mem::size_of::<{name}>() == {numbers[0]});")
        elif kind == "field":
            lines.append(f"    assert!(core::mem::offset_of!({name.replace('.', ', ')}) == {numbers[0]});")
    lines += ["};", ""]
    return "\n".join(lines)
