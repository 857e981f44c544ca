import json
from dataclasses import replace

import pytest

from llava_pack.format.errors import IntegrityError
from llava_pack.format.manifest import Rewrite
from llava_pack.format.pointers import installed_file, replaced, value_at

RULE = Rewrite(
    path="model/a/config.json",
    pointer="/mm_vision_tower",
    old="openai/clip",
    new="../clip",
    installed="{model_root}/clip",
)
PACKED = b'{\n  "z": 1,\n  "mm_vision_tower": "../clip",\n  "a": [{"b/c": "x"}]\n}\n'


def test_the_order_and_the_rest_of_a_file_stay():
    landed = installed_file(PACKED, [RULE], "/opt/models/é")
    assert list(json.loads(landed)) == ["z", "mm_vision_tower", "a"]
    assert json.loads(landed)["mm_vision_tower"] == "/opt/models/é/clip"
    assert replaced(landed, [("/mm_vision_tower", "../clip")]) == replaced(PACKED, [])


def test_values_deep_inside_can_be_changed_and_removed():
    changed = json.loads(replaced(PACKED, [("/a/0/b~1c", "y"), ("/z", None), ("/absent", None)]))
    assert changed == {"mm_vision_tower": "../clip", "a": [{"b/c": "y"}]}
    assert value_at({"a": [1]}, "/a/7") is None
    assert value_at({"a": [1]}, "/a/b/c") is None


def test_a_rule_without_a_landing_value_changes_nothing():
    packed_only = replace(RULE, installed=None, new="elsewhere")
    assert json.loads(installed_file(PACKED, [packed_only], "/x")) == json.loads(PACKED)


def test_a_file_that_does_not_hold_what_was_packed_is_refused():
    with pytest.raises(IntegrityError, match="expected"):
        installed_file(PACKED.replace(b"../clip", b"/etc/clip"), [RULE], "/x")


def test_no_place_for_the_value_is_an_error():
    with pytest.raises(IntegrityError, match="no object holds"):
        replaced(PACKED, [("/z/y", "x")])
