"""Distilled sets on the hub, by name: ``hub:OWNER/NAME``, or ``hub:OWNER/NAME@REVISION`` for one state of it.

`huggingface_hub` does the work, with its own cache, token and addresses (``HF_HOME``, ``HF_TOKEN``, ``HF_ENDPOINT``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ddistill.runtime.errors import UserError
from ddistill.synthetic.layout import DESCRIPTION, STORED, WHITENING

HUB = "hub:"
NAME = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?", re.ASCII)
LOG_IN = (
    "log in with `hf auth login`, or put a token into HF_TOKEN; tokens are made in the settings of your account there"
)
CLIENTS = ("httpx", "httpx2", "httpcore", "requests", "urllib3", "socket", "ssl")
"""Packages whose errors are those of the network, by the versions of the hub's client."""


def is_on_hub(path: str | os.PathLike[str]) -> bool:
    """Whether it is the name of a set on the hub rather than a path."""
    return os.fspath(path).startswith(HUB)


def split_name(words: str | os.PathLike[str]) -> tuple[str, str | None]:
    """``hub:OWNER/NAME@REVISION`` as (``OWNER/NAME``, revision or None).

    Raises:
        UserError: it is no such name.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    text = os.fspath(words)
    found = NAME.fullmatch(text.removeprefix(HUB)) if text.startswith(HUB) else None
    if found is None:
        raise UserError(
            f"{text!r} is no name on the hub; write {HUB}OWNER/NAME: OWNER is your name there or an organisation of "
            "yours; letters, digits, '.', '_' and '-'"
        )
    try:
        validate_repo_id(found["name"])
    except HFValidationError as error:
        reason = str(error).rsplit(":", 1)[0]
        raise UserError(f"{text!r} is no name that the hub takes: {reason}; give another") from error
    return found["name"], found["revision"]


def download(words: str | os.PathLike[str]) -> Path:
    """The folder, in the cache of the hub's client, of a set's files that `load_synthetic` reads.

    Raises:
        UserError: no such name, no such set that is open to the user, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    name, revision = split_name(words)
    with told(name):
        wanted = [DESCRIPTION, STORED, WHITENING]
        folder = Path(snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=wanted))
    if not (folder / DESCRIPTION).is_file():
        raise UserError(f"{os.fspath(words)!r} is on the hub but has no {DESCRIPTION}: not a set of this program")
    return folder


@contextmanager
def told(name: str) -> Iterator[None]:
    """Turn what the hub's client raises about the set ``name`` into a UserError with the next step."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        words = next(filter(None, (_in_words(name, cause) for cause in _causes(error))), None)
        if words is None:
            raise
        raise UserError(words) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it came from."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def _in_words(name: str, error: BaseException) -> str | None:
    """What an error of the hub's client means for who asked; None where it is another's."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalTokenNotFoundError):
        return f"the hub must know who you are, and there is no token on this machine: {LOG_IN}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"{HUB}{name}: the hub is switched off by HF_HUB_OFFLINE; unset it, or give a folder"
    if isinstance(error, errors.GatedRepoError):
        return f"{HUB}{name}: its owner gives access on request; ask on its page on the hub, then {LOG_IN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{HUB}{name} has no such revision; leave @REVISION out for the newest"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"the hub has no data set {name!r} that is open to you; check the name, and if it is private, {LOG_IN}"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return (
            f"the hub could not be reached for {name!r} (or HF_HUB_OFFLINE keeps from asking it), and there is no copy "
            "of it in the cache; try again later"
        )
    if isinstance(error, errors.HfHubHTTPError):
        return _status_in_words(name, error)
    if isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.split(".")[0] in CLIENTS:
        reason = f"{type(error).__name__}: {error}"
        return f"the hub could not be reached ({' '.join(reason.split())}); check the network and try again"
    return None


def _status_in_words(name: str, error: Exception) -> str:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    said = " ".join(str(getattr(error, "server_message", None) or error).split())[:300]
    if status == 401:
        return f"the hub does not take this token, which may be old or cut off: {LOG_IN}"
    if status == 403:
        return (
            f"the hub does not let you write to {name!r} ({said}): give a token with write permission, and a name "
            "whose OWNER is you or an organisation of yours"
        )
    if status == 429:
        return f"the hub has had too many requests ({said}); wait some minutes and try again"
    return f"the hub answered with {status} for {name!r} ({said}); try again later, what was sent is not sent again"
