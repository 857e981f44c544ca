"""What only the packing side can do, said in one line where somebody tries it on a server."""

from importlib.util import find_spec

from llava_pack.format.errors import UsageError


def need_laptop(command: str) -> None:
    """Refuse a command that an installed bundle's environment has no means for.

    Raises:
        UsageError: this llava-pack came out of a bundle, which carries no package resolver.
    """
    if find_spec("uv") is None:
        raise UsageError(
            "this command is for the connected side; this llava-pack comes from a bundle",
            subject=command,
            hint=f"on the laptop, in a clone: uv tool install . and then llava-pack {command}",
        )
