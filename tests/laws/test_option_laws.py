"""Options: the commands that share some share all, a mistake has one message, and each is honoured.

What is looked at comes from the dataclasses and from the commands themselves, so an option that is
added tomorrow is looked at too; a table below that has no row for it fails.
"""

import inspect
import os
import re
import socket
import sys
import tempfile
from contextlib import closing
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
from typer.main import get_command

from llava_pack.cli import main
from llava_pack.cli.app import app
from llava_pack.cli.both.remote import RemoteOptions
from llava_pack.cli.both.sampling import QuestionOptions
from llava_pack.cli.laptop.options import PackChoices, PackOptions
from llava_pack.cli.loading import ModelOptions
from llava_pack.cli.parameters import typed_again
from llava_pack.cli.server.fronting import ReplicaOptions
from llava_pack.cli.server.nodes import OF_JOIN, NodeOptions
from llava_pack.cli.server.serve import serve_plan
from llava_pack.cli.server.serving import ServerOptions
from llava_pack.engine.loading.load import load_engine
from llava_pack.format.errors import UsageError
from llava_pack.serve.supervision.commands import engine_command
from llava_pack.serve.supervision.plans import LoadOptions, folder_plan

COMMANDS = get_command(app).commands
TAKEN_WHOLE = {
    ModelOptions: ("model_path", {"serve", "start", "swap", "chat", "ask"}),
    QuestionOptions: ("temperature", {"chat", "ask"}),
    RemoteOptions: ("via", {"chat", "ask"}),
    PackOptions: ("target", {"plan", "lock", "build", "doctor"}),
    PackChoices: ("torch_backend", {"plan", "lock", "build", "deploy", "doctor"}),
    ServerOptions: ("stall_s", {"serve"}),
    NodeOptions: ("fingerprint", {"serve"}),
    ReplicaOptions: ("replica_key_file", {"serve", "start"}),
}
"""Of each dataclass: an option by which the commands that have it are found, and who they are."""
WAYS = {
    "serve": ["serve", "--port", "0"],
    "start": ["start"],
    "swap": ["swap", "old"],
    "chat": ["chat", "--prompt", "x"],
    "ask": ["ask", "--images", "photos", "--prompt", "x", "--out", "answers.jsonl"],
}
"""How each command that loads is called, without the options that say what."""
_FOLDER = ["--model-path", "folder"]
MISTAKES = {
    "model_path": ["--vision-tower", "tower", "--model-base", "base"],
    "vision_tower": ["--vision-tower", "tower"],
    "model_base": ["--model-base", "base"],
    "tower": ["--tower", "packed"],
    "precision": [*_FOLDER, "--precision", "int4"],
    "load_4bit": [*_FOLDER, "--load-4bit", "--precision", "fp16"],
    "load_8bit": [*_FOLDER, "--load-8bit", "--load-4bit"],
    "device": [*_FOLDER, "--device", "tpu"],
    "slots": [*_FOLDER, "--slots", "257"],
    "context": [*_FOLDER, "--context", "2"],
    "conv_mode": [*_FOLDER, "--conv-mode", "none"],
    "gpus": [*_FOLDER, "--gpus", "0"],
    "picture_mode": [*_FOLDER, "--picture-mode", "own"],
}
NO_REPLICAS = ReplicaOptions()
OTHER_MODEL = {
    "model_path": Path("another"),
    "vision_tower": Path("tower"),
    "model_base": Path("base"),
    "tower": "stock",
    "precision": "fp32",
    "load_4bit": True,
    "load_8bit": True,
    "device": "cpu",
    "slots": 3,
    "context": 64,
    "conv_mode": "llava_v0",
    "gpus": 2,
    "picture_mode": "llava",
}


def shape(parameter):
    """Return what a person sees of an option."""
    names = (*parameter.opts, *parameter.secondary_opts)
    return names, parameter.help, parameter.default, parameter.envvar


@pytest.mark.parametrize("group", TAKEN_WHOLE, ids=lambda group: group.__name__)
def test_a_command_that_takes_one_option_of_a_dataclass_takes_all_of_it(group):
    sign, names = TAKEN_WHOLE[group]
    having = {
        name: {each.name: shape(each) for each in command.params if each.name in _names(group)}
        for name, command in COMMANDS.items()
        if sign in {each.name for each in command.params}
    }
    assert having.keys() == names
    for name, options in having.items():
        assert options.keys() == _names(group), name
        assert options == next(iter(having.values())), name


CALLED_IN_WAYS = {
    name: ways
    for name, command in COMMANDS.items()
    if (ways := getattr(sys.modules.get(getattr(command.callback, "__module__", "")), "WAYS", None))
}
"""Commands that can be called in several ways, found by the table that each of them has."""


def test_the_commands_with_several_ways_are_seen():
    known = {"ask", "chat", "explain", "health", "probe", "stop", "tunnel"}
    assert known <= CALLED_IN_WAYS.keys()


@pytest.mark.parametrize(
    ("name", "way"), [(name, way) for name, ways in CALLED_IN_WAYS.items() for way in ways]
)
def test_what_does_not_go_with_the_way_a_command_is_called_is_refused(name, way, capsys):
    ways, options = CALLED_IN_WAYS[name], {one.name: one for one in COMMANDS[name].params}
    assert {*ways, *(each for named in ways.values() for each in named)} <= {"", *options}
    others = options.keys() - {way, *ways[way]} - (set() if way else ways.keys())
    for other in sorted(others):
        needed = [one for one in options.values() if one.required]
        typed = [*(_typed(options[way]) if way else ()), *_typed(options[other])]
        typed += [word for one in needed for word in _typed(one)]
        assert main([name, *typed]) == (3 if name == "health" else 2), typed
        err = capsys.readouterr().err
        assert re.search("has no meaning with|goes only with one of: [-A-Z]", err), err


def _typed(option):
    """Return an option as a person types it, with some value."""
    name = option.opts[0]
    if getattr(option, "is_flag", False):
        return [name]
    value = "packed" if option.name == "tower" else "1"  # which is one of two words
    return [*([name] if name.startswith("-") else []), value]


def test_an_option_of_a_key_or_an_archive_that_is_not_there_is_refused(tmp_path, capsys):
    (tmp_path / "secret").write_text("correct horse")
    build = ["build", "demo", "--dry-run"]
    assert main([*build, "--passphrase-file", str(tmp_path / "secret")]) == 2
    assert "--passphrase-file: " in capsys.readouterr().err
    assert main(["tunnel", "ada@gpu01", "--token-file", str(tmp_path / "secret")]) == 2
    assert "--token-file: " in capsys.readouterr().err
    assert main([*build, "--record", "--runtime", "upstream"]) == 2


def _names(group):
    return {field.name for field in fields(group)}


def test_the_tables_of_this_test_have_a_row_for_each_option():
    assert MISTAKES.keys() == OTHER_MODEL.keys() == _names(ModelOptions)
    assert WAYS.keys() == TAKEN_WHOLE[ModelOptions][1]


@pytest.mark.parametrize("field", MISTAKES)
def test_a_mistake_has_one_message_and_one_exit_code_in_every_command(field, capsys):
    outcomes = {}
    for name, way in WAYS.items():
        code = main([*way, *MISTAKES[field]])
        outcomes[name] = (code, *capsys.readouterr())
    code, out, err = outcomes["serve"]
    assert set(outcomes.values()) == {(code, out, err)}, outcomes
    assert (code, out) == (2, "")
    assert err.startswith("error: ")


def test_what_must_not_be_served_is_refused_alike_by_all_that_serve(capsys):
    outcomes = set()
    for name in ("serve", "start", "swap"):
        code = main([*WAYS[name], *_FOLDER, "--conv-mode", "raw"])
        outcomes.add((code, *capsys.readouterr()))
    [(code, _out, err)] = outcomes
    assert code == 2
    assert "special tokens" in err
    assert ModelOptions(model_path=Path("m"), conv_mode="raw").need_folder() is not None


@pytest.mark.parametrize("field", sorted(_names(ModelOptions) - {"model_path"}))
def test_how_to_load_without_what_is_refused_alike_by_all_that_ask(
    field, capsys, monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    value = OTHER_MODEL[field]
    [option] = [each for each in COMMANDS["serve"].params if each.name == field]
    typed = [option.opts[0], *([] if value is True else [str(value)])]
    outcomes = set()
    for name in ("chat", "ask"):
        code = main([*WAYS[name], *typed])
        outcomes.add((code, *capsys.readouterr()))
    [(code, _out, err)] = outcomes
    assert code == 2
    assert err.startswith(f"error: {typed[0]}: ")


@pytest.mark.parametrize("field", OTHER_MODEL)
def test_every_option_of_a_model_reaches_the_engine(field):
    """A process of its own is told it by its command, one in this process as an argument."""
    plain = ModelOptions(model_path=Path("m"))
    other = replace(plain, **{field: OTHER_MODEL[field]})
    commands = [
        engine_command(folder_plan(each.folder, each.load), Path("/s")).argv
        for each in (plain, other)
    ]
    assert commands[0] != commands[1]
    assert (plain.folder, plain.load) != (other.folder, other.load)
    assert inspect.signature(load_engine).parameters.keys() >= _names(LoadOptions)


@pytest.fixture
def keys(tmp_path):
    path = tmp_path / "team"
    path.write_text("k" * 32)
    path.chmod(0o600)
    return path


@pytest.fixture
def other_server(keys, tmp_path):
    """Return another value of each option of a server."""
    with tempfile.TemporaryDirectory(prefix="lp-") as folder:  # short: a socket is made in it
        yield {
            "host": "127.0.0.2",
            "port": _free_port(),
            "socket": Path(folder, "s"),
            "token": False,
            "keep_token": True,
            "api_key_file": keys,
            "keys": tmp_path / "people" / "keys.json",
            "audit_to": "off",
            "audit_size_mb": 7,
            "audit_keep": 7,
            "served_model_name": ["gpt-4o"],
            "public_url": "https://llava.corp/vlm",
            "allowed_host": ["host.docker.internal"],
            "root_path": "/vlm",
            "allow_origin": ["https://chat.corp"],
            "trusted_proxy": ["127.0.0.1"],
            "web": False,
            "queue": 7,
            "picture_root": tmp_path,
            "drain_s": 7.0,
            "stall_s": 7.0,
            "reached_as": "ada@bastion,root@gpu01:42354",
            "as_root": True,
            "fence": False,
            "require_fence": True,
        }


def _free_port():
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        return taken.getsockname()[1]


@pytest.mark.parametrize("field", sorted(_names(ServerOptions)))
def test_every_option_of_a_server_reaches_its_run(field, other_server, monkeypatch, tmp_path):
    """Whoever changes one gets another run, or is let through where the other is refused."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    plain = ServerOptions(port=_free_port())
    other = replace(plain, **{field: other_server[field]})
    assert other_server.keys() == _names(ServerOptions)
    assert _run_of(plain) != _run_of(other)


def test_every_option_of_replicas_reaches_the_run(keys, monkeypatch, tmp_path):
    """One that cannot be reached is asked again later; an engine here serves meanwhile."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    fronts = [{}, {"replica": [f"127.0.0.1:{_free_port()}"]}]
    fronts += [fronts[-1] | {"replica_key_file": keys}]
    assert fronts[-1].keys() == _names(ReplicaOptions)
    server = ServerOptions(port=_free_port())
    runs = [_run_of(server, ReplicaOptions(**front)) for front in fronts]
    assert runs[0] != runs[1] != runs[2]


def _run_of(server, front=NO_REPLICAS):
    """Return what a run would be, but for what is drawn at each start."""
    plan = serve_plan([folder_plan(Path("m"), LoadOptions())], None, server, front, {})
    address = plan.listening.getsockname()
    plan.listening.close()
    policy = replace(plan.policy, start_secret="", secrets=plan.policy.secrets and ("drawn",))
    state = replace(plan.state, token="drawn" if plan.state.token else "", started=0, llava_path="")
    told = vars(plan) | {"listening": address, "policy": policy, "state": state}
    return told | {"command": plan.command.keywords, "notifier": None, "root": _as_root(server)}


def _as_root(server):
    try:
        server.refuse_root()
    except UsageError:
        return False
    return True


_PRINTED = ["--join", "10.0.0.1:29500", "--rank", "1", "--fingerprint", "ab" * 32]
MISTAKES_OF_NODES = {
    "nodes": ["--nodes", "2"],
    "address": ["--address", "10.0.0.1"],
    "join_port": ["--join-port", "29600"],
    "shared_network": ["--shared-network"],
    "join": ["--join", "10.0.0.1"],
    "rank": ["--rank", "1"],
    "fingerprint": ["--fingerprint", "ab" * 32],
}


@pytest.mark.parametrize("field", MISTAKES_OF_NODES)
def test_what_is_said_of_nodes_without_the_rest_is_refused(field, capsys):
    assert MISTAKES_OF_NODES.keys() == _names(NodeOptions)
    assert main(["serve", *MISTAKES_OF_NODES[field]]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {MISTAKES_OF_NODES[field][0]}: "), err
    assert "hint: leave it out" in err


@pytest.mark.parametrize(
    "name", sorted({one.name for one in COMMANDS["serve"].params} - OF_JOIN - {"ctx"})
)
def test_what_a_head_says_is_refused_where_it_is_joined(name, capsys):
    [option] = [one for one in COMMANDS["serve"].params if one.name == name]
    words = [*_typed(option), *(["--join-port", "29600"] if name == "join_port" else [])]
    typed = words[2:] or words
    code = main(["serve", *_PRINTED, *typed])
    assert code == 2, typed
    assert typed[0] in capsys.readouterr().err


OTHER_PACK = {
    "recipe": "llava-v1.5-13b",
    "target": "TARGET",
    "platform": "aarch64-manylinux_2_35",
    "python": "3.12",
    "cuda": "13",
    "torch_backend": "cpu",
    "exclude_newer": "2026-10-01",
    "runtime": "upstream",
    "layout": "hf",
    "quantize": "nf4",
    "merge": True,
    "model": "ms:owner/llava",
    "base": "ms:owner/vicuna",
    "tower": ["packed", "ms:owner/clip"],
    "mirror": "cn",
    "require_python": True,
    "without_wheels": True,
}


@pytest.mark.parametrize("field", sorted(_names(PackOptions)))
def test_every_option_of_a_build_reaches_it(field, monkeypatch, tmp_path):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1790000000")
    assert OTHER_PACK.keys() == _names(PackOptions)
    plain = PackOptions(recipe="llava-v1.5-7b")
    if field == "base":
        plain = replace(plain, recipe="llava-v1.5-7b-lora")
    other = replace(plain, **{field: OTHER_PACK[field]})
    if field == "target":
        assert main(["probe", "--here", "--out", str(tmp_path / "t.json")]) == 0
        other = replace(plain, target=tmp_path / "t.json")
    assert asdict(plain.request()) != asdict(other.request())


@pytest.mark.parametrize("field", sorted(_names(PackOptions)))
def test_what_plan_was_asked_for_is_asked_of_build_again(field):
    """The line that `plan` ends with builds what it has looked at."""
    [option] = [one for one in COMMANDS["plan"].params if one.name == field]
    value = OTHER_PACK[field]
    each = value if isinstance(value, list) else [value]
    words = [[option.opts[0], *([] if one is True else [one])] for one in each]
    typed = [] if field == "recipe" else [word for pair in words for word in pair]
    planned = COMMANDS["plan"].make_context("plan", [OTHER_PACK["recipe"], *typed])
    built = COMMANDS["build"].make_context("build", typed_again(planned, PackOptions))
    for name in _names(PackOptions):
        assert built.params[name] == planned.params[name]
