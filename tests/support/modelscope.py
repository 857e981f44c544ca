"""A ModelScope on loopback, as far as its client and llava-pack ask one: repositories are folders.

Run it for a demo: `python tests/support/modelscope.py --repo owner/name=FOLDER --port 0` prints its
URL on the first line and serves until it is told to stop.

Source: modelscope-hub 0.5, _legacy_api.py and _download.py (routes, fields, errors), and what public
programs recorded of the real one: an unknown revision is 200 without files, the head of a branch is
shown shortened, small files come at once and large ones by a redirect to another host.
"""

import argparse
import hashlib
import json
import re
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import parse_qs

if __package__ in {None, ""}:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.hub import Blob, Repositories, RepoSpec, hashed
from tests.support.loopback import Answer, Asked

_WORD = r"[A-Za-z0-9_][\w.-]*"
_API = re.compile(
    rf"/api/v1/models/(?P<repo>{_WORD}/{_WORD})(?P<verb>/repo/files|/repo|/revisions)?"
)
_OLDER = "0123456789abcdef0123456789abcdef01234567"
"""The commit that changed all files but the newest."""


class LoopbackModelScope(Repositories):
    """Serve `repos` as ModelScope would; their main branch is `master`.

    Args:
        repos: by repository id; gated and private ones are refused to all but their readers.
        cdn: answer LFS files with a redirect to another server, as ModelScope does.
        nameless: the head of a branch changed none of its files, so that no file has its commit.
        port: 0 for a free one.
    """

    def __init__(
        self,
        repos: Mapping[str, RepoSpec],
        *,
        cdn: bool = False,
        nameless: bool = False,
        port: int = 0,
    ) -> None:
        super().__init__(repos, cdn=cdn, port=port)
        self.nameless = nameless
        self.invalid: dict[str, object] = {}
        """Put in place of what is true of every listed file."""

    def commit(self, repo_id: str) -> str:
        """Return the commit of `master`: it follows from the names and bytes of its files."""
        lines = [f"{blob.sha256} {blob.path}\n" for blob in self.blobs(repo_id)]
        return hashlib.sha1("".join(lines).encode(), usedforsecurity=False).hexdigest()

    def blobs(self, repo_id: str) -> list[Blob]:
        """Return the files of a repository, by path."""
        folder = self.repos[repo_id].folder
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return [hashed(path.relative_to(folder).as_posix(), path) for path in paths]

    def respond(self, asked: Asked) -> Answer:
        match = _API.fullmatch(asked.path)
        if match is None:
            return _refusal(404, 10010205001, "record not found")
        repo_id = match["repo"]
        if denied := self._denied(asked, repo_id):
            return denied
        query = {name: values[0] for name, values in parse_qs(asked.query).items()}
        known = query.get("Revision", "master") in self._revisions(repo_id)
        match match["verb"]:
            case "/repo/files":
                root = query.get("Root", "")
                return self._listing(repo_id, root) if known else _data(_NOTHING)
            case "/repo":
                return self._file(repo_id, query.get("FilePath", "") if known else "")
            case "/revisions":
                branches = [{"Revision": "master", "CreatedAt": 1}]
                tags = [{"Revision": tag} for tag in sorted(self.repos[repo_id].tags)]
                return _data({"RevisionMap": {"Branches": branches, "Tags": tags}})
        return _data({"Path": repo_id.partition("/")[0], "Name": repo_id.partition("/")[2]})

    def _revisions(self, repo_id: str) -> set[str]:
        return {"master", self.commit(repo_id), *self.repos[repo_id].tags}

    def _denied(self, asked: Asked, repo_id: str) -> Answer | None:
        token = asked.headers.get("authorization", "").removeprefix("Bearer ")
        spec = self.repos.get(repo_id)
        if spec is None or (spec.private and not token):
            return _refusal(404, 10010205001, "record not found")
        if (spec.private or spec.gated) and token not in spec.readers:
            return _refusal(403 if token else 401, 10010103001, "access denied")
        return None

    def _listing(self, repo_id: str, root: str) -> Answer:
        blobs = [blob for blob in self.blobs(repo_id) if blob.path.startswith(root)]
        folders = {parent.as_posix() for blob in blobs for parent in Path(blob.path).parents}
        head = self.commit(repo_id)
        entries: list[dict[str, object]] = [
            {"Path": path, "Name": Path(path).name, "Type": "tree", "Size": 0, "Sha256": ""}
            for path in sorted(folders - {"."})
        ]
        entries += [
            {
                "Path": blob.path,
                "Name": Path(blob.path).name,
                "Type": "blob",
                "Size": blob.size_bytes,
                "Sha256": blob.sha256,
                "IsLFS": blob.lfs,
                "Revision": head if blob is blobs[-1] and not self.nameless else _OLDER,
                **self.invalid,
            }
            for blob in blobs
        ]
        committer = {"Id": "", "ShortId": head[:8], "CommitterName": "somebody"}
        return _data({"Files": entries, "IsVisual": 0, "LatestCommitter": committer})

    def _file(self, repo_id: str, path: str) -> Answer:
        blob = next((blob for blob in self.blobs(repo_id) if blob.path == path), None)
        if blob is None:
            return _refusal(404, 10990101007, "file not found")
        if blob.lfs and self.cdn:
            return Answer(status=302, headers={"Location": self.cdn.offer(blob)})
        return Answer(body=blob.held, headers={"ETag": blob.etag}, ranged=blob.lfs)


_NOTHING: Mapping[str, object] = {"Files": None, "IsVisual": 0, "LatestCommitter": None}


def _data(value: Mapping[str, object]) -> Answer:
    return _envelope(200, 200, "success", value)


def _refusal(status: int, code: int, message: str) -> Answer:
    return _envelope(status, code, message, None)


def _envelope(status: int, code: int, message: str, data: object) -> Answer:
    fields = {"Code": code, "Data": data, "Message": message, "Success": status == 200}
    body = json.dumps({**fields, "RequestId": "loopback"}).encode()
    headers = {"Content-Type": "application/json; charset=utf-8"}
    return Answer(status=status, body=body, headers=headers)


def main(arguments: Sequence[str]) -> int:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description="A ModelScope on loopback.")
    parser.add_argument("--repo", action="append", required=True, metavar="ID=FOLDER")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args(arguments)
    pairs = [text.partition("=") for text in options.repo]
    repos = {repo_id: RepoSpec(folder=Path(folder)) for repo_id, _, folder in pairs}
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with LoopbackModelScope(repos, cdn=True, port=options.port) as site:
        print(site.url, flush=True)
        stop.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
