"""What options allow together, and what contradicts."""

from pathlib import Path

import pytest

from llava_pack.cli.laptop.build import archive_of
from llava_pack.cli.loading import ModelOptions
from llava_pack.cli.server.serving import ServerOptions
from llava_pack.format.errors import UsageError


@pytest.mark.parametrize("automatic", ["auto", ""])
def test_no_choice_may_be_typed_where_a_server_is_asked(automatic):
    assert ModelOptions(precision=automatic, device=automatic).need_folder() is None


def test_the_same_precision_may_be_named_twice():
    assert ModelOptions(precision="nf4", load_4bit=True).load.precision == "nf4"


def test_a_folder_and_installed_models_are_not_served_together():
    with pytest.raises(UsageError, match="cannot be served together"):
        ModelOptions(model_path=Path("m")).installed(["llava-v1.5-7b"], None)


def test_a_fence_that_is_required_cannot_be_taken_away():
    with pytest.raises(UsageError, match="contradict each other"):
        ServerOptions(fence=False, require_fence=True)


def test_a_folder_of_pictures_is_there_and_not_the_whole_machine(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    assert ServerOptions().pictures is None
    assert ServerOptions(picture_root=tmp_path / "link").pictures == tmp_path.resolve()
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "file", tmp_path / "absent", Path("/")):
        with pytest.raises(UsageError, match="expected a folder of pictures") as refused:
            _ = ServerOptions(picture_root=wrong).pictures
        assert refused.value.subject == "--picture-root"


def test_a_digest_without_its_archive_is_refused():
    with pytest.raises(UsageError, match="no archive to compare it with"):
        archive_of(None, "0" * 64)
    assert archive_of(None, None) is None
