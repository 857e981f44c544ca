"""A repository of ModelScope as a source: `ms:OWNER/NAME@REVISION`, through its HTTP API.

Its own client is left out on purpose (docs/decisions/0030-modelscope.md). Endpoint and token are
those of the environment at the time of the call, under the names that the client gives them.

Source: modelscope-hub 0.5 (PyPI), config.py (MODELSCOPE_ENDPOINT, MODELSCOPE_DOMAIN,
MODELSCOPE_API_TOKEN), _legacy_api.py (list_repo_files, get_download_url, the limit of a listing)
and _download.py (fields of a listed file).
"""

import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar
from urllib.parse import quote, urlencode

import httpx

from llava_pack.fetch.patience import Interrupted, asked_pause_s, may_pass, patiently
from llava_pack.fetch.remote import RemoteFile, Sha256, place
from llava_pack.fetch.repository import Repository
from llava_pack.fetch.source import ListedFile, Listing
from llava_pack.fetch.transport import Transport
from llava_pack.format.errors import AccessError, FetchError, PackError, RecipeError

ENDPOINT = "https://modelscope.cn"
SITE = "https://www.modelscope.cn"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ANSWER_AT_MOST_BYTES = 16 << 20
_LISTED_AT_MOST = 3000
"""The server cuts a longer list without a word. Source: REPO_FILES_TRUNCATION_LIMIT."""
_TOKEN_HINT = "accept the terms on the model's page, then set MODELSCOPE_API_TOKEN"  # noqa: S105 - a hint
_FOLDER_HINT = "or download it with git or a browser, and give the folder: --model DIR"


@dataclass(frozen=True, kw_only=True)
class ModelScopeSource(Repository):
    """A repository of ModelScope at a branch, tag or commit."""

    FORM: ClassVar[str] = "ms:OWNER/NAME@REVISION"
    SCHEME: ClassVar[str] = "ms"
    KIND: ClassVar[str] = "modelscope"
    PLACE: ClassVar[re.Pattern[str]] = re.compile(
        r"(?P<repo>(?!\.)[\w.-]+/(?!\.)[\w.-]+)(?:@(?P<revision>[^\s@]+))?"
    )
    HEAD: ClassVar[str] = "master"
    revision: str = HEAD

    @property
    def purl(self) -> str:
        """Return its package URL: of no type of its own, by the Git repository that it is.

        Source: the package URL specification, type `generic`, qualifier `vcs_url`.
        """
        repository = quote(f"git+{SITE}/{self.repo_id}.git@{self.revision}", safe=":/")
        return f"pkg:generic/{quote(self.repo_id)}@{quote(self.revision)}?vcs_url={repository}"

    def list(self) -> Listing:
        """Ask ModelScope what the repository holds, at which commit.

        Raises:
            AccessError: private or gated, and the token does not open it.
            RecipeError: no such repository or revision.
            NetworkError: ModelScope cannot be reached.
            FetchError: ModelScope answers something else.
        """
        subject = f"{self.repo_id}@{self.revision}"
        data = self._asked(subject)
        entries = data.get("Files")
        if not entries:
            raise RecipeError(
                "the repository has no such revision, or no files",
                subject=subject,
                hint=f"ModelScope calls its main branch {self.HEAD}; look at the model's page",
            )
        files = {path: file for entry in entries for path, file in _listed(entry, subject)}
        if len(entries) >= _LISTED_AT_MOST:
            raise FetchError(
                f"lists {len(entries)} files, and ModelScope cuts a list there",
                subject=subject,
                hint=f"choose a repository of the model alone, {_FOLDER_HINT}",
            )
        return Listing(pinned=replace(self, revision=self._commit(data, subject)), files=files)

    def remote_file(self, path: str, file: ListedFile) -> RemoteFile:
        """Return where and with which promises a file is fetched, with the environment's token."""
        query = urlencode({"Revision": self.revision, "FilePath": path})
        return RemoteFile(
            url=f"{self._address}/repo?{query}",
            name=f"{self.repo_id}/{path}",
            size_bytes=file.size_bytes,
            digest=file.digest,
            headers=_headers(),
        )

    @property
    def endpoint(self) -> str:
        """Return the address that is asked."""
        return _endpoint()

    @property
    def _address(self) -> str:
        return f"{_endpoint()}/api/v1/models/{quote(self.repo_id)}"

    def _asked(self, subject: str) -> Mapping[str, Any]:
        """Return what the list of a revision's files has as its data."""
        query = urlencode({"Revision": self.revision, "Recursive": "True"})
        question = RemoteFile(
            url=f"{self._address}/repo/files?{query}", name=subject, headers=_headers()
        )
        with Transport(connections=1, connect_s=15.0, read_s=60.0) as transport:

            def ask() -> Mapping[str, Any]:
                with transport.open_answer(question) as response:
                    transport.refuse_obstacle(response, question)
                    return _read(response, subject)

            return patiently(ask)

    def _commit(self, data: Mapping[str, Any], subject: str) -> str:
        """Return the commit that was listed.

        ModelScope shows the head of a branch shortened, and of each file the commit that changed it
        last, whole: the file that the head itself changed has the head's.

        Raises:
            FetchError: none of that names it.
        """
        if _COMMIT.fullmatch(self.revision):
            return self.revision
        head = data.get("LatestCommitter")
        names = (
            [str(head.get(key) or "") for key in ("Id", "ShortId")]
            if isinstance(head, dict)
            else []
        )
        known = {str(entry.get("Revision")) for entry in data["Files"]}
        for name in filter(None, names):
            whole = {one for one in {name, *known} if one.startswith(name)}
            found = [one for one in whole if _COMMIT.fullmatch(one)]
            if len(name) >= len("1234567") and len(found) == 1:
                return found[0]
        raise FetchError(
            "ModelScope's answer does not name the commit of this branch or tag",
            subject=subject,
            hint=f"name the commit, as the model's page shows it: ms:{self.repo_id}@COMMIT",
        )


def _endpoint() -> str:
    """Return the address of ModelScope, or of the mirror that its client would ask."""
    for variable in ("MODELSCOPE_ENDPOINT", "MODELSCOPE_DOMAIN"):
        if chosen := os.environ.get(variable, "").strip():
            return (chosen if "://" in chosen else f"https://{chosen}").rstrip("/")
    return ENDPOINT


def _headers() -> dict[str, str]:
    """Return the credentials, which the API takes in two ways: newer parts of it, and older."""
    token = os.environ.get("MODELSCOPE_API_TOKEN", "").strip()
    return {"Authorization": f"Bearer {token}", "Cookie": f"m_session_id={token}"} if token else {}


def _listed(entry: Any, subject: str) -> Iterator[tuple[str, ListedFile]]:
    """Yield a file with what ModelScope promises of it; nothing for a folder."""
    try:
        if entry["Type"] == "tree":
            return
        yield str(entry["Path"]), ListedFile(int(entry["Size"]), Sha256(str(entry["Sha256"])))
    except (KeyError, TypeError, ValueError) as error:
        raise FetchError(
            f"ModelScope's file listing is invalid: {entry!r:.200}: {error}",
            subject=subject,
            hint="MODELSCOPE_ENDPOINT may point at a mirror that does not list sizes and digests",
        ) from error


def _read(response: httpx.Response, subject: str) -> Mapping[str, Any]:
    """Return the data of an answer.

    Raises:
        Interrupted: it may be answered later.
        PackError: it is none; see `ModelScopeSource.list`.
    """
    body, where = bytearray(), place(str(response.url))
    for chunk in response.iter_bytes():  # some proxies compress what nobody asked them to
        body += chunk
        if len(body) > _ANSWER_AT_MOST_BYTES:
            raise FetchError(f"larger than {_ANSWER_AT_MOST_BYTES} bytes", subject=where)
    try:
        answer = json.loads(body)
        message, data = str(answer.get("Message") or ""), answer.get("Data")
    except (ValueError, AttributeError):
        message, data = "", None
    if response.status_code != httpx.codes.OK:
        refused = _refused(response.status_code, message, subject)
        if may_pass(response.status_code):
            raise Interrupted(refused, asked_pause_s(response.headers, time.time()))
        raise refused
    if not isinstance(data, dict) or not isinstance(data.get("Files") or [], Sequence):
        raise FetchError(
            f"{where} does not answer as ModelScope does: {message or 'no list of files'}",
            subject=subject,
            hint="check MODELSCOPE_ENDPOINT, and the proxy in between",
        )
    return data


def _refused(status: int, message: str, subject: str) -> PackError:
    """Translate an answer of ModelScope that is an error."""
    more = f": {message}" if message else ""
    if status in {401, 403}:
        return AccessError(
            f"ModelScope answered {status}{more}: it is private or gated, or the token is wrong",
            subject=subject,
            hint=f"check the name; {_TOKEN_HINT}",
        )
    if status == 404:
        return RecipeError(
            f"no such repository on {place(_endpoint())}, or it is private{more}",
            subject=subject,
            hint=f"check OWNER/NAME on the model's page; for a private one, {_TOKEN_HINT}",
        )
    return FetchError(
        f"ModelScope answered {status}, expected 200{more}",
        subject=subject,
        hint=f"run the command again, {_FOLDER_HINT}",
    )
