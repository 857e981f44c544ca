"""Package indexes as people have them, with the real uv: mirrors, logins, sources, other machines."""

from dataclasses import replace

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from llava_pack.assemble.locked_inputs import pinned_packages
from llava_pack.assemble.requirements import target_requirements
from llava_pack.assemble.source_packages import Workshop, build_source, resolve_with_sources
from llava_pack.fetch.cache import Cache
from llava_pack.fetch.credentials import Credentials
from llava_pack.fetch.download import RemoteFile, Sha256, download_all
from llava_pack.format.errors import NetworkError, RecipeError
from llava_pack.format.manifest import ServingProfile
from llava_pack.format.progress import Silent
from llava_pack.lock.document import Lock, PinnedPython, PinnedWheel
from llava_pack.lock.indexes import Indexes, configured_indexes
from llava_pack.lock.platform import parse_platform
from llava_pack.lock.resolve import find_sources, resolve
from llava_pack.lock.torch_build import TorchChoice
from llava_pack.network.trust import VARIABLES
from llava_pack.recipe import find_recipe, read_recipe
from tests.support.authority import make_authority
from tests.support.index import LoopbackIndex
from tests.support.lone_settings import forget_settings
from tests.support.wheels import write_sdist, write_wheel

HERE = parse_platform("x86_64-manylinux_2_28", "3.11")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch, tmp_path):
    """Leave only what a test says, and an empty cache for uv."""
    forget_settings(monkeypatch, tmp_path)
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "packages"
    folder.mkdir()
    write_wheel(folder, "small_one", "2.0")
    write_wheel(folder, "larger", "1.0", "small-one>=1.5")
    return folder


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return make_authority(tmp_path_factory.mktemp("tls"))


def fetch(wheels, indexes, cache):
    """Fetch as `build` does."""
    import os

    who = Credentials(indexes, os.environ)
    files = [
        RemoteFile(
            url=wheel.url, name=wheel.filename, digest=Sha256(wheel.sha256),
            headers=who.headers(wheel.url),
        )
        for wheel in wheels
    ]  # fmt: skip
    return download_all(files, Cache(cache), network=indexes.environment)


def test_what_pips_file_says_is_enough_for_resolving_and_fetching(
    folder, authority, tmp_path, monkeypatch
):
    """An index over TLS of one's own authority, with a password in its URL."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with LoopbackIndex([folder], tls=authority.server("IP:127.0.0.1"), login="me:s%cret") as index:
        address = index.simple_url.replace("://", "://me:s%25cret@")
        pip_conf = tmp_path / "pip.conf"
        pip_conf.write_text(f"[global]\nindex-url = {address}\ncert = {authority.root}\n")
        monkeypatch.setenv("PIP_CONFIG_FILE", str(pip_conf))
        indexes = configured_indexes()
        wheels = resolve(["larger"], HERE, indexes)
        got = fetch(wheels, indexes, tmp_path / "cache")
    assert [wheel.name for wheel in wheels] == ["larger", "small-one"]
    assert len(got) == 2
    assert not any("cret" in wheel.url for wheel in wheels)


def test_what_uvs_file_says_is_enough_too(folder, tmp_path, monkeypatch):
    with LoopbackIndex([folder], login="me:secret") as index:
        place = tmp_path / "config" / "uv"
        place.mkdir(parents=True)
        text = f'[[index]]\nname = "own"\nurl = "{index.simple_url}"\ndefault = true\n'
        (place / "uv.toml").write_text(text)
        monkeypatch.setenv("UV_INDEX_OWN_USERNAME", "me")
        monkeypatch.setenv("UV_INDEX_OWN_PASSWORD", "secret")
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
        indexes = configured_indexes()
        wheels = resolve(["larger"], HERE, indexes)
        assert len(fetch(wheels, indexes, tmp_path / "cache")) == 2


def test_a_proxy_of_pip_is_asked_by_both(folder, tmp_path, monkeypatch):
    with LoopbackIndex([folder]) as proxy:
        pip_conf = tmp_path / "pip.conf"
        pip_conf.write_text(
            f"[global]\nindex-url = http://packages.invalid/simple/\nproxy = {proxy.url}\n"
        )
        monkeypatch.setenv("PIP_CONFIG_FILE", str(pip_conf))
        indexes = configured_indexes()
        wheels = resolve(["larger"], HERE, indexes)
        moved = [
            replace(wheel, url=wheel.url.replace(proxy.url, "http://files.invalid"))
            for wheel in wheels
        ]
        assert len(fetch(moved, indexes, tmp_path / "cache")) == 2
        assert {one.headers["host"] for one in proxy.asked} >= {"packages.invalid", "files.invalid"}


def test_an_index_that_is_not_there_is_9(monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(NetworkError):
        resolve(["larger"], HERE, configured_indexes())


@pytest.mark.parametrize(
    ("target", "python", "expected"),
    [
        ("x86_64-manylinux_2_35", "3.11", {"needy", "linux-only", "x86-only", "old-python"}),
        ("aarch64-manylinux_2_35", "3.12", {"needy", "linux-only", "arm-only"}),
    ],
)
def test_markers_are_those_of_the_target_and_not_of_this_machine(
    folder, monkeypatch, target, python, expected
):
    """What makes a lock from a Mac the lock of a Linux server."""
    for name in ("linux_only", "mac_only", "windows_only", "arm_only", "x86_only", "old_python"):
        write_wheel(folder, name, "1.0")
    write_wheel(
        folder, "needy", "1.0",
        'linux-only; sys_platform == "linux"', 'mac-only; sys_platform == "darwin"',
        'windows-only; os_name == "nt"', 'arm-only; platform_machine == "aarch64"',
        'x86-only; platform_machine == "x86_64"', 'old-python; python_version < "3.12"',
    )  # fmt: skip
    with LoopbackIndex([folder]) as index:
        monkeypatch.setenv("UV_DEFAULT_INDEX", index.simple_url)
        wheels = resolve(["needy"], parse_platform(target, python), configured_indexes())
    assert {wheel.name for wheel in wheels} == expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("x86_64-manylinux_2_35", "manylinux_2_34_x86_64"),
        ("x86_64-manylinux_2_31", "manylinux_2_28_x86_64"),
        ("x86_64-manylinux_2_17", "manylinux2014_x86_64"),
        ("aarch64-manylinux_2_35", "manylinux_2_28_aarch64"),
        ("aarch64-manylinux_2_17", None),
    ],
)
def test_one_wheel_a_package_and_the_right_one(folder, monkeypatch, target, expected):
    tags = ("manylinux_2_34_x86_64", "manylinux_2_28_x86_64", "manylinux2014_x86_64")
    others = ("manylinux_2_28_aarch64", "musllinux_1_2_x86_64", "macosx_11_0_arm64", "win_amd64")
    for tag in (*tags, *others):
        write_wheel(folder, "compiled", "1.0", tag=f"cp311-cp311-{tag}")
    with LoopbackIndex([folder]) as index:
        monkeypatch.setenv("UV_DEFAULT_INDEX", index.simple_url)
        platform = parse_platform(target, "3.11")
        if expected is None:
            with pytest.raises(RecipeError, match="compiled"):
                resolve(["compiled"], platform, configured_indexes())
            return
        (wheel,) = resolve(["compiled"], platform, configured_indexes())
    assert wheel.filename == f"compiled-1.0-cp311-cp311-{expected}.whl"


@pytest.fixture
def resolve_sources(folder, monkeypatch, tmp_path):
    """Resolve with sources allowed; build backends come from the index of the environment."""

    def run(*requirements, cache="cache"):
        workshop = Workshop(platform=HERE, cache=Cache(tmp_path / cache), progress=Silent())
        with LoopbackIndex([folder]) as index:
            monkeypatch.setenv("UV_INDEX", index.simple_url)
            return resolve_with_sources(
                lambda wanted: resolve(wanted, HERE, configured_indexes()),
                requirements, configured_indexes(), workshop,
            )  # fmt: skip

    return run


def test_sources_of_pure_python_become_the_same_wheel_every_time(folder, resolve_sources):
    write_sdist(folder, "sourced", "1.0")
    write_wheel(folder, "needy", "1.0", "sourced")
    first = {wheel.name: wheel for wheel in resolve_sources("needy")}
    again = {wheel.name: wheel for wheel in resolve_sources("needy", cache="another")}
    assert first["sourced"].filename.endswith("py3-none-any.whl")
    assert first["sourced"].source_sha256 is not None
    assert first["sourced"].sha256 == again["sourced"].sha256
    assert first["needy"].source_sha256 is None


def test_a_lock_builds_them_again_and_refuses_another_outcome(
    folder, resolve_sources, tmp_path, monkeypatch
):
    write_sdist(folder, "sourced", "1.0")
    write_wheel(folder, "torch", "2.13.0")
    write_wheel(folder, "uv", "0.13")
    (sourced, *others) = resolve_sources("sourced", "torch", "uv")
    lock = Lock(
        created_by="", release=1, recipe="", recipe_sha256="", sources={}, packing={},
        platform=HERE.uv_platform, cuda="none", python=PinnedPython(version="3.11"),
        serving=ServingProfile(
            engine="transformers", precision="nf4", device="auto", context_tokens=1, slots=1
        ),
        packages=tuple(
            PinnedWheel(
                name=one.name, version=one.version, filename=one.filename, sha256=one.sha256,
                source_sha256=one.source_sha256,
            )
            for one in (sourced, *others)
        ),
    )  # fmt: skip
    with LoopbackIndex([folder]) as index:
        monkeypatch.setenv("UV_INDEX", index.simple_url)
        found = pinned_packages(lock, Cache(tmp_path / "new"), Silent())
        assert {one.sha256 for one in found.all_wheels} == {one.sha256 for one in lock.packages}
        changed = replace(lock.packages[0], sha256="0" * 64)
        other = replace(lock, packages=(changed, *lock.packages[1:]))
        with pytest.raises(RecipeError, match="its wheel now differs"):
            pinned_packages(other, Cache(tmp_path / "new"), Silent())


@pytest.mark.parametrize(
    ("more", "backend", "said"),
    [
        ({"src/fast.c": "int main;"}, "hatchling.build", r"fast\.c, which is not Python"),
        ({"Cargo.toml": ""}, "hatchling.build", "Cargo.toml"),
        ({}, "maturin", "built by maturin"),
        ({"pyproject.toml": '[build-system]\nbackend-path = ["."]\nbuild-backend = "own"\n'},
         "hatchling.build", "built by own"),
    ],
)  # fmt: skip
def test_other_sources_are_named_and_not_built(folder, resolve_sources, more, backend, said):
    write_sdist(folder, "sourced", "1.0", backend=backend, more=more)
    with pytest.raises(RecipeError, match=said) as caught:
        resolve_sources("sourced>=1")
    assert caught.value.subject == "sourced 1.0"
    assert caught.value.exit_code == 10


def test_a_build_that_fails_is_10_and_says_what_it_said(folder, resolve_sources):
    broken = {
        "pyproject.toml": '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
    }
    write_sdist(folder, "sourced", "1.0", more=broken)
    with pytest.raises(RecipeError, match="its build failed"):
        resolve_sources("sourced")


def test_nothing_is_run_to_find_sources(folder, monkeypatch, tmp_path):
    traces = {"setup.py": f"open({str(tmp_path / 'ran')!r}, 'w')\n"}
    write_sdist(folder, "sourced", "1.0", backend="maturin", more=traces)
    with LoopbackIndex([folder]) as index:
        monkeypatch.setenv("UV_DEFAULT_INDEX", index.simple_url)
        (source,) = find_sources(["sourced"], HERE, configured_indexes())
        workshop = Workshop(platform=HERE, cache=Cache(tmp_path / "cache"), progress=Silent())
        with pytest.raises(RecipeError):
            build_source(source, Indexes(), workshop)
    assert not (tmp_path / "ran").exists()


# llava-pack's own name on an index.


def test_an_index_that_offers_our_own_name_gives_nothing_to_a_build(folder, monkeypatch):
    """Dependency confusion: the index has llava-pack 99.0, and a package there that asks for it."""
    write_wheel(folder, "llava_pack", "99.0")
    write_wheel(folder, "asking", "1.0", "LLaVA_Pack>=1")
    with LoopbackIndex([folder]) as index:
        monkeypatch.setenv("UV_DEFAULT_INDEX", index.simple_url)
        wheels = resolve(["larger"], HERE, configured_indexes())
        assert [wheel.name for wheel in wheels] == ["larger", "small-one"]
        for wanted in (["asking"], ["llava-pack"], ["larger", "llava.pack==99.0"]):
            with pytest.raises(RecipeError, match="where anybody may own that name"):
                resolve(wanted, HERE, configured_indexes())
        monkeypatch.setattr("llava_pack.lock.resolve.refuse_own_name", lambda _names: None)
        wheels = resolve(["asking"], HERE, configured_indexes())  # the mutation
        assert ("llava-pack", "99.0") in {(wheel.name, wheel.version) for wheel in wheels}


def test_what_a_bundle_asks_an_index_for_is_not_llava_pack(monkeypatch):
    recipe = read_recipe(find_recipe("llava-v1.5-7b")).value
    for line in target_requirements(recipe, TorchChoice(backend=None, requirements=("torch",))):
        assert canonicalize_name(Requirement(line).name) != "llava-pack"
