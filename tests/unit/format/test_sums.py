import hashlib
import subprocess

import pytest

from llava_pack.format.errors import IntegrityError, UsageError
from llava_pack.format.sums import (
    UNLISTED,
    bundle_id,
    matches_expected,
    parse_sums,
    render_sums,
)

ZERO = "0" * 64
LINE = f"{ZERO}  a/b\n".encode()


def test_sha256sum_reads_what_is_written(tmp_path):
    files = {"a/b": b"one", "a/c+d": b"", "z": b"three"}
    for path, data in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(data)
    entries = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
    (tmp_path / "SHA256SUMS").write_bytes(render_sums(entries))
    command = ["sha256sum", "--strict", "-c", "SHA256SUMS"]
    assert subprocess.run(command, cwd=tmp_path, check=False, capture_output=True).returncode == 0
    said = subprocess.run(
        ["sha256sum", "SHA256SUMS"], cwd=tmp_path, check=True, capture_output=True
    )
    assert said.stdout.split()[0].decode() == bundle_id(render_sums(entries))
    assert parse_sums(render_sums(entries)) == entries


@pytest.mark.parametrize(
    "data",
    [
        b"",
        LINE[:-1],
        LINE + LINE,
        LINE + f"{ZERO}  a/a\n".encode(),
        LINE.replace(b"  ", b" *"),
        LINE.replace(b"\n", b"\r\n"),
        LINE.replace(b"0", b"A"),
        LINE + b"\n",
        f"{ZERO}  ../x\n".encode(),
        f"{ZERO}  SHA256SUMS\n".encode(),
        f"{ZERO}  A/b\n{ZERO}  a/b\n".encode(),
        f"{ZERO}  a\xff\n".encode("latin-1"),
        LINE * 200_000,
    ],
)
def test_any_other_text_is_refused(data):
    with pytest.raises(IntegrityError):
        parse_sums(data)


def test_every_bad_line_is_named():
    with pytest.raises(IntegrityError, match=r"line 1: .*line 3: "):
        parse_sums(b"x\n" + LINE + b"y\n")


@pytest.mark.parametrize("name", sorted(UNLISTED))
def test_what_cannot_vouch_for_itself_is_not_listed(name):
    with pytest.raises(IntegrityError, match="must not be listed"):
        render_sums({name: ZERO})


def test_the_first_32_digits_are_enough_and_fewer_are_not():
    whole = bundle_id(LINE)
    assert matches_expected(whole, whole)
    assert matches_expected(whole, f" {whole[:32].upper()}\n")
    assert not matches_expected(whole, whole[:-1] + ("0" if whole[-1] != "0" else "1"))
    for pasted in (f'"{whole}"', f"'sha256:{whole}'", f"SHA256:{whole[:32]} {whole[32:]}\r\n"):
        assert matches_expected(whole, pasted)
    with pytest.raises(UsageError, match="is shortened"):
        matches_expected(whole, f"{whole[:32]}…")
    for wrong in ("", whole[:31], whole + "0", "g" * 32):
        with pytest.raises(UsageError):
            matches_expected(whole, wrong)
