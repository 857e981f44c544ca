"""What a laptop runs imports on Windows: no module of POSIX alone at its top, no flag that is not there."""

import ast

import pytest

from tests.support.sources import PACKAGE, SOURCES, parsed

POSIX_ONLY = frozenset(
    (
        "fcntl",
        "grp",
        "posix",
        "pty",
        "pwd",
        "readline",
        "resource",
        "spwd",
        "syslog",
        "termios",
        "tty",
    )
)
POSIX_NAMES = frozenset(
    (
        *("O_CLOEXEC", "O_DIRECTORY", "O_NOCTTY", "O_NOFOLLOW", "O_NONBLOCK", "AF_UNIX"),
        *("SIGHUP", "SIGKILL", "SIGUSR1", "SIG_BLOCK", "pthread_sigmask"),
        *("chown", "fork", "getegid", "geteuid", "getgid", "getuid", "killpg", "setsid", "statvfs"),
    )
)
OF_SERVERS = tuple(
    f"llava_pack.{name}" for name in ("cli.server", "serve", "engine", "llava_serve", "health.run")
)
"""What these import inside functions is imported on a server; their tops are imported everywhere."""


def _name(path):
    inside = path.relative_to(PACKAGE.parent).with_suffix("")
    parts = inside.parts[:-1] if inside.name == "__init__" else inside.parts
    return ".".join(parts)


MODULES = {_name(path): path for path in SOURCES}


def _of_other_systems(node):
    """Say whether a block asks for the platform, or is read by type checkers alone."""
    asked = ast.dump(node.test) if isinstance(node, ast.If) else ""
    return "platform" in asked or "TYPE_CHECKING" in asked


def _top(tree):
    """Yield the nodes that run when a module is imported on any system."""
    left = list(tree.body)
    while left:
        node = left.pop()
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            left += [*node.args.defaults, *filter(None, node.args.kw_defaults)]
        elif not _of_other_systems(node):
            left += ast.iter_child_nodes(node)


def imported(nodes):
    """Yield the names of modules, and what is taken from them, which may be modules too."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{one.name}" for one in node.names)


def reached():
    """Return the modules that a command of the laptop's side can import."""
    left = [
        name
        for name in MODULES
        if name.startswith(("llava_pack.cli.laptop", "llava_pack.cli.both"))
    ]
    left += ["llava_pack", "llava_pack.__main__", "llava_pack.cli.app"]
    found = set()
    while left:
        name = left.pop()
        while name and name not in MODULES:  # a function or class of a module
            name = name.rpartition(".")[0]
        if not name or name in found:
            continue
        found.add(name)
        tree = parsed(MODULES[name])
        nodes = _top(tree) if name.startswith(OF_SERVERS) else ast.walk(tree)
        left += [one for one in imported(nodes) if one.startswith("llava_pack")]
        left.append(name.rpartition(".")[0])
    return sorted(found)


REACHED = reached()


def strangers(tree):
    """Yield what a module's top needs of POSIX."""
    nodes = list(_top(tree))
    yield from ({one.partition(".")[0] for one in imported(nodes)} & POSIX_ONLY)
    for node in nodes:
        if isinstance(node, ast.Attribute) and node.attr in POSIX_NAMES:
            yield ast.unparse(node)


def test_the_laptops_path_is_followed_into_every_package_of_it():
    packages = {name.split(".")[1] for name in REACHED if "." in name}
    assert packages >= {"assemble", "cli", "client", "convert", "fetch", "format", "lock", "target"}


@pytest.mark.parametrize("name", REACHED)
def test_a_module_of_the_laptop_needs_nothing_of_posix_at_its_top(name):
    assert not list(strangers(parsed(MODULES[name])))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import fcntl", ["fcntl"]),
        ("from pwd import getpwuid", ["pwd"]),
        ("import os\nFLAGS = os.O_RDONLY | os.O_NOFOLLOW", ["os.O_NOFOLLOW"]),
        ("import os\ndef f(uid=os.getuid()): ...", ["os.getuid"]),
        ("def f():\n    import fcntl", []),
        ('import sys\nif sys.platform != "win32":\n    import pwd', []),
        ("try:\n    import resource\nexcept ImportError: ...", ["resource"]),
    ],
)
def test_the_law_sees_what_runs_on_import(text, found):
    assert list(strangers(ast.parse(text))) == found
