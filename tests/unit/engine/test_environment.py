import gc

import pytest

from llava_pack.engine import environment


@pytest.fixture(autouse=True)
def collected():
    yield
    gc.unfreeze()


def test_what_is_made_while_importing_is_never_looked_at_again():
    with environment.importing():
        assert not gc.isenabled()
        made = ["as a module that was imported"]
        assert any(one is made for one in gc.get_objects())
    assert gc.isenabled()
    assert not any(one is made for one in gc.get_objects())


def test_garbage_is_collected_again_where_an_import_fails():
    with pytest.raises(ImportError), environment.importing():
        raise ImportError
    assert gc.isenabled()
