"""One prefix with simulated bundles for it: installed, killed, compared."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava_pack.format.manifest import parse_manifest
from llava_pack.format.pointers import installed_file
from llava_pack.format.progress import Silent
from llava_pack.target import generations, installer, receipt
from tests.support.bundle import CHECKOUT, BundleSimulator

RECIPE = "tiny"
_VARIES = {"receipt.json", "receipt.txt", "seal.json", "lock", "uv_cache.json", "RECORD"}
"""Times, inodes and durations."""
KILLED = CHECKOUT / "tests" / "support" / "killed.py"


@dataclass
class Site:
    """A prefix in a folder of its own, and the bundles that were written for it."""

    folder: Path
    ids: dict[str, str] = field(default_factory=dict)
    recipe: str = RECIPE

    @property
    def prefix(self) -> Path:
        """Of the installation."""
        return self.folder / "prefix"

    def medium(self, name: str) -> Path:
        """Return where a bundle lies."""
        return self.folder / "media" / name

    def write(self, name: str, **fields: Any) -> Path:
        """Write a bundle; `fields` are those of BundleSimulator."""
        root = self.medium(name)
        self.ids[name] = BundleSimulator(**fields).write(root)
        return root

    def request(self, name: str, **more: Any) -> installer.InstallRequest:
        """Return the request for a bundle."""
        bundle, expect = self.medium(name), self.ids[name]
        return installer.InstallRequest(bundle=bundle, expect=expect, prefix=self.prefix, **more)

    def install(self, name: str, **more: Any) -> installer.Outcome:
        """Install a bundle, in this process."""
        return installer.install(self.request(name, **more), Silent())

    def killed(
        self, point: str, *operation: str, timeout_s: float = 600
    ) -> "subprocess.CompletedProcess[str]":
        """Run an operation in a process of its own that is killed at a point; see killed.py."""
        command = [sys.executable, "-I", "-B", str(KILLED), point, str(self.prefix), *operation]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=timeout_s
        )

    def installing(self, name: str) -> tuple[str, ...]:
        """Return the operation that installs a bundle, for `killed`."""
        return ("install", str(self.medium(name)), self.ids[name])

    def current(self) -> int | None:
        """Return the number of the current generation."""
        return generations.current_number(self.prefix, self.recipe)

    def says(self, *arguments: str) -> str:
        """Return what the installed program prints."""
        program = str(self.prefix / "bin" / "llava-pack")
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def save(self) -> Path:
        """Keep the prefix as it is beside itself."""
        saved = self.folder / "saved"
        shutil.rmtree(saved, ignore_errors=True)
        _copy(self.prefix, saved)
        return saved

    def restore(self) -> None:
        """Have the prefix as it was saved."""
        shutil.rmtree(self.prefix, ignore_errors=True)
        _copy(self.folder / "saved", self.prefix)
        for item in generations.listing(self.prefix):
            receipt.seal(item.root)

    def state(self) -> Mapping[str, str]:
        """Return what is in the prefix, without what differs between two equal installations."""
        found = {}
        for path in sorted(self.prefix.rglob("*")) if self.prefix.exists() else ():
            name = path.relative_to(self.prefix).as_posix()
            if path.is_symlink():
                found[name] = f"link {path.readlink()}"
            elif path.is_file() and path.name not in _VARIES and "__pycache__" not in path.parts:
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found


def complete(prefix: Path) -> None:
    """Assert that `current` of every recipe names a complete, verified generation.

    Every byte of the model is hashed again, by another way than the installer's.
    """
    for recipe in generations.recipes(prefix):
        root = (prefix / "models" / recipe / "current").resolve()
        assert receipt.read(root) is not None, f"{root}: no receipt"
        manifest = parse_manifest((root / "MANIFEST.json").read_bytes())
        for entry in manifest.under("model"):
            data = (root / entry.path).read_bytes()
            rules = [rule for rule in manifest.rewrites if rule.path == entry.path]
            if rules:
                packed = (prefix / "store/sha256" / entry.sha256[:2] / entry.sha256).read_bytes()
                assert hashlib.sha256(packed).hexdigest() == entry.sha256
                assert data == installed_file(packed, rules, str(root / "model"))
            else:
                assert hashlib.sha256(data).hexdigest() == entry.sha256, entry.path
        assert (root / "venv/bin/python").exists()
        assert (prefix / "bin/llava-pack").is_file()


def _copy(source: Path, destination: Path) -> None:
    """Copy a tree with its links, symbolic and hard."""
    subprocess.run(["cp", "-a", str(source), str(destination)], check=True)
