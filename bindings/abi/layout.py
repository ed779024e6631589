# SPDX-License-Identifier: Apache-2.0
"""Sizes, offsets and values of include/iokv/iokv.h as the C compiler sees them: the measure for every binding.

A layout is a list of lines: `size STRUCT BYTES`, `field STRUCT.FIELD OFFSET BYTES`, `constant NAME VALUE`. Each
binding's conformance driver answers `layout` with the same lines, made by its own compiler or runtime.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from header import HEADER, Header, read


def program(header: Header) -> str:
    lines = ["#include <stddef.h>", "#include <stdio.h>", "#include <iokv/iokv.h>", "int main(void) {"]
    for structure in header.structures:
        lines.append(f'printf("size {structure.name} %zu\\n", sizeof({structure.name}));')
        for field in structure.fields:
            member = f"(({structure.name}*)0)->{field.name}"
            lines.append(
                f'printf("field {structure.name}.{field.name} %zu %zu\\n", '
                f"offsetof({structure.name}, {field.name}), sizeof({member}));"
            )
    lines += [f'printf("constant {constant.name} %d\\n", (int){constant.name});' for constant in header.constants]
    return "\n".join([*lines, "return 0;", "}", ""])


def compiled(header: Header | None = None) -> list[str]:
    """The layout, by $CC (cc where unset)."""
    with tempfile.TemporaryDirectory(prefix="iokv-layout-") as directory:
        source, output = Path(directory) / "layout.c", Path(directory) / "layout"
        source.write_text(program(header or read()))
        compiler = os.environ.get("CC", "cc")
        subprocess.run([compiler, "-std=c11", f"-I{HEADER.parents[1]}", str(source), "-o", str(output)], check=True)
        return subprocess.run([str(output)], check=True, capture_output=True, text=True).stdout.splitlines()
