"""How files are written: as a whole, by `llava_pack.format.files`, or for a reason given here."""

import ast
import functools

import pytest

from tests.support.sources import SOURCES, parsed

RENAMES = {
    "files:move": "it is the owner",
    "windows:move": "the owner's, on Windows",
    "disk:point": "a symbolic link, under the installer's lock",
    "package_index:NamedIndexes.fetch": "a wheel that was flushed, and hashed where it lies",
    "store:Store._take": "a file that was linked, cloned or copied out of a bundle, under that lock",
    "audit_sinks:FileSink._put_aside": "a full log, aside",
    "logfile:LogFile.emit": "a full log, aside",
    "tensor_sources:TensorSource.tensors": "names of tensors",
}
IN_PLACE = {
    "files:_opened_beside": "it is the owner",
    "help_pages:_chinese_pages.ChinesePages.write_text": "no file: a page of help",
    "trust:_lay": "into a private folder that is removed",
    "reference_answers:_run": "into a private folder that is removed",
    "repair:_program": "into a private folder that is removed",
    "parity:_salvage": "into a private folder that is removed",
    "source_packages:_build": "into a private folder that is removed",
    "resolve:_written": "into a private folder that is removed",
    "signing:_new_key": "into a private folder that is removed",
    "signing:_der_signature": "into a private folder that is removed",
    "demo_target:main": "into a private folder that is removed",
    "bounds:tell": "into a private folder, once",
    "service_files:keep_join_key": "a new file, by root, in another account's folder",
    "staging:Staging.text": "a folder in the making: its journal tells what is whole, its rename what is done",
    "staging:Staging.copy": "as above",
    "components:_with_config": "as above",
    "placing:place": "a name that was not there: nothing is replaced",
    "placing:share": "as above",
    "placing:can_share": "into a private folder that is removed",
    "signing:generate": "a key that was not there: nothing is replaced",
    "signing:write_public": "a key that was not there: nothing is replaced",
    "support_bundle:_write": "a support bundle that was not there: nothing is replaced",
    "support:_packed": "into memory",
    "stream:Sending._send_batch": "into memory",
    "part:Part.restart": "under the lock of its download, and before the bytes that it is about",
    "probe:probe": "a person names the file, which may be a pipe",
    "lock:lock": "a person names the file, which may be a pipe",
}


def functions(node, names=()):
    """Yield every call in a tree, with the qualified name of the function that it is in."""
    for child in ast.iter_child_nodes(node):
        inner = names
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = (*names, child.name)
        elif isinstance(child, ast.Call):
            yield ".".join(names), child
        yield from functions(child, inner)


def renames(call):
    """Say whether a call renames a file: one argument tells `Path.replace` from `str.replace`."""
    if not isinstance(call.func, ast.Attribute):
        return False
    name = call.func.attr
    if name == "move":
        return ast.unparse(call.func.value) == "shutil"
    if name in {"replace", "rename", "renames"} and ast.unparse(call.func.value) == "os":
        return True
    return name in {"replace", "rename"} and len(call.args) == 1 and not call.keywords


def writes(call):
    """Say whether a call writes a file in its place, from its beginning."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
    if name not in {"open", "fdopen"}:
        return name in {"write_text", "write_bytes"}
    given = [ast.unparse(one) for one in [*call.args, *(word.value for word in call.keywords)]]
    return bool({one.strip("'") for one in given} & {"w", "x", "wb", "xb", "w+b", "wt", "w+"})


@functools.cache
def calls(path):
    return tuple(functions(parsed(path)))


def met(kind, sources=SOURCES):
    for path in sources:
        for name, call in calls(path):
            if kind(call):
                yield f"{path.stem}:{name}", f"{path}:{call.lineno}"


@pytest.mark.parametrize(("kind", "allowed"), [(renames, RENAMES), (writes, IN_PLACE)])
def test_a_file_is_replaced_by_its_owner_alone(kind, allowed):
    others = [where for name, where in met(kind) if name not in allowed]
    assert not others, "use llava_pack.format.files, or say in the table why not"


@pytest.mark.parametrize(("kind", "allowed"), [(renames, RENAMES), (writes, IN_PLACE)])
def test_no_reason_outlives_its_code(kind, allowed):
    assert allowed.keys() <= {name for name, _ in met(kind)}


@pytest.mark.parametrize(
    "line",
    [
        "os.replace(beside, path)",
        "beside.replace(path)",
        "path.with_suffix('.new').rename(path)",
        "shutil.move(beside, path)",
        "path.write_text(text, encoding='utf-8')",
        "path.write_bytes(data)",
        "open(path, 'w', encoding='utf-8').write(text)",
        "path.open(mode='wb')",
        "os.fdopen(os.open(path, flags), 'wb')",
    ],
)
def test_the_law_sees_every_way(line, tmp_path):
    """The mutation: what used to be written by hand."""
    module = tmp_path / "module.py"
    module.write_text(f"def keep(path, text):\n    {line}\n")
    seen = {name for kind in (renames, writes) for name, _ in met(kind, [module])}
    assert seen == {"module:keep"}


@pytest.mark.parametrize(
    "line",
    [
        "text.replace('a', 'b')",
        "dataclasses.replace(value, name=path)",
        "day.replace(tzinfo=UTC)",
        "path.open('rb')",
        "path.open('a', encoding='utf-8')",
    ],
)
def test_the_law_is_about_files_alone(line):
    (call, *_) = (one for _, one in functions(ast.parse(line)))
    assert not renames(call)
    assert not writes(call)
