"""What the sources say to people, as templates: `expected {1}, got {2}`. Read from the code itself.

A message is a literal or an f-string where it is given to a person: an error, a line of talk, a
phase of the progress, a finding. A hole stands for a value, numbered in its order. Names are
followed to the literals that they hold, calls to what the function returns.
"""

import ast
import functools
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.support.sources import SOURCES, parsed

HOLE = "\0"
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_ELSEWHERE = (
    *("llava_pack/serve/api", "llava_pack/serve/gateway", "llava_pack/serve/admission"),
    *("llava_pack/target/receipt_page.py", "llava_pack/health/documents.py"),
    *("llava_pack/health/support.py", "llava_pack/health/logbook.py"),
)
"""What these say goes to programs over HTTP, or into files: in English."""
_NAMED = {"hint", "fix", "why", "need", "does", "what"}
_TALK = {"say", "data", "warning", "note", "start", "_say", "translated", "_labelled"}
_PROMPTS = {"ask_passphrase", "read_passphrase"}
_LAYERS = {"ok", "warn", "fail", "unknown"}
_LINES = {
    *("line", "_line", "lines", "_lines", "summary", "_signer", "_reasons"),
    *("target_needs", "server_needs", "media", "told", "asked", "refusals", "_of_gpu", "_ways_out"),
}
"""Functions that return lines for people."""
_MOST_FORMS = 8
_MARK = re.compile(r"[\s!?→✓✗,;]*")


def templates() -> dict[str, set[str]]:
    """Return the messages of the package, and of each where it stands."""
    found: dict[str, set[str]] = {}
    for path in SOURCES:
        place = path.relative_to(ROOT).as_posix()
        if place.startswith(_ELSEWHERE):
            continue
        for text in texts_of(path):
            found.setdefault(text, set()).add(place)
    return found


def texts_of(path: Path) -> set[str]:
    """Return the messages of a module, a line each."""
    lines = (line for text in _Reader(path).messages() for line in text.strip("\n").split("\n"))
    bodies = (line[len(_MARK.match(line)[0]) :].rstrip() for line in lines)  # type: ignore[index]
    return {numbered(body) for body in bodies if is_prose(body)}


def help_texts() -> dict[str, set[str]]:
    """Return what `--help` shows: paragraphs of the commands, a line for each option."""
    from typer.main import get_command

    from llava_pack.cli.app import app

    found: dict[str, set[str]] = {}

    def visit(command: Any, path: str) -> None:
        panel = getattr(command, "rich_help_panel", None)
        texts = [
            panel if isinstance(panel, str) else "",
            *(command.help or "").split("\n\n"),
            command.short_help or "",
        ]
        texts.append(command.get_short_help_str(limit=1000).removesuffix("."))
        texts += [getattr(one, "help", None) or "" for one in command.params]
        for text in texts:
            plain = " ".join(text.split())
            if plain and not plain.startswith("\b"):
                found.setdefault(plain, set()).add(path)
        for name, inner in getattr(command, "commands", {}).items():
            visit(inner, f"{path} {name}")

    visit(get_command(app), "llava-pack")
    return found


def numbered(text: str) -> str:
    """Return a text with its holes numbered."""
    parts = text.split(HOLE)
    return parts[0] + "".join(f"{{{n}}}{part}" for n, part in enumerate(parts[1:], 1))


def is_prose(text: str) -> bool:
    """Return whether there is something to translate: words that are not options, paths, commands."""
    bare = re.sub(r"\S*[/_=<>\0-]\S*|--?\w\S*", " ", text)
    return (
        bool(re.search(r"[A-Za-z]{2,}", bare))
        and text not in _LAYERS
        and not re.fullmatch(r"llava-pack [^;:,]+", text)
    )


@functools.cache
def _errors() -> frozenset[str]:
    """Return the names of our error classes."""
    bases = {
        node.name: {getattr(base, "id", "") for base in node.bases}
        for path in SOURCES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ClassDef)
    }
    names = {"PackError"}
    while more := {name for name, of in bases.items() if of & names} - names:
        names |= more
    return frozenset(names)


@functools.cache
def _makers(path: Path) -> dict[str, str]:
    """Return the functions of a module that make an error or a finding, and the class of it."""
    kinds = _errors() | {"FloorFinding"}
    return {
        node.name: kind
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef) and (kind := getattr(node.returns, "id", "")) in kinds
    }


def _module(name: str) -> Path | None:
    path = ROOT / (name.replace(".", "/") + ".py")
    return path if name.startswith("llava_pack") and path.is_file() else None


@functools.cache
def _scope(path: Path) -> dict[str, tuple[Path, ast.AST]]:
    """Return what a module's global names stand for."""
    names: dict[str, tuple[Path, ast.AST]] = {}
    for node in parsed(path).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                names[name] = (path, value)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                names[name] = (path, value)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names[name] = (path, node)
    for inner in ast.walk(parsed(path)):
        if isinstance(inner, ast.ImportFrom) and (home := _module(inner.module or "")):
            for alias in inner.names:
                names.setdefault(alias.asname or alias.name, (home, ast.Name(alias.name)))
    return names


class _Reader:
    """Reads one module."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local: dict[str, list[ast.expr]] = {}

    def messages(self) -> Iterator[str]:
        """Yield every message."""
        tree = parsed(self._path)
        functions = [node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS)]
        inner = {id(node) for one in functions for node in ast.walk(one)} - {
            id(one) for one in functions
        }
        tops = [one for one in functions if id(one) not in inner]
        within = {id(node) for one in tops for node in ast.walk(one)}
        for root in [*tops, None]:
            nodes = ast.walk(root) if root else (n for n in ast.walk(tree) if id(n) not in within)
            self._local = _assigned(root) if root else {}
            for call in nodes:
                if isinstance(call, _FUNCTIONS) and call.name in _LINES:
                    yield from self._lines(call)
                elif isinstance(call, ast.Call):
                    for value in self._spoken(call):
                        yield from self._texts(value)
                    yield from self._passed(call)

    def _lines(self, function: ast.AST) -> Iterator[str]:
        """Yield the texts in what a function returns or yields."""
        for node in ast.walk(function):
            if isinstance(node, ast.Return | ast.Yield | ast.YieldFrom) and node.value:
                inner = {
                    id(each)
                    for one in ast.walk(node.value)
                    if isinstance(one, ast.JoinedStr)
                    for each in ast.walk(one)
                    if each is not one
                }
                for text in ast.walk(node.value):
                    if isinstance(text, ast.JoinedStr | ast.Constant) and id(text) not in inner:
                        yield from self._texts(text)

    def _passed(self, call: ast.Call) -> Iterator[str]:
        """Yield what a function of the module gets for an error or a finding that it makes."""
        made = _makers(self._path).get(getattr(call.func, "id", ""), "")
        for value in call.args if made else ():
            texts = self._texts(value)
            yield from (text for text in texts if made == "FloorFinding" or " " in text)

    def _spoken(self, call: ast.Call) -> Iterator[ast.expr]:
        """Yield the arguments of a call that people read."""
        name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
        owner = getattr(getattr(call.func, "value", None), "attr", "") or getattr(
            getattr(call.func, "value", None), "id", ""
        )
        yield from (one.value for one in call.keywords if one.arg in _NAMED or _phrase(one))
        if name in _errors() or name.endswith(("refusal", "Defect")):
            yield from call.args[:1]
            yield from (one.value for one in call.keywords if one.arg == "message")
        elif name == "FloorFinding":
            yield from (call.args[0], *call.args[2:5])
        elif name in _LAYERS and (owner.isupper() or owner in {"self", "layer"}):
            yield from call.args[:1]
        elif name in _TALK | _PROMPTS and call.args and owner not in {"log", "_log"}:
            yield call.args[0]

    def _texts(self, node: ast.AST | None, depth: int = 0) -> Iterator[str]:
        """Yield the texts that an expression can be, and those of its holes."""
        forms = list(self._forms(node, depth))
        yield from forms
        if isinstance(node, ast.JoinedStr | ast.BinOp):
            for part in ast.walk(node):
                if isinstance(part, ast.FormattedValue) and depth < 3:
                    yield from self._fragments(part.value, depth + 1)

    def _fragments(self, node: ast.AST, depth: int) -> Iterator[str]:
        if isinstance(node, ast.Name | ast.IfExp | ast.Call | ast.BoolOp):
            yield from (text for text in self._texts(node, depth) if " " in text.strip())

    def _forms(self, node: ast.AST | None, depth: int = 0) -> Iterator[str]:
        if depth > 4:
            return
        match node:
            case ast.Constant(value=str(text)):
                yield text
            case ast.JoinedStr(values=values):
                parts = [list(self._piece(value)) for value in values]
                forms = ["".join(form) for form in itertools.product(*parts)]
                yield from forms if len(forms) <= _MOST_FORMS else forms[:1]
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                for one in list(self._forms(left, depth)) or [HOLE]:
                    for other in list(self._forms(right, depth)) or [HOLE]:
                        yield one + other
            case ast.IfExp(body=body, orelse=orelse):
                yield from self._forms(body, depth)
                yield from self._forms(orelse, depth)
            case ast.BoolOp(values=values):
                for value in values:
                    yield from self._forms(value, depth)
            case ast.Name(id=name):
                for value in self._local.get(name, []):
                    yield from self._texts(value, depth + 1)
                if name not in self._local:
                    yield from self._global(name, depth + 1)
            case ast.Call(func=ast.Name(id=name)):
                yield from self._returned(name, depth + 1)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name)):
                yield from self._returned(name, depth + 1)

    def _piece(self, node: ast.expr) -> Iterator[str]:
        """Yield what a piece of an f-string can be: words of its own, or a hole."""
        match node:
            case ast.Constant(value=str(text)):
                yield text
            case ast.FormattedValue(
                value=ast.IfExp(body=ast.Constant(value=str(a)), orelse=ast.Constant(value=str(b)))
            ):
                yield a
                yield b
            case _:
                yield HOLE

    def _global(self, name: str, depth: int) -> Iterator[str]:
        if (known := _scope(self._path).get(name)) is None:
            return
        home, value = known
        if isinstance(value, ast.Name) and home != self._path:
            yield from _Reader(home)._global(value.id, depth)
        elif isinstance(value, ast.expr):
            yield from _Reader(home)._forms(value, depth)

    def _returned(self, name: str, depth: int) -> Iterator[str]:
        for node in ast.walk(parsed(self._path)):
            if isinstance(node, ast.FunctionDef) and node.name == name:
                outer, self._local = self._local, _assigned(node)
                for inner in ast.walk(node):
                    if isinstance(inner, ast.Return) and inner.value is not None:
                        yield from self._texts(inner.value, depth)
                self._local = outer


def _phrase(keyword: ast.keyword) -> bool:
    """Return whether it is a subject in words: no path, no name."""
    text = getattr(keyword.value, "value", None)
    return keyword.arg == "subject" and isinstance(text, str) and " " in text


def _assigned(function: ast.AST) -> dict[str, list[ast.expr]]:
    """Return what the names of a function are set to."""
    names: dict[str, list[ast.expr]] = {}
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                names.setdefault(name, []).append(value)
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)) if len(
                targets
            ) == len(values):
                for target, value in zip(targets, values, strict=True):
                    if isinstance(target, ast.Name):
                        names.setdefault(target.id, []).append(value)
            case ast.AugAssign(target=ast.Name(id=name), value=value):
                names.setdefault(name, []).append(value)
            case ast.NamedExpr(target=ast.Name(id=name), value=value):
                names.setdefault(name, []).append(value)
    return names
