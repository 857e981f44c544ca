"""What an installation may lack, said in words where it is needed."""

from importlib.util import find_spec

from llava_pack.format.errors import ServeError


def need_libraries(purpose: str, *modules: str) -> None:
    """Say what is missing where only the laptop's half is installed.

    Args:
        purpose: what needs them, to end the sentence `..., which PURPOSE needs`.
        modules: their names.

    Raises:
        ServeError: one is not there.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise ServeError(
            f"this installation has no {', '.join(missing)}, which {purpose} needs",
            hint='in a clone of llava-pack: uv tool install --force ".[serve]"; or use the '
            "llava-pack that install.sh installed",
        )
