# SPDX-License-Identifier: Apache-2.0
"""The ctypes structures of bindings/python against the C compiler's view of include/iokv/iokv.h."""

import ctypes
import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

from iokv import abi
from iokv.errors import BY_CODE

INCLUDE = Path(__file__).resolve().parents[2] / "include"


def compiled_output(lines: list[str]) -> list[str]:
    """What a C program with these statements in main prints."""
    source = '#include <stdio.h>\n#include <stddef.h>\n#include "iokv/iokv.h"\nint main(void) {\n'
    source += "\n".join(lines) + "\nreturn 0; }\n"
    with tempfile.TemporaryDirectory(prefix="iokv-layout-") as directory:
        path = Path(directory) / "layout.c"
        path.write_text(source)
        program = Path(directory) / "layout"
        compiler = os.environ.get("CC", "cc")
        subprocess.run([compiler, "-std=c11", f"-I{INCLUDE}", str(path), "-o", str(program)], check=True)
        return subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout.splitlines()


class Layout(unittest.TestCase):
    def test_every_structure_has_the_compilers_size_and_offsets(self) -> None:
        lines, expected = [], []
        for name, structure in abi.STRUCTURES.items():
            lines.append(f'printf("%s %zu\\n", "{name}", sizeof({name}));')
            expected.append(f"{name} {ctypes.sizeof(structure)}")
            for entry in structure._fields_:
                field = entry[0]
                lines.append(
                    f'printf("%s %zu %zu\\n", "{name}.{field}", offsetof({name}, {field}), '
                    f"sizeof((({name}*)0)->{field}));"
                )
                descriptor = getattr(structure, field)
                expected.append(f"{name}.{field} {descriptor.offset} {descriptor.size}")
        self.assertEqual(compiled_output(lines), expected)

    def test_every_function_of_the_header_is_declared(self) -> None:
        header = (INCLUDE / "iokv" / "iokv.h").read_text()
        declared = set(re.findall(r"^IOKV_API [^(]*?(iokv_\w+)\(", header, re.MULTILINE))
        self.assertEqual(set(abi.PROTOTYPES), declared)

    def test_every_error_code_has_its_exception(self) -> None:
        header = (INCLUDE / "iokv" / "iokv.h").read_text()
        codes = {int(value): name for name, value in re.findall(r"IOKV_(E[A-Z]+) = (-\d+)", header)}
        self.assertEqual({code: cls.name for code, cls in BY_CODE.items()}, codes)

    def test_flags_are_the_headers(self) -> None:
        names = {
            "IOKV_STEP_EACH": abi.STEP_EACH,
            "IOKV_STEP_LOGITS": abi.STEP_LOGITS,
            "IOKV_COMPLETION_MORE": abi.MORE,
            "IOKV_COMPLETION_TOKEN": abi.TOKEN,
            "IOKV_COMPLETION_PREDICTED": abi.PREDICTED,
            "IOKV_COMPLETION_LOGITS": abi.LOGITS,
            "IOKV_COMPLETION_STOPPED": abi.STOPPED,
            "IOKV_COMPLETION_TOP": abi.TOP,
            "IOKV_TEXT_TOKENIZER": abi.TEXT_TOKENIZER,
            "IOKV_TEXT_CHAT_TEMPLATE": abi.TEXT_CHAT_TEMPLATE,
            "IOKV_F32": abi.F32,
        }
        printed = compiled_output([f'printf("%d\\n", (int){name});' for name in names])
        self.assertEqual(printed, [str(value) for value in names.values()])


if __name__ == "__main__":
    unittest.main()
