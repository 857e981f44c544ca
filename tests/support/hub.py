"""A Hub on loopback, as far as `huggingface_hub` asks one: repositories are folders.

Run it for a demo: `python tests/support/hub.py --repo owner/name=FOLDER --port 0` prints its URL on
the first line and serves until it is told to stop.

Source: huggingface_hub 2.4, hf_api.py (model_info, list_repo_tree, auth_check), file_download.py
(get_hf_file_metadata) and utils/_http.py (hf_raise_for_status).
"""

import argparse
import hashlib
import json
import re
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote

if __package__ in {None, ""}:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.loopback import Answer, Asked, Loopback

_WORD = r"[A-Za-z0-9_][\w.-]*"
_REPO = rf"(?P<repo>{_WORD}(?:/(?!(?:revision|tree|auth-check|resolve)(?:/|$)){_WORD})?)"
_API = re.compile(rf"/api/models/{_REPO}(?:/(?P<verb>revision|tree|auth-check)(?:/(?P<rest>.*))?)?")
_RESOLVE = re.compile(rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
_LFS_SUFFIXES = frozenset({".bin", ".safetensors", ".model", ".pt", ".pth", ".gz", ".zip"})
_LFS_OVER_BYTES = 1024


@dataclass(frozen=True, kw_only=True)
class RepoSpec:
    """A repository: a folder, and who may read it.

    Attributes:
        folder: its files; `main` is what the folder holds now.
        gated: listed for all, readable with a token in `readers`.
        private: unknown to all but the tokens in `readers`.
        readers: tokens that open it.
        tags: other names of `main`.
    """

    folder: Path
    gated: bool = False
    private: bool = False
    readers: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Blob:
    """One file as the Hub knows it: git's object id, and the SHA-256 where it is in LFS."""

    path: str
    held: Path
    size_bytes: int
    sha256: str
    git_oid: str
    lfs: bool

    @property
    def etag(self) -> str:
        return f'"{self.sha256 if self.lfs else self.git_oid}"'


class Repositories(Loopback):
    """Serves repositories, perhaps with their large files on another server.

    Args:
        repos: by repository id.
        cdn: answer LFS files with a redirect to another server.
        port: 0 for a free one.
        tls: a PEM file with a certificate and its key, to answer over https.
    """

    def __init__(
        self, repos: Mapping[str, RepoSpec], *, cdn: bool, port: int, tls: Path | None = None
    ) -> None:
        super().__init__(port=port, tls=tls)
        self.repos = dict(repos)
        self.cdn = Cdn() if cdn else None

    def open(self) -> None:
        if self.cdn:
            self.cdn.open()
        super().open()

    def close(self) -> None:
        super().close()
        if self.cdn:
            self.cdn.close()


class LoopbackHub(Repositories):
    """Serve `repos` as the Hub would.

    Args:
        repos: by repository id.
        tokens: known tokens that open nothing by themselves; a reader's token is known anyway.
        cdn: answer LFS files with a redirect to another server, as the Hub does.
        port: 0 for a free one.
        tls: a PEM file with a certificate and its key, to answer over https.
    """

    def __init__(
        self,
        repos: Mapping[str, RepoSpec],
        *,
        tokens: Sequence[str] = (),
        cdn: bool = False,
        port: int = 0,
        tls: Path | None = None,
    ) -> None:
        super().__init__(repos, cdn=cdn, port=port, tls=tls)
        self._tokens = {*tokens, *(t for spec in repos.values() for t in spec.readers)}
        self._blobs: dict[tuple[Path, int, int], Blob] = {}

    def commit(self, repo_id: str) -> str:
        """Return the commit of `main`: it follows from the names and bytes of its files."""
        lines = [f"{blob.git_oid} {blob.path}\n" for blob in self.blobs(repo_id)]
        return hashlib.sha1("".join(lines).encode(), usedforsecurity=False).hexdigest()

    def blobs(self, repo_id: str) -> list[Blob]:
        """Return the files of a repository, by path."""
        folder = self.repos[repo_id].folder
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return [self._blob(path.relative_to(folder).as_posix(), path) for path in paths]

    def respond(self, asked: Asked) -> Answer:
        if match := _API.fullmatch(asked.path):
            denied = self._denied(asked, match["repo"], listing=match["verb"] != "auth-check")
            return denied or self._listing(match["repo"], match["verb"], match["rest"] or "", asked)
        if match := _RESOLVE.fullmatch(asked.path):
            denied = self._denied(asked, match["repo"], listing=False)
            return denied or self._file(match["repo"], match["revision"], match["path"])
        return _error(404, "", "Not found")

    def _denied(self, asked: Asked, repo_id: str, *, listing: bool) -> Answer | None:
        token = asked.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in self._tokens:
            return _error(401, "", "Invalid credentials in Authorization header")
        spec = self.repos.get(repo_id)
        if spec is None or (spec.private and token and token not in spec.readers):
            return _error(404, "RepoNotFound", "Repository not found")
        if spec.private and not token:
            return _error(401, "RepoNotFound", "Invalid username or password.")
        if spec.gated and not listing and token not in spec.readers:
            message = f"Access to model {repo_id} is restricted."
            return _error(403 if token else 401, "GatedRepo", message)
        return None

    def _listing(self, repo_id: str, verb: str | None, rest: str, asked: Asked) -> Answer:
        if verb == "auth-check":
            return _json({})
        revision, _, folder = rest.partition("/")
        if verb and not self._known(repo_id, unquote(revision)):
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        query = parse_qs(asked.query)
        if verb == "tree":
            recursive = query.get("recursive", [""])[0].lower() in {"true", "1"}
            return _json(_tree(self.blobs(repo_id), folder, recursive=recursive))
        with_blobs = query.get("blobs", [""])[0].lower() in {"true", "1"}
        return _json(self._info(repo_id, with_blobs=with_blobs))

    def _info(self, repo_id: str, *, with_blobs: bool) -> dict[str, object]:
        spec = self.repos[repo_id]
        siblings = [_sibling(blob, with_blobs=with_blobs) for blob in self.blobs(repo_id)]
        return {
            "_id": "0" * 24,
            "id": repo_id,
            "modelId": repo_id,
            "sha": self.commit(repo_id),
            "private": spec.private,
            "gated": "auto" if spec.gated else False,
            "disabled": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "lastModified": "2026-01-01T00:00:00.000Z",
            "createdAt": "2026-01-01T00:00:00.000Z",
            "siblings": siblings,
        }

    def _file(self, repo_id: str, revision: str, path: str) -> Answer:
        if not self._known(repo_id, unquote(revision)):
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        blob = next((blob for blob in self.blobs(repo_id) if blob.path == path), None)
        if blob is None:
            return _error(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": self.commit(repo_id), "ETag": blob.etag}
        if blob.lfs:
            headers |= {"X-Linked-Etag": blob.etag, "X-Linked-Size": str(blob.size_bytes)}
            if self.cdn:
                del headers["ETag"]
                location = self.cdn.offer(blob)
                return Answer(status=302, headers={**headers, "Location": location})
        return Answer(body=blob.held, headers=headers, ranged=True)

    def _known(self, repo_id: str, revision: str) -> bool:
        names = {"main", self.commit(repo_id), *self.repos[repo_id].tags}
        return revision in names

    def _blob(self, path: str, held: Path) -> Blob:
        facts = held.stat()
        key = (held, facts.st_size, facts.st_mtime_ns)
        if key not in self._blobs:
            self._blobs[key] = hashed(path, held)
        return self._blobs[key]


class Cdn(Loopback):
    """Where LFS bytes really come from: another host, addressed by content."""

    def __init__(self) -> None:
        super().__init__()
        self._offered: dict[str, Blob] = {}

    @property
    def url(self) -> str:
        return super().url.replace("127.0.0.1", "localhost")

    def offer(self, blob: Blob) -> str:
        path = f"/{blob.sha256}/{blob.path}"
        self._offered[path] = blob
        return f"{self.url}{quote(path)}?X-Signature=once"

    def respond(self, asked: Asked) -> Answer:
        blob = self._offered[asked.path]
        return Answer(body=blob.held, headers={"ETag": f'"{blob.sha256[:32]}"'}, ranged=True)


def hashed(path: str, held: Path) -> Blob:
    data = held.read_bytes()
    lfs = len(data) > _LFS_OVER_BYTES and held.suffix in _LFS_SUFFIXES
    sha256 = hashlib.sha256(data).hexdigest()
    return Blob(
        path=path,
        held=held,
        size_bytes=len(data),
        sha256=sha256,
        git_oid=_git_oid(_pointer(sha256, len(data)) if lfs else data),
        lfs=lfs,
    )


def _git_oid(data: bytes) -> str:
    header = f"blob {len(data)}\0".encode()
    return hashlib.sha1(header + data, usedforsecurity=False).hexdigest()


def _pointer(sha256: str, size_bytes: int) -> bytes:
    """Return what git stores in place of an LFS file. Source: git-lfs, docs/spec.md."""
    spec = "version https://git-lfs.github.com/spec/v1"
    return f"{spec}\noid sha256:{sha256}\nsize {size_bytes}\n".encode()


def _sibling(blob: Blob, *, with_blobs: bool) -> dict[str, object]:
    found: dict[str, object] = {"rfilename": blob.path}
    if with_blobs:
        found |= {"size": blob.size_bytes, "blobId": blob.git_oid}
        if blob.lfs:
            pointer_bytes = len(_pointer(blob.sha256, blob.size_bytes))
            found["lfs"] = {
                "sha256": blob.sha256,
                "size": blob.size_bytes,
                "pointerSize": pointer_bytes,
            }
    return found


def _tree(blobs: Sequence[Blob], folder: str, *, recursive: bool) -> list[dict[str, object]]:
    prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
    found: dict[str, dict[str, object]] = {}
    for blob in blobs:
        if not blob.path.startswith(prefix):
            continue
        parents = blob.path[len(prefix) :].split("/")[:-1]
        for depth in range(len(parents) if recursive else min(1, len(parents))):
            name = prefix + "/".join(parents[: depth + 1])
            found[name] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": name}
        if recursive or not parents:
            entry: dict[str, object] = {
                "type": "file",
                "oid": blob.git_oid,
                "size": blob.size_bytes,
                "path": blob.path,
            }
            if blob.lfs:
                pointer_bytes = len(_pointer(blob.sha256, blob.size_bytes))
                entry["lfs"] = {
                    "oid": blob.sha256,
                    "size": blob.size_bytes,
                    "pointerSize": pointer_bytes,
                }
            found[blob.path] = entry
    return list(found.values())


def _json(value: object) -> Answer:
    body = json.dumps(value).encode()
    return Answer(body=body, headers={"Content-Type": "application/json; charset=utf-8"})


def _error(status: int, code: str, message: str) -> Answer:
    headers = {"X-Error-Message": message, "Content-Type": "application/json; charset=utf-8"}
    if code:
        headers["X-Error-Code"] = code
    body = json.dumps({"error": message}).encode()
    return Answer(status=status, body=body, headers=headers)


def main(arguments: Sequence[str]) -> int:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description="A Hub on loopback; repositories are folders.")
    parser.add_argument("--repo", action="append", required=True, metavar="ID=FOLDER")
    parser.add_argument("--gated", action="append", default=[], metavar="ID")
    parser.add_argument("--token", action="append", default=[], help="opens the gated ones")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args(arguments)
    repos = {}
    for text in options.repo:
        repo_id, _, folder = text.partition("=")
        repos[repo_id] = RepoSpec(
            folder=Path(folder), gated=repo_id in options.gated, readers=frozenset(options.token)
        )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with LoopbackHub(repos, port=options.port) as hub:
        print(hub.url, flush=True)
        stop.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
