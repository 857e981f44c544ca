"""The compiler that an engine is given where the machine has none."""

import subprocess
import sys
from pathlib import Path

import pytest

from llava_pack.profiles.compiler import lacks_compiler, write_compiler


def environment(folder: Path, *, zig: bool) -> Path:
    """Return the interpreter of an environment, which is not there itself."""
    if zig:
        (folder / "lib" / "python3.12" / "site-packages" / "ziglang").mkdir(parents=True)
    return folder / "bin" / "python"


@pytest.mark.parametrize("zig", [True, False])
@pytest.mark.parametrize("name", ["cc", "gcc", "clang", None])
def test_it_is_needed_where_there_is_none_and_one_was_brought(
    tmp_path: Path, name: str | None, *, zig: bool
) -> None:
    def find(asked: str, path: str) -> str | None:
        assert path == "/usr/bin"
        return f"/usr/bin/{asked}" if asked == name else None

    python = environment(tmp_path, zig=zig)
    assert lacks_compiler(python, "/usr/bin", find) is (zig and name is None)


def test_the_script_hands_every_word_on(tmp_path: Path) -> None:
    python = tmp_path / "a python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "import sys; print(sys.argv[1:])" "$@"')
    python.chmod(0o700)
    told = write_compiler(python, tmp_path / "compiled")
    words = [told["CC"], "-O3", "a b.c", "-o", "$x"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == "['-I', '-m', 'ziglang', 'cc', '-O3', 'a b.c', '-o', '$x']\n"
    assert Path(told["CC"]).stat().st_mode & 0o777 == 0o700
    assert {Path(value).parent for value in told.values()} == {tmp_path / "compiled"}
    assert write_compiler(python, tmp_path / "compiled") == told
    assert write_compiler(tmp_path / "python", tmp_path / "compiled")["CC"] != told["CC"]
