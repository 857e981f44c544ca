"""A build asks for the programs of a bundle, whatever is installed of llava-pack."""

import pytest

from llava_pack.assemble.requirements import target_requirements
from llava_pack.assemble.runtime_files import PROGRAMS
from llava_pack.format.errors import PackError
from llava_pack.lock.torch_build import TorchChoice
from llava_pack.recipe import find_recipe, read_recipe


@pytest.fixture
def demo():
    return read_recipe(find_recipe("demo")).value


@pytest.mark.parametrize("lacking", PROGRAMS)
def test_a_clone_that_was_installed_before_a_program_came_is_refused(
    demo, lacking, tmp_path, monkeypatch
):
    installed = tmp_path / "llava_pack-0.0.1.dist-info"
    installed.mkdir()
    lines = [f"Requires-Dist: {name}" for name in PROGRAMS if name != lacking]
    head = ["Metadata-Version: 2.1", "Name: llava-pack", "Version: 0.0.1"]
    (installed / "METADATA").write_text("\n".join([*head, *lines, ""]))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PackError, match=lacking) as refused:
        target_requirements(demo, TorchChoice(requirements=()))
    assert "pip install -e ." in refused.value.hint
