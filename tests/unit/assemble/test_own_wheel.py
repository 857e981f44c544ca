import base64
import hashlib
import subprocess
import sys
import zipfile

from uv import find_uv_bin

from llava_pack.assemble.own_wheel import write_own_wheel


def test_two_wheels_have_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, second = (write_own_wheel(tmp_path / name).read_bytes() for name in ("a", "b"))
    assert first == second


def test_no_byte_depends_on_the_system_or_on_its_zlib(tmp_path):
    with zipfile.ZipFile(write_own_wheel(tmp_path)) as wheel:
        for member in wheel.infolist():
            assert member.compress_type == zipfile.ZIP_STORED
            assert member.create_system == 3, "Unix, as on Linux"


def test_record_is_true_and_nothing_foreign_is_inside(tmp_path):
    with zipfile.ZipFile(write_own_wheel(tmp_path)) as wheel:
        names = wheel.namelist()
        record = next(name for name in names if name.endswith("RECORD"))
        for line in wheel.read(record).decode().splitlines():
            name, _, rest = line.partition(",")
            if rest != ",":
                digest = hashlib.sha256(wheel.read(name)).digest()
                assert rest.startswith(
                    "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
                )
    assert not [name for name in names if "demo-model" in name or "__pycache__" in name]
    assert "llava_pack/target/__init__.py" in names
    assert "llava_pack/_shipped/bundles/demo.toml" in names


def test_the_wheel_installs_and_runs(tmp_path):
    wheel = write_own_wheel(tmp_path)
    site = tmp_path / "site"
    install = [find_uv_bin(), "pip", "install", "--quiet", "--no-deps", "--offline", "--no-config"]
    install += ["--python", sys.executable, "--target", str(site), str(wheel)]
    subprocess.run(install, check=True)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from llava_pack.shipped import shipped;"
        "print(shipped('bundles') / 'demo.toml', shipped('installers'))"
    )
    shown = subprocess.run(
        [sys.executable, "-I", "-c", code, str(site)], capture_output=True, text=True, check=True
    ).stdout
    assert str(site / "llava_pack/_shipped/bundles/demo.toml") in shown
