# SPDX-License-Identifier: Apache-2.0
"""A C project outside of this tree finds the installed client library, by CMake and by pkg-config, shared and static."""

import os
import shutil
import unittest
from pathlib import Path

from installed import InstalledCase, needs, run

SOURCE = """
#include <iokv/iokv.h>
#include <stdio.h>

int main(void) {
  iokv_client* client = NULL;
  iokv_error_detail detail = {.struct_size = sizeof detail};
  iokv_connect_options options = {.struct_size = sizeof options, .socket_path = "/nonexistent/iokv.sock"};
  int code = iokv_connect(&options, &client, &detail);
  printf("%s\\n", iokv_strerror(code));
  return code == IOKV_ENODAEMON ? 0 : 1;
}
"""

PROJECT = """
cmake_minimum_required(VERSION 3.16)
project(outside C)
find_package(iokv 1.0 REQUIRED)
add_executable(shared main.c)
target_link_libraries(shared PRIVATE iokv::iokv)
add_executable(static main.c)
target_link_libraries(static PRIVATE iokv::iokv_static)
"""

SAYS = "no daemon listens on the socket"


class ClientProject(InstalledCase):
    def setUp(self) -> None:
        self.project = self.prefix / "project"
        self.project.mkdir()
        self.addCleanup(shutil.rmtree, self.project)
        (self.project / "main.c").write_text(SOURCE)
        library = next(self.prefix.rglob("libiokv.so.1"))
        self.environment = {**os.environ, "LD_LIBRARY_PATH": str(library.parent)}

    def test_find_package(self) -> None:
        (self.project / "CMakeLists.txt").write_text(PROJECT)
        build = self.project / "build"
        run("cmake", "-S", self.project, "-B", build, f"-DCMAKE_PREFIX_PATH={self.prefix}")
        run("cmake", "--build", build)
        for program in ("shared", "static"):
            self.assertIn(SAYS, run(build / program, env=self.environment))
        self.assertIn("libiokv.so.1", run("ldd", build / "shared", env=self.environment))
        self.assertNotIn("libiokv", run("ldd", build / "static"))

    def test_another_major_version_is_not_found(self) -> None:
        (self.project / "CMakeLists.txt").write_text(PROJECT.replace("iokv 1.0", "iokv 2.0"))
        with self.assertRaisesRegex(AssertionError, "compatible"):
            run("cmake", "-S", self.project, "-B", self.project / "build", f"-DCMAKE_PREFIX_PATH={self.prefix}")

    @needs("pkg-config")
    def test_pkg_config(self) -> None:
        directory = next(self.prefix.rglob("libiokv.pc")).parent
        environment = {**self.environment, "PKG_CONFIG_PATH": str(directory)}
        compiler = os.environ.get("CC", "cc")
        for name in ("libiokv", "iokv"):
            flags = run("pkg-config", "--cflags", "--libs", name, env=environment).split()
            self.assertIn("-liokv", flags)
            program = self.project / name
            run(compiler, "-Wall", "-Werror", "-o", program, self.project / "main.c", *flags)
            self.assertIn(SAYS, run(program, env=environment))
        # Installed elsewhere than it was configured for, the file still names where it is.
        self.assertEqual(Path(run("pkg-config", "--variable=includedir", "iokv", env=environment).strip()).resolve(),
                         (self.prefix / "include").resolve())


if __name__ == "__main__":
    unittest.main()
