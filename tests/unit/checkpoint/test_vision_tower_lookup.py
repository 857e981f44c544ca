import pytest

from llava_pack.checkpoint.tower import resolve_vision_tower
from llava_pack.format.errors import CheckpointError

CLIP = {"mm_vision_tower": "openai/clip-tiny"}


def folder(path):
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    return path.resolve()


def test_the_given_folder_wins(tmp_path):
    model, given = folder(tmp_path / "llava"), folder(tmp_path / "given")
    folder(tmp_path / "clip-tiny")
    assert resolve_vision_tower(model, CLIP, given) == given


def test_a_given_folder_that_is_none_is_not_replaced_by_another(tmp_path):
    model = folder(tmp_path / "llava")
    folder(tmp_path / "clip-tiny")
    with pytest.raises(CheckpointError, match="absent"):
        resolve_vision_tower(model, CLIP, tmp_path / "absent")


def test_an_absolute_path(tmp_path):
    model, tower = folder(tmp_path / "llava"), folder(tmp_path / "elsewhere" / "clip")
    assert resolve_vision_tower(model, {"mm_vision_tower": str(tower)}) == tower


def test_a_path_relative_to_the_model_not_to_the_working_directory(tmp_path, monkeypatch):
    model, tower = folder(tmp_path / "llava"), folder(tmp_path / "clip")
    folder(tmp_path / "work" / "clip")
    (tmp_path / "work" / "x").mkdir()
    monkeypatch.chdir(tmp_path / "work" / "x")
    assert resolve_vision_tower(model, {"mm_vision_tower": "../clip"}) == tower


def test_inside_the_model_folder(tmp_path):
    model, tower = folder(tmp_path / "llava"), folder(tmp_path / "llava" / "vision")
    assert resolve_vision_tower(model, {"mm_vision_tower": "vision"}) == tower


@pytest.mark.parametrize("named", ["openai/clip-tiny", "clip-tiny", "C:\\models\\clip-tiny"])
def test_a_sibling_called_like_the_last_part(tmp_path, named):
    model, tower = folder(tmp_path / "llava"), folder(tmp_path / "clip-tiny")
    assert resolve_vision_tower(model, {"mm_vision_tower": named}) == tower


def test_a_sibling_of_a_relative_model_folder(tmp_path, monkeypatch):
    model, tower = folder(tmp_path / "llava"), folder(tmp_path / "clip-tiny")
    monkeypatch.chdir(model)
    assert resolve_vision_tower(model.relative_to(model), CLIP) == tower


def test_nothing_found_lists_where_it_looked(tmp_path):
    model = folder(tmp_path / "llava")
    with pytest.raises(CheckpointError) as caught:
        resolve_vision_tower(model, CLIP)
    message = str(caught.value)
    assert "'openai/clip-tiny'" in message
    assert str(tmp_path / "llava" / "openai" / "clip-tiny") in message
    assert str(tmp_path / "clip-tiny") in message
    assert "--vision-tower" in caught.value.hint


def test_a_folder_without_configuration_is_no_tower(tmp_path):
    model = folder(tmp_path / "llava")
    (tmp_path / "clip-tiny").mkdir()
    with pytest.raises(CheckpointError):
        resolve_vision_tower(model, CLIP)


@pytest.mark.parametrize("config", [{}, {"mm_vision_tower": None}, {"mm_vision_tower": ".."}])
def test_a_config_that_names_no_tower(tmp_path, config):
    with pytest.raises(CheckpointError, match="the vision tower was not found"):
        resolve_vision_tower(folder(tmp_path / "llava"), config)
