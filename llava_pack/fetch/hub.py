"""A repository of the Hub as a source: `hf:OWNER/NAME@REVISION`, through the Hub's own client.

Only metadata comes through `huggingface_hub`; the bytes come through `download_all`, which
resumes. Endpoint, token and proxies are those of the environment at the time of the call.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from llava_pack.fetch.patience import Interrupted, asked_pause_s, may_pass, patiently
from llava_pack.fetch.remote import GitBlob, RemoteFile, Sha256, place
from llava_pack.fetch.repository import Repository
from llava_pack.fetch.source import ListedFile, Listing
from llava_pack.fetch.transport import asked_host, unreachable
from llava_pack.format.errors import (
    AccessError,
    FetchError,
    NetworkError,
    PackError,
    RecipeError,
    reason_of,
)
from llava_pack.network.client import open_client
from llava_pack.network.front import read_front
from llava_pack.network.obstacles import (
    PAGE_AT_MOST_BYTES,
    Reply,
    obstacle,
    proxy_failure,
    untrusted,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

_TIMEOUT_S = 30.0
_MIRROR_HINT = (
    "check the network, set HTTPS_PROXY, or point HF_ENDPOINT at a mirror of the Hub (in China: "
    "--mirror cn, or --model ms:OWNER/NAME)"
)
_TOKEN_HINT = "accept the licence on the model's page, then set HF_TOKEN (or: hf auth login)"  # noqa: S105 - a hint

_NOT_SENT_HINT = (
    "a mirror gets no token of yours from --mirror: set HF_ENDPOINT to it, and HF_TOKEN, if it may "
    "have the token; or take the model from elsewhere with --model DIR or --model ms:OWNER/NAME"
)


@dataclass(frozen=True, kw_only=True)
class HubSource(Repository):
    """A repository of the Hub at a branch, tag or commit.

    Attributes:
        mirror: asked in place of the Hub, without a token, unless HF_ENDPOINT is set; it says
            nothing of what the source is.
    """

    FORM: ClassVar[str] = "hf:OWNER/NAME@REVISION"
    SCHEME: ClassVar[str] = "hf"
    KIND: ClassVar[str] = "hub"
    PLACE: ClassVar[re.Pattern[str]] = re.compile(
        r"(?P<repo>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[^\s@]+))?"
    )
    HEAD: ClassVar[str] = "main"
    revision: str = HEAD
    mirror: str | None = field(default=None, compare=False)

    @property
    def purl(self) -> str:
        """Return its package URL. Source: the package URL specification, type `huggingface`."""
        return f"pkg:huggingface/{quote(self.repo_id)}@{quote(self.revision)}"

    def list(self) -> Listing:
        """Ask the Hub what the repository holds, at which commit.

        Raises:
            AccessError: gated or private, and the token does not open it.
            RecipeError: no such repository or revision.
            NetworkError: the Hub cannot be reached.
            FetchError: the Hub answers something else.
        """
        subject = f"{self.repo_id}@{self.revision}"
        info = patiently(lambda: self._asked(subject))
        if not info.sha or not info.siblings:
            raise FetchError("the Hub's answer has no commit or no files", subject=subject)
        return Listing(
            pinned=replace(self, revision=info.sha),
            files={one.rfilename: _listed(one, subject) for one in info.siblings},
        )

    def _asked(self, subject: str) -> "ModelInfo":
        """Return what the Hub knows of the repository; of a gated one, that the token opens it."""
        with _translated(subject, self):
            api = self._api()
            info = api.model_info(
                self.repo_id, revision=self.revision, files_metadata=True, timeout=_TIMEOUT_S
            )
            if info.gated:
                _check_gate(api, self.repo_id)
        return info

    def remote_file(self, path: str, file: ListedFile) -> RemoteFile:
        """Return where and with which promises a file is fetched, with the environment's token."""
        from huggingface_hub import constants, get_token, hf_hub_url

        silent = constants.HF_HUB_DISABLE_IMPLICIT_TOKEN or self.mirrored
        token = None if silent else get_token()
        return RemoteFile(
            url=hf_hub_url(self.repo_id, path, revision=self.revision, endpoint=self.endpoint),
            name=f"{self.repo_id}/{path}",
            size_bytes=file.size_bytes,
            digest=file.digest,
            headers={"Authorization": f"Bearer {token}"} if token else {},
        )

    def _api(self) -> "HfApi":
        from huggingface_hub import HfApi, set_client_factory

        # which also drops the client of another environment
        set_client_factory(partial(_client, self.endpoint, f"{self.repo_id}@{self.revision}"))
        token = False if self.mirrored else None
        return HfApi(endpoint=self.endpoint, library_name="llava-pack", token=token)

    @property
    def mirrored(self) -> bool:
        """Whether a mirror is asked, which nobody meant to have the token."""
        return self.mirror is not None and not os.environ.get("HF_ENDPOINT")

    @property
    def endpoint(self) -> str:
        """Return the address that is asked."""
        from huggingface_hub.constants import ENDPOINT

        return (os.environ.get("HF_ENDPOINT") or self.mirror or ENDPOINT).rstrip("/")


def _client(endpoint: str, subject: str) -> Any:
    """Return a client of the HTTP library that this Hub client stands on, as it makes its own.

    Args:
        endpoint: what it will ask.
        subject: what for.

    Source: huggingface_hub 1 and 2, utils/_http.py, default_client_factory.
    """
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils._http import hf_request_event_hook

    bases = (base.__module__.partition(".")[0] for base in HfHubHTTPError.__mro__)
    library = import_module(next(name for name in bases if name.startswith("httpx")))
    front = read_front(os.environ)

    def judge(response: Any) -> None:
        url = str(response.request.url)
        reply = Reply(
            asked=endpoint, url=url, status=response.status_code, headers=response.headers
        )
        proxy = front.proxies.proxy_for(url)
        if not response.has_redirect_location and obstacle(reply, subject, proxy):
            body = response.read()[:PAGE_AT_MOST_BYTES]
            if problem := obstacle(replace(reply, body=body), subject, proxy):
                raise problem

    return open_client(
        library,
        front,
        event_hooks={"request": [hf_request_event_hook], "response": [judge]},
        follow_redirects=True,
        timeout=None,
    )


def _check_gate(api: "HfApi", repo_id: str) -> None:
    """Ask whether the token opens a gated repository, before any byte moves.

    A mirror may not know this question; the download itself then says what it says.
    """
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    try:
        api.auth_check(repo_id)
    except GatedRepoError:
        raise
    except HfHubHTTPError as error:
        if error.response.status_code in {401, 403}:
            raise


def _listed(sibling: "RepoSibling", subject: str) -> ListedFile:
    """Return a file with the digest that the Hub promises: of LFS files SHA-256, else Git's own."""
    try:
        if sibling.size is None or sibling.blob_id is None:
            raise ValueError("no size or blob id")  # noqa: TRY301 - one translation for all defects
        digest = Sha256(sibling.lfs.sha256) if sibling.lfs else GitBlob(sibling.blob_id)
    except ValueError as error:
        raise FetchError(
            f"the Hub's file listing is invalid: {sibling.rfilename!r}: {error}",
            subject=subject,
            hint="HF_ENDPOINT may point at a mirror that does not list sizes and digests",
        ) from error
    return ListedFile(sibling.size, digest)


@contextmanager
def _translated(subject: str, source: HubSource) -> Iterator[None]:
    """Turn the client's exceptions into ours.

    Its transport errors are caught by the ancestor that its releases share: versions 1 and 2
    stand on differently named HTTP libraries.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        yield
    except HFValidationError as error:
        raise RecipeError(f"not a repository id: {error}", subject=subject) from error
    except OfflineModeIsEnabled as error:
        raise NetworkError(
            "the Hub client is set to offline", subject=subject, hint="unset HF_HUB_OFFLINE"
        ) from error
    except HfHubHTTPError as error:
        raise _answered(error, subject, source) from error
    except Exception as error:
        if _is_transport(error):
            said = reason_of(error)
            if "CERTIFICATE_VERIFY_FAILED" in said:
                raise untrusted(asked_host(error, source.endpoint), subject) from error
            proxy = read_front(os.environ).proxies.proxy_for(source.endpoint)
            if refused := proxy_failure(said, subject, proxy):
                raise refused from error
            raise unreachable(error, source.endpoint, subject, hint=_MIRROR_HINT) from error
        raise


def _is_transport(error: Exception) -> bool:
    return any(
        base.__name__ in {"TransportError", "InvalidURL"} and base.__module__.startswith("httpx")
        for base in type(error).__mro__
    )


def _answered(error: Exception, subject: str, source: HubSource) -> PackError | Interrupted:
    """Translate an answer of the Hub that is an error, perhaps one that passes."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    token_hint = _NOT_SENT_HINT if source.mirrored else _TOKEN_HINT
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    if isinstance(error, GatedRepoError):
        return AccessError(
            "gated: its licence must be accepted, and the token needs read access",
            subject=subject,
            hint=token_hint,
        )
    if status in {401, 403}:
        return AccessError(
            f"the Hub answered {status}: it is private or does not exist, or the token is wrong",
            subject=subject,
            hint=f"check the name; {token_hint}",
        )
    if isinstance(error, RevisionNotFoundError):
        return RecipeError("the repository has no such revision", subject=subject)
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return RecipeError(f"no such repository on {place(source.endpoint)}", subject=subject)
    failure = FetchError(
        f"the Hub answered {status}, expected 200", subject=subject, hint="run the command again"
    )
    if isinstance(error, HfHubHTTPError) and may_pass(status):
        return Interrupted(failure, asked_pause_s(error.response.headers, time.time()))
    return failure
