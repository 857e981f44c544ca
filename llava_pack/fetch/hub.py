"""A repository of the Hub as a source: `hf:OWNER/NAME@REVISION`, through the Hub's own client.

Only metadata comes through `huggingface_hub`; the bytes come through `download_all`, which
resumes. Endpoint, token and proxies are those of the environment at the time of the call.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote

from llava_pack.fetch.remote import GitBlob, RemoteFile, Sha256, place
from llava_pack.fetch.repository import Repository
from llava_pack.fetch.source import ListedFile, Listing
from llava_pack.fetch.transport import unreachable
from llava_pack.format.errors import AccessError, FetchError, NetworkError, PackError, RecipeError

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoSibling

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
        with _translated(subject, self):
            api = self._api()
            info = api.model_info(
                self.repo_id, revision=self.revision, files_metadata=True, timeout=_TIMEOUT_S
            )
            if info.gated:
                _check_gate(api, self.repo_id)
        if not info.sha or not info.siblings:
            raise FetchError("the Hub's answer has no commit or no files", subject=subject)
        return Listing(
            pinned=replace(self, revision=info.sha),
            files={one.rfilename: _listed(one, subject) for one in info.siblings},
        )

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
        from huggingface_hub import HfApi, close_session

        close_session()  # its shared client keeps the proxies of the environment it was made in
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
            raise unreachable(error, source.endpoint, subject, hint=_MIRROR_HINT) from error
        raise


def _is_transport(error: Exception) -> bool:
    return any(
        base.__name__ in {"TransportError", "InvalidURL"} and base.__module__.startswith("httpx")
        for base in type(error).__mro__
    )


def _answered(error: Exception, subject: str, source: HubSource) -> PackError:
    """Translate an answer of the Hub that is an error."""
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
    return FetchError(
        f"the Hub answered {status}, expected 200", subject=subject, hint="run the command again"
    )
