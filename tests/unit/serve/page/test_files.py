"""The page's files: what they may hold, how they are served, and that no fact is written twice."""

import ast
import asyncio
import gzip
import re
from pathlib import Path

import httpx
import pytest

from llava_pack.engine.inputs.picture_formats import SUFFIXES
from llava_pack.serve import errors
from llava_pack.serve.access.policy import AccessPolicy
from llava_pack.serve.gateway.app import GatewaySettings, create_app
from llava_pack.serve.page.facts import picture_limits
from llava_pack.serve.page.files import CONTENT_POLICY, FOLDER, FRONT, page_files

_SERVE = Path(errors.__file__).parent
_MOST_BYTES, _MOST_LINES = 110_000, 300
_FILES = sorted(path.name for path in FOLDER.iterdir())
_MODULES = [name for name in _FILES if name.endswith(".js")]


def _text(name: str) -> str:
    return (FOLDER / name).read_text()


def _get(path: str, method: str = "GET", **headers: str) -> httpx.Response:
    app = create_app({}, GatewaySettings(policy=AccessPolicy(secrets=None), web=True))

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            return await http.request(method, path, headers=headers)

    return asyncio.run(ask())


def test_the_page_stays_small() -> None:
    assert sum((FOLDER / name).stat().st_size for name in _FILES) < _MOST_BYTES
    long = [name for name in _FILES if len(_text(name).splitlines()) > _MOST_LINES]
    assert long == []


def test_the_front_names_every_file_and_nothing_else() -> None:
    """A module that it does not name would be loaded one round trip later."""
    named = re.findall(r'(?:src|href)="page/([^"]+)"', _text(FRONT))
    assert sorted([*named, FRONT]) == _FILES
    assert len(named) == len(set(named))


@pytest.mark.parametrize("name", _FILES)
def test_no_file_names_an_address_or_runs_text(name: str) -> None:
    """All addresses are relative, so that the page works below any path."""
    text = _text(name).replace("http://www.w3.org/2000/svg", "")
    assert not re.search(
        r"https?:|//[a-z]|@import|url\(", re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE)
    )
    assert not re.search(r'(?:href|src|fetch\(|request\()\s*=?\s*["\'`]/', text)
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function",
                "DOMParser", "setHTML", "srcdoc", " style=", " onclick="):  # fmt: skip
        assert way not in text, way


@pytest.mark.parametrize("name", _MODULES)
def test_what_a_module_imports_is_there(name: str) -> None:
    for names, module in re.findall(r'import \{([^}]*)\} from "\./([^"]+)"', _text(name)):
        exported = _text(module)
        for one in (each.strip() for each in names.split(",") if each.strip()):
            kinds = r"export (?:async )?(?:const|class|function\*?)"
            assert re.search(rf"{kinds} {re.escape(one)}(?!\w)", exported), one
            text = _text(name).replace("...", " ")
            uses = len(re.findall(rf"(?<![\w.]){re.escape(one)}(?!\w)", text))
            assert uses > 1, f"{one} is imported for nothing"


def test_every_word_is_said_somewhere_and_every_word_that_is_said_is_there() -> None:
    rows = set(
        re.findall(
            r'^  "?(\w+)"?: \[', _text("words.js").partition("export const ERRORS")[0], re.MULTILINE
        )
    )
    everything = "".join(_text(name) for name in _FILES if name != "words.js")
    said = set(re.findall(r'say\(\s*"(\w+)"', everything))
    said |= set(re.findall(r'data-(?:say|label|placeholder|title)="(\w+)"', everything))
    assert said <= rows
    said |= set(re.findall(r"^  (\w+)\(pen\)", _text("examples.js"), re.MULTILINE))
    for row in rows - said:
        assert re.search(rf'["\'`]{row}["\'`]', everything), f"{row} is never said"


def _codes() -> set[str]:
    """Return every code that an error of the server can have, as its source names them."""
    codes: set[str] = set()
    for path in _SERVE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.keyword)
                and node.arg == "code"
                and isinstance(node.value, ast.Constant)
            ):
                codes.add(node.value.value)
    return {code for code in codes if isinstance(code, str)} | set(errors._CODES.values())


def test_every_error_of_the_server_has_words_on_the_page() -> None:
    table = _text("words.js").partition("export const ERRORS")[2].partition("};")[0]
    assert _codes() - set(re.findall(r"^  (\w+): \[", table, re.MULTILINE)) == set()


def test_a_file_is_sent_once_and_compressed() -> None:
    plain = _get("/page/app.js", **{"Accept-Encoding": "identity"})
    assert plain.text == _text("app.js")
    assert plain.headers["content-type"].startswith("text/javascript")
    small = _get("/page/app.js", **{"Accept-Encoding": "gzip"})
    assert (small.headers["content-encoding"], small.text) == ("gzip", plain.text)
    assert int(small.headers["content-length"]) < int(plain.headers["content-length"])
    refused = _get("/page/app.js", **{"Accept-Encoding": "gzip;q=0, identity"})
    assert "content-encoding" not in refused.headers
    again = _get("/page/app.js", **{"If-None-Match": plain.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert _get("/page/app.js", "HEAD").status_code == 200
    assert [gzip.decompress(file.compressed) for file in page_files().values()] == [
        file.content for file in page_files().values()
    ]


@pytest.mark.parametrize("path", ["/", "/page/app.js", "/page/style.css"])
def test_nothing_inline_runs_and_nothing_from_elsewhere_loads(path: str) -> None:
    policy = _get(path).headers["content-security-policy"]
    assert policy == CONTENT_POLICY
    directives = dict(part.strip().partition(" ")[::2] for part in policy.split(";"))
    assert directives.pop("default-src") == "'none'"
    assert directives.pop("img-src") == "'self' blob:"
    assert directives.pop("require-trusted-types-for") == "'script'"
    assert set(directives.values()) == {"'self'", "'none'"}
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    "name",
    ["x.js", "../files.py", "..%2ffiles.py", "%2e%2e/files.py", "app.js/", "", ".", "app.js%00"],
)
def test_no_other_file_is_served(name: str) -> None:
    assert _get(f"/page/{name}").status_code in {404, 307}
    assert _get(f"/page/{name}", "POST").status_code in {404, 405, 307}


def test_the_facts_tell_what_the_page_needs() -> None:
    told = _get("/page/facts").json()
    assert told["models"] == []
    assert told["limits"] == picture_limits()
    assert set(told["limits"]["formats"]) | {".heic", ".heif", ".hif"} == set(SUFFIXES)
    limits = set(re.findall(r"\blimits\.(\w+)", "".join(map(_text, _MODULES))))
    assert limits == set(told["limits"])
