"""`llava-pack keys`: API keys with a name, scopes, quotas and an expiry."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llava_pack.cli import console
from llava_pack.cli.arguments import AsJson
from llava_pack.cli.language import translated

if TYPE_CHECKING:
    from llava_pack.serve.access.key import Key
    from llava_pack.serve.access.key_store import KeyStore

app = typer.Typer(
    name="keys",
    help="Manage API keys: one per person, with scopes and quotas.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Store = Annotated[
    Path | None,
    typer.Option("--file", help="The key file. Default: the one of this installation or account."),
]
_NEVER = "never"


@app.command()
def add(
    name: Annotated[
        str, typer.Argument(help="Name of the key's owner, for lists and the audit log.")
    ],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="Comma-separated: ask, observe, page, admin. Default: ask,page."),
    ] = None,
    quota: Annotated[
        list[str] | None,
        typer.Option(help="N/min for requests, N/day for tokens. Default: unlimited."),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(help="90d, 12h, or a date (to the end of that day). Default: never."),
    ] = None,
    file: Store = None,
    as_json: AsJson = False,
) -> None:
    """Create a key and print it once; only its SHA-256 is stored.

    A running server accepts it within a second. Scopes: `ask` grants the API, `page` the page,
    `observe` the probes, metrics and health's questions; `admin` is reserved and grants nothing
    yet.

    \b
    Examples:
      llava-pack keys add ann
      llava-pack keys add nightly-batch --scope ask --quota 60/min --quota 200000/day
      llava-pack keys add prometheus --scope observe --expires 90d
    """
    from llava_pack.serve.access.key import checked_name, new_key, ordered, read_expiry, read_quota

    now_s = time.time()
    key, text = new_key(
        checked_name(name),
        scopes=ordered(part for given in scope or ["ask,page"] for part in given.split(",")),
        quota=read_quota(quota or []),
        created=int(now_s),
        expires=read_expiry(expires, now_s) if expires else 0,
    )
    _store(file).add(key)
    if as_json:
        console.document("keys", {**_shown(key, now_s), "key": text})
        return
    console.say(f"{key.name}: {_terms(key, now_s)}; this is the only time that the key is shown:")
    console.verbatim(text)


@app.command("list")
def show(file: Store = None, as_json: AsJson = False) -> None:
    """List the keys, without their secret parts.

    \b
    Examples:
      llava-pack keys list
      llava-pack keys list --json
    """
    store, now_s = _store(file), time.time()
    keys = store.read()
    if as_json:
        rows = [_shown(key, now_s) for key in keys]
        console.document("keys", {"file": str(store.path), "keys": rows})
        return
    for key in keys:
        console.verbatim(f"{key.name}  {key.id}  {translated(_terms(key, now_s))}")
    if not keys:
        console.say(f"there are no keys in {store.path}: llava-pack keys add NAME")


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Name of the key to revoke.")],
    file: Store = None,
    as_json: AsJson = False,
) -> None:
    """Revoke a key; running requests may finish.

    New requests are rejected within two seconds.

    \b
    Examples:
      llava-pack keys revoke ann
    """
    key = _store(file).revoke(name)
    if as_json:
        console.document("keys", {**_shown(key, time.time()), "revoked": True})
        return
    console.say(f"{key.name} ({key.id}) is revoked; running servers reject it within two seconds")


@app.command("renew-token")
def renew_token(as_json: AsJson = False) -> None:
    """Replace the token that `serve --keep-token` uses.

    A running server accepts the old one until it stops.

    \b
    Examples:
      llava-pack keys renew-token
    """
    from llava_pack.serve.access.kept_token import renewed_token, token_path
    from llava_pack.serve.run_state import directories

    path = token_path(directories()[0])
    renewed_token(path)
    if as_json:
        console.document("keys", {"token_file": str(path), "renewed": True})
        return
    console.say(f"the next start of `llava-pack serve --keep-token` has another token: {path}")


def _store(file: Path | None) -> "KeyStore":
    from llava_pack.serve.access.key_store import KeyStore, store_path
    from llava_pack.serve.run_state import directories

    return KeyStore(file.expanduser().absolute() if file else store_path(directories()[0]))


def _shown(key: "Key", now_s: float) -> dict[str, Any]:
    fields = {name: value for name, value in key.to_fields().items() if name != "digest"}
    return {**fields, "expired": key.expired(now_s)}


def _terms(key: "Key", now_s: float) -> str:
    """Return what a key may do, for people."""
    ends = _day(key.expires) if key.expires else _NEVER
    word = "expired" if key.expired(now_s) else "expires"
    bound = key.quota.text or "unlimited"
    return f"{','.join(key.scopes)}  quota {bound}  created {_day(key.created)}  {word} {ends}"


def _day(utc_s: int) -> str:
    return datetime.fromtimestamp(utc_s, UTC).strftime("%Y-%m-%dT%H:%MZ")
