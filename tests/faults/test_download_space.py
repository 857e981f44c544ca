"""A disk that is too small, before and in the middle of a transfer."""

import hashlib
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from llava_pack.fetch.cache import Cache
from llava_pack.fetch.download import RemoteFile, Sha256, download_all
from llava_pack.format.errors import SpaceError, UsageError
from llava_pack.format.exit_codes import ExitCode

FILL = """
    import sys
    from pathlib import Path
    from llava_pack.fetch.cache import Cache
    from llava_pack.fetch.download import RemoteFile, download_all
    from llava_pack.format.errors import SpaceError
    small, source = Path(sys.argv[1]), Path(sys.argv[2])
    cache = Cache(small)
    wanted = RemoteFile(url=source.as_uri(), name="shard.bin")
    try:
        download_all([wanted], cache)
    except SpaceError as error:
        print(error.exit_code.value, error, error.hint)
    print(sum(part.stat().st_size for part in cache.parts.glob("*.part")))
"""
TMPFS_BYTES = 4 << 20


def test_a_disk_that_fills_up_keeps_the_part(tmp_path: Path) -> None:
    small, source = tmp_path / "small", tmp_path / "shard.bin"
    small.mkdir()
    source.write_bytes(bytes(2 * TMPFS_BYTES))
    mount = f"mount -t tmpfs -o size={TMPFS_BYTES} none {small}"
    allowed = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount], capture_output=True, check=False
    )
    if allowed.returncode != 0:
        pytest.skip("this machine does not let a user mount a tmpfs in a namespace")
    script = f'{mount} && exec "$0" "$@"'
    done = subprocess.run(
        [
            "unshare",
            "-rm",
            "sh",
            "-c",
            script,
            sys.executable,
            "-c",
            textwrap.dedent(FILL),
            small,
            source,
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    said, kept = done.stdout.splitlines()
    assert said.startswith("7 shard.bin: the disk of the cache is full"), done.stderr
    assert "LLAVA_PACK_CACHE" in said
    assert 0 < int(kept) <= TMPFS_BYTES


def test_space_is_counted_before_the_first_byte(tmp_path: Path) -> None:
    digest = Sha256(hashlib.sha256(b"x").hexdigest())
    url = "http://nobody.invalid/never-asked"
    file = RemoteFile(url=url, name="huge", size_bytes=1 << 60, digest=digest)
    with pytest.raises(SpaceError, match=r"expected 1152921504\.6 GB free, got") as caught:
        download_all([file], Cache(tmp_path))
    assert caught.value.exit_code == ExitCode.SPACE


def test_a_cache_where_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be created") as caught:
        Cache(tmp_path / "file")
    assert "LLAVA_PACK_CACHE" in caught.value.hint
