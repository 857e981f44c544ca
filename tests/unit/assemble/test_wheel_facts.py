"""What wheels say of their licences: in SPDX's words where they are known, texts and all."""

import zipfile

import pytest

from llava_pack.assemble.wheel_facts import wheel_facts, wheel_texts
from llava_pack.format.errors import IntegrityError


def wheel(path, metadata, **texts):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a-1.dist-info/METADATA", f"Name: a\nVersion: 1\n{metadata}\n")
        for name, text in texts.items():
            archive.writestr(name, text)
    return path


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ("License-Expression: Apache-2.0 OR mit", "Apache-2.0 OR MIT"),
        ("License: MIT", "MIT"),
        ("Classifier: License :: OSI Approved :: Apache Software License", "Apache-2.0"),
        ("License: UNKNOWN\nClassifier: License :: OSI Approved :: MIT License", "MIT"),
        ("License: BSD", "BSD"),
        (
            "License: Permission is hereby granted\n        to everybody",
            "Permission is hereby granted",
        ),
        ("License: UNKNOWN", ""),
        ("", ""),
    ],
)
def test_the_licence_as_it_is_stated(tmp_path, metadata, licence):
    found = wheel_facts(wheel(tmp_path / "a-1-py3-none-any.whl", metadata))
    assert found.licence == licence


def test_texts_are_those_of_the_metadata_folder(tmp_path):
    texts = {
        "a-1.dist-info/licenses/LICENSE": "all\r\nof it\n",
        "a-1.dist-info/NOTICE.txt": "mind this\n",
        "a/LICENSE": "not the wheel's own place\n",
    }
    path = wheel(tmp_path / "a-1-py3-none-any.whl", "License: MIT", **texts)
    found = wheel_facts(path)
    assert found.texts == ("a-1.dist-info/NOTICE.txt", "a-1.dist-info/licenses/LICENSE")
    assert wheel_texts(path, found) == (
        b"==== a-1.dist-info/NOTICE.txt ====\nmind this\n\n"
        b"==== a-1.dist-info/licenses/LICENSE ====\nall\nof it\n"
    )


def test_what_is_no_wheel_is_4(tmp_path):
    path = tmp_path / "a-1-py3-none-any.whl"
    path.write_bytes(b"no zip")
    with pytest.raises(IntegrityError, match="cannot be read as a wheel"):
        wheel_facts(path)
