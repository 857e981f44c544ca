import tomllib
from pathlib import Path

import pytest

from llava_pack.format.errors import RecipeError
from llava_pack.lock.platform import parse_platform
from llava_pack.lock.pylock import LockedWheel, parse_pylock, render_pylock

TAGS = parse_platform("x86_64-manylinux_2_28", "3.11").tags()
HASH = "ab" * 32


def lock(*wheels, name="protobuf"):
    rows = ", ".join(f'{{ {where}, hashes = {{ sha256 = "{HASH}" }} }}' for where in wheels)
    return (
        f'lock-version = "1.0"\n[[packages]]\nname = "{name}"\nversion = "7.1"\nwheels = [{rows}]\n'
    )


def test_of_two_fitting_wheels_the_compiled_one_is_kept():
    text = lock(
        'url = "https://host/p/protobuf-7.1-py3-none-any.whl"',
        'url = "https://host/p/protobuf-7.1-cp310-abi3-manylinux2014_x86_64.whl", size = 5',
    )
    (wheel,) = parse_pylock(text, TAGS, base=Path())
    assert wheel.filename == "protobuf-7.1-cp310-abi3-manylinux2014_x86_64.whl"
    assert wheel.size_bytes == 5


def test_names_are_normalized_and_escapes_in_urls_resolved():
    text = lock('url = "file:///w/torch-2.13.0%2Bcpu-cp311-cp311-linux_x86_64.whl"', name="Torch")
    (wheel,) = parse_pylock(text, TAGS, base=Path())
    assert (wheel.name, wheel.filename) == (
        "torch",
        "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl",
    )


def test_a_relative_path_starts_at_the_lock(tmp_path):
    (wheel,) = parse_pylock(lock('path = "w/protobuf-7.1-py3-none-any.whl"'), TAGS, base=tmp_path)
    assert wheel.url == (tmp_path / "w/protobuf-7.1-py3-none-any.whl").as_uri()


def test_every_package_without_a_fitting_wheel_is_named():
    text = lock('url = "https://h/a-7.1-cp312-cp312-win_amd64.whl"', name="a")
    text += lock(name="b").partition("\n")[2]
    with pytest.raises(RecipeError, match=r"a 7\.1 has no wheel.*b 7\.1 has no wheel"):
        parse_pylock(text, TAGS, base=Path())


def test_a_wheel_without_sha256_is_refused():
    text = lock('url = "https://h/a-7.1-py3-none-any.whl"', name="a").replace("sha256", "md5")
    with pytest.raises(RecipeError, match="a has no sha256"):
        parse_pylock(text, TAGS, base=Path())


def test_a_written_lock_holds_paths_and_no_host():
    wheel = LockedWheel(
        name="a", version="1", filename="a-1-py3-none-any.whl", sha256=HASH,
        url="https://user:token@host/a-1-py3-none-any.whl",
    )  # fmt: skip
    text = render_pylock([wheel], python="3.11", folder="../wheels").decode()
    assert "host" not in text
    assert "token" not in text
    package = tomllib.loads(text)["packages"][0]
    assert package["wheels"][0] == {
        "path": "../wheels/a-1-py3-none-any.whl",
        "hashes": {"sha256": HASH},
    }
