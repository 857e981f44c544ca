"""How long `llava-pack deploy demo` takes over an sshd that no packet leaves: first, and again.

    python benchmarks/deploy.py             with a key
    python benchmarks/deploy.py --password  with a password, and how often it is asked; as root

The sshd has a port other than 22, and a network namespace of its own without a route. What is
fetched is in the cache already; the bundle is built, sent, installed, served and asked.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from llava_pack.fetch.cache import Cache
from tests.support.account import account, asking
from tests.support.sshd import OfflineSshd


def deploy(place: list[str], environ: Mapping[str, str]) -> tuple[float, dict[str, str]]:
    command = [sys.executable, "-m", "llava_pack", "deploy", "demo", *place]
    command += ["--python", "target", "--yes", "--check", "--json"]
    began_s = time.monotonic()
    done = subprocess.run(
        command, env={**os.environ, **environ}, stdout=subprocess.PIPE, check=True
    )
    return time.monotonic() - began_s, json.loads(done.stdout)


def cache(folder: Path) -> dict[str, str]:
    """Give a cache that has what was fetched and nothing that was deployed."""
    folder.mkdir()
    for part in Cache().root.iterdir():
        if part.name not in {"bundles", "deployments"}:
            (folder / part.name).symlink_to(part)
    return {"LLAVA_PACK_CACHE": str(folder)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--password", action="store_true")
    with_password = parser.parse_args().password
    with tempfile.TemporaryDirectory(prefix="lp-") as name, ExitStack() as stack:
        folder, home = Path(name), Path(name, "home")
        folder.chmod(0o755)
        home.mkdir()
        (folder / "sshd").mkdir()
        environ, log = cache(folder / "cache"), None
        path = f"{sys.base_prefix}/bin:/usr/bin:/bin"
        settings = {"SetEnv": f"HOME={home} PATH={path}"}
        sshd = stack.enter_context(OfflineSshd(folder / "sshd", settings))
        user, options = sshd.user, list(sshd.options)
        if with_password:
            user = stack.enter_context(account(home))
            shutil.chown(home, user)
            answers, log = asking(folder)
            environ |= answers
            options = ["BatchMode=no", "PreferredAuthentications=password", *options]
        typed = [part for one in options for part in ("-o", one)]
        place = [f"{user}@gpu01", "-p", str(sshd.port), *typed, "--prefix", str(home / "pack")]
        stack.callback(stop, home / "pack" / "bin" / "llava-pack", user if with_password else None)
        first_s, told = deploy(place, environ)
        once = 0 if log is None else log.read_text().count("asked")
        again_s, same = deploy(place, environ)
        assert told["bundle_id"] == same["bundle_id"]
        asked = "" if log is None else f"; the password was asked {once} time(s) in the first run"
        print(f"deploy demo: {first_s:.1f} s, run again: {again_s:.1f} s{asked}")


def stop(program: Path, account: str | None) -> None:
    """Stop the server as the account that serves: what another owns, root refuses to run."""
    own = [] if account is None else ["runuser", "-u", account, "--"]
    if program.exists():
        subprocess.run([*own, program, "stop", "--force"], check=False, cwd="/")


if __name__ == "__main__":
    main()
