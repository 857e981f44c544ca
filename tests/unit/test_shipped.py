"""What a wheel of llava-pack holds beside its code: recipes, installers, and the demo's model."""

import tomllib

from tests.conftest import ROOT

SHIPPED = "llava_pack/_shipped/"


def included():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]


def test_every_recipe_and_the_demos_model_are_in_the_wheel_where_they_are_looked_for():
    found = included()
    assert all((ROOT / name).exists() for name in found)
    assert all(place == SHIPPED + name for name, place in found.items())
    recipes = {path.relative_to(ROOT).as_posix() for path in (ROOT / "bundles").glob("*.toml")}
    assert recipes <= found.keys()
    demo = tomllib.loads((ROOT / "bundles/demo.toml").read_text())
    for part in (demo["model"], demo["vision_tower"]):
        assert f"bundles/{part['source'].removeprefix('dir:')}" in found


def test_the_wheel_stays_small_with_it():
    files = [
        path
        for name in included()
        for path in ((ROOT / name).rglob("*") if (ROOT / name).is_dir() else [ROOT / name])
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert sum(path.stat().st_size for path in files) < 8_000_000
