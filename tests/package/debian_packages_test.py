# SPDX-License-Identifier: Apache-2.0
"""The Debian packages in a clean Debian 12: installed, used, upgraded, removed and purged. Needs root, mmdebstrap and a
mirror; skips by the name of what it lacks. Services are not run: there is no systemd in the root."""

import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

from installed import BUILD, ROOT, main, needs, run


@unittest.skipUnless(os.geteuid() == 0, "only root can make a Debian root")
@needs("mmdebstrap")
@needs("cpack")
@needs("dpkg-deb")
class DebianPackages(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="iokv-debian-")
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.root = self.directory / "root"
        run("cpack", "--config", BUILD / "CPackConfig.cmake", "-B", self.directory / "packages")
        self.packages = {}
        for path in (self.directory / "packages").glob("*.deb"):
            self.packages[run("dpkg-deb", "-f", path, "Package").strip()] = path

    def make_root(self) -> None:
        # What the packages depend on comes with the root, so that nothing is left to fetch afterwards.
        depends = set()
        for path in self.packages.values():
            for one in run("dpkg-deb", "-f", path, "Depends").strip().split(", "):
                name = re.split(r"[ (]", one)[0]
                if name and name not in self.packages:
                    depends.add(name)
        made = subprocess.run(["mmdebstrap", "--variant=essential", f"--include={','.join(sorted(depends))}", "bookworm",
                               str(self.root)], capture_output=True, text=True)
        if made.returncode != 0:
            self.skipTest(f"mmdebstrap cannot make a Debian root here: {made.stderr.strip().splitlines()[-1]}")

    def inside(self, *command: str, succeeds: bool = True) -> str:
        done = subprocess.run(["chroot", str(self.root), *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              stdin=subprocess.DEVNULL, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8",
                                                             "DEBIAN_FRONTEND": "noninteractive"})
        if (done.returncode == 0) != succeeds:
            raise AssertionError(f"{command}: exit status {done.returncode}\n{done.stdout}")
        return done.stdout

    def install(self, packages: list[Path]) -> None:
        target = self.root / "tmp" / "packages"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for path in packages:
            shutil.copy(path, target)
        self.inside("dpkg", "--force-confold", "-i", *(f"/tmp/packages/{path.name}" for path in packages))
        shutil.rmtree(target)

    def next_version(self, path: Path) -> Path:
        """The same package as of a later version, whose default configuration has a line more."""
        tree = self.directory / "tree"
        run("dpkg-deb", "-R", path, tree)
        control = tree / "DEBIAN" / "control"
        version = run("dpkg-deb", "-f", path, "Version").strip()
        control.write_text(control.read_text().replace(version, version + "+1"))
        config = tree / "etc" / "iokv" / "iokvd.toml"
        if config.exists():
            config.write_text(config.read_text() + "\n# A later version's.\n")
        later = self.directory / "later" / path.name
        later.parent.mkdir(exist_ok=True)
        run("dpkg-deb", "--root-owner-group", "-b", tree, later)
        shutil.rmtree(tree)
        return later

    def files(self) -> set[str]:
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*")
                if path.relative_to(self.root).parts[0] not in ("proc", "sys", "dev", "tmp", "run")
                and not str(path.relative_to(self.root)).startswith(("var/lib/dpkg", "var/log", "var/cache", "etc/ld.so.cache"))}

    def test_the_life_of_the_packages(self) -> None:
        self.assertLessEqual({"iokv", "libiokv1", "libiokv-dev"}, set(self.packages))
        self.assertIn("libuv1", run("dpkg-deb", "-f", self.packages["iokv"], "Depends"))
        self.make_root()
        before = self.files()

        self.install(list(self.packages.values()))
        self.assertRegex(self.inside("iokvd", "--version"), r"^iokvd \d")
        self.assertIn("metrics", self.inside("iokv", "--help"))
        self.assertRegex((self.root / "etc/passwd").read_text(), r"(?m)^iokv:x:\d+:\d+:.*:/var/lib/iokv:/usr/sbin/nologin$")
        self.assertRegex((self.root / "etc/group").read_text(), r"(?m)^iokv:x:\d+:")
        state = (self.root / "var/lib/iokv").stat()
        self.assertEqual((state.st_uid, oct(state.st_mode & 0o777)), (self.uid(), "0o755"))
        self.assertEqual((self.root / "var/lib/iokv/models").stat().st_uid, 0)
        self.assertIn("no model", self.inside("iokvd", "--config", "/etc/iokv/iokvd.toml", "--check-config", succeeds=False))
        self.assertIn("libiokv.so.1", self.inside("ldconfig", "-p"))

        # A daemon that serves, as its user, and is looked at.
        shutil.copytree(ROOT / "tests/golden/llama_gqa", self.root / "var/lib/iokv/models/m")
        self.inside("sh", "-c", "mkdir -p /run/iokv && chown iokv: /run/iokv")
        config = self.root / "etc/iokv/iokvd.toml"
        config.write_text(config.read_text() + 'model = "/var/lib/iokv/models/m"\nbackend = "cpu"\nprofile = "off"\n')
        served = self.inside("sh", "-c", """
            setpriv --reuid iokv --regid iokv --init-groups env IOKV_STATE_DIRECTORY=/var/lib/iokv \
              iokvd --config /etc/iokv/iokvd.toml > /tmp/out 2>&1 & daemon=$!
            while ! grep -q ready /tmp/out; do kill -0 $daemon || { cat /tmp/out; exit 1; }; done
            iokv status && iokv metrics | grep iokv_ready
            kill $daemon && wait $daemon && cat /tmp/out""")
        self.assertIn("iokv_ready 1", served)
        self.assertIn("stopped", served)

        # Upgraded: what the administrator wrote stays, and the later version's is beside it.
        self.install([self.next_version(path) for path in self.packages.values()])
        self.assertIn("+1", self.inside("dpkg-query", "-W", "-f", "${Version}", "iokv"))
        self.assertIn('model = "/var/lib/iokv/models/m"', config.read_text())
        self.assertIn("A later version's.", (config.parent / "iokvd.toml.dpkg-dist").read_text())
        self.assertIn("no mistakes", self.inside("iokvd", "--config", "/etc/iokv/iokvd.toml", "--check-config"))

        # Removed: configuration and state stay. Purged: only what the administrator brought, and the user.
        self.inside("dpkg", "-r", *self.packages)
        self.assertFalse((self.root / "usr/bin/iokvd").exists())
        self.assertTrue(config.exists())
        (self.root / "var/lib/iokv/profile-1.toml").write_text("measured")
        self.inside("dpkg", "-P", *self.packages)
        left = {path for path in self.files() - before if not path.startswith(("etc/passwd", "etc/group", "etc/shadow", "etc/gshadow",
                                                                                 "etc/.pwd.lock", "etc/subuid", "etc/subgid"))}
        self.assertEqual({path for path in left if not path.startswith("var/lib/iokv/models/m")},
                         {"var/lib/iokv", "var/lib/iokv/models"})

    def uid(self) -> int:
        entry = re.search(r"(?m)^iokv:x:(\d+):", (self.root / "etc/passwd").read_text())
        assert entry
        return int(entry[1])


if __name__ == "__main__":
    main()
