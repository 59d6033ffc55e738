"""The Hugging Face hub through `huggingface_hub`: what a repository offers, and one file of it into a file of ours.

Addresses, tokens and proxies are the library's business (HF_ENDPOINT, HF_TOKEN, ...): no token is read, shown or written here. Its caches
are not used: they would hold a second copy in the user's home, and since its release 2 it begins an interrupted file anew, while
`http_get` below it still goes on where a file ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,  # the base of what its HTTP client raises, whichever client the release uses
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import WeakFileLock, build_hf_headers

from sensorium.engines.checkpoints.pulled import MODEL_ID, Licence, Listed, Repository, size_of
from sensorium.errors import Busy, Forbidden, NotFound, SensoriumError, Unauthorized, Unavailable, UpstreamFailed

PATIENCE_S = 30.0
LOCK_S = 1.0
COMMIT = re.compile("[0-9a-f]{40,64}")


def look(model_id: str, revision: str | None) -> Repository:
    """Ask the hub what it holds. Raises SensoriumError with one sentence when it cannot be had."""
    with _told(model_id, revision):
        try:
            info = HfApi().model_info(model_id, revision=revision, files_metadata=True, timeout=PATIENCE_S)
            return _repository(info)
        except (LookupError, TypeError, AttributeError) as error:  # of the library too: it reads the hub's page as it comes
            raise UpstreamFailed(f"what the hub tells of {model_id} cannot be read ({type(error).__name__}: {error})") from None


def _repository(info: Any) -> Repository:
    """What the hub has told. Raises UpstreamFailed where that is not a page of a repository at one commit."""
    listed = tuple(
        Listed(one.rfilename, -1 if one.size is None else int(one.size), one.blob_id, one.lfs.sha256 if one.lfs else None)
        for one in info.siblings or ()
    )
    if not COMMIT.fullmatch(str(info.sha)) or not MODEL_ID.fullmatch(str(info.id)):
        raise UpstreamFailed(f"the hub tells neither a name nor a commit that can be: {info.id!r:.99}, {info.sha!r:.99}")
    unsized = [file.path for file in listed if file.size < 0]
    if unsized:
        raise UpstreamFailed(f"the hub tells no size of {unsized[0]!r:.99} in {info.id}, so that nobody could tell when it is whole")
    return Repository(info.id, info.sha, listed, _licence(info), bool(info.gated))


def fetch(repository: Repository, file: Listed, target: Path) -> None:
    """Write the file into `target`, from where it ends on if it holds a beginning already. Shows its progress on a terminal.

    What has come when it breaks off stays. Raises SensoriumError.
    """
    address = hf_hub_url(repository.name, file.path, revision=repository.commit)
    done = size_of(target) or 0
    # A compressed transfer has no ranges of the file itself.
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    with _told(repository.name, repository.commit), target.open("ab") as out:
        http_get(address, out, resume_size=done, headers=headers, expected_size=file.size, displayed_filename=file.path)


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Nobody else pulls into the same folder meanwhile. Raises Busy when somebody does. The lock goes with its process."""
    with ExitStack() as stack:
        try:
            stack.enter_context(WeakFileLock(lock, timeout=LOCK_S))
        except TimeoutError:
            raise Busy(f"another pull into {lock.parent} is under way") from None
        yield


def _licence(info: Any) -> Licence:
    """`license_name` tells more than `license`, which is "other" for all that are not in the hub's list; a link may name a file."""
    card = info.card_data.to_dict() if info.card_data is not None else {}
    kind, name, link = (str(card.get(key) or "") for key in ("license", "license_name", "license_link"))
    if link and "://" not in link:
        link = hf_hub_url(info.id, link, revision=info.sha).replace("/resolve/", "/blob/")
    return Licence(name=f"{name} ({kind})" if name and kind not in ("", "other") else name or kind, link=link)


@contextmanager
def _told(name: str, revision: str | None) -> Iterator[None]:
    """What may go wrong as one sentence that says what to do."""
    try:
        yield
    except GatedRepoError:
        raise Forbidden(
            f"{name} is gated: ask for access on its page, then set HF_TOKEN to a token of that account (or run `hf auth login`)"
        ) from None
    except RepositoryNotFoundError:
        raise NotFound(f"there is no repository {name}, or it is private and HF_TOKEN is missing or may not read it") from None
    except RevisionNotFoundError:
        raise NotFound(f"{name} has no revision {revision}: give a branch, a tag or a commit of it") from None
    except OfflineModeIsEnabled:
        raise Unavailable("the hub is not asked while HF_HUB_OFFLINE is set; unset it to pull") from None
    except HfHubHTTPError as error:
        raise _refused(name, error) from None
    except OSError as error:
        if error.errno is not None:  # of this machine, such as a full disk
            raise
        raise UpstreamFailed(f"a file of {name} came with another size than the hub lists; run it again") from None
    except ValueError as error:  # a name or a size that the library does not take, a page that is no JSON
        raise UpstreamFailed(f"{name} cannot be fetched: {str(error).strip().partition('. ')[0]}") from None
    except HTTPError as error:
        raise Unavailable(f"the hub does not answer or broke off ({type(error).__name__}); what has come stays: run it again") from None


def _refused(name: str, error: HfHubHTTPError) -> SensoriumError:
    status = error.response.status_code
    if status == 401:
        return Unauthorized(f"the hub does not accept the token in HF_TOKEN for {name}: it is wrong or has expired")
    if status == 403:
        return Forbidden(f"the hub refuses {name} to this account: accept its terms on its page, or give HF_TOKEN the right to read it")
    return UpstreamFailed(f"the hub answers {status} for {name}; what has come stays: run it again later")
