"""Publishing an artifact on the hub: its own files, and a card that says where it is."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddistill.runtime.errors import UserError
from ddistill.synthetic.artifact import artifact_folder, load_synthetic, read_description, save_synthetic
from ddistill.synthetic.card import SOURCE_TITLE, TO_FILL, UNKNOWN_LICENCE, Published
from ddistill.synthetic.hub import split_name, told
from ddistill.synthetic.layout import CARD, DESCRIPTION, PARQUETS, WHITENING

if TYPE_CHECKING:
    from huggingface_hub import HfApi

WRITTEN_ANEW = ("format", "images", "decoder", "normalisation", "class_names", "targets", "learned_rate", "files")
"""What `save_synthetic` says of a set itself."""
ON_EVERY_REPOSITORY = (".gitattributes", CARD)


@dataclass(frozen=True)
class Pushed:
    """A set that was published.

    Attributes:
        name: ``OWNER/NAME``.
        url: of its page.
        revision: the commit; ``hub:NAME@REVISION`` is this state of it.
        new: whether there was none before.
    """

    name: str
    url: str
    revision: str
    new: bool


def stage(run: str | os.PathLike[str], folder: Path, published: Published) -> None:
    """Write the folder that is uploaded: the artifact, written anew, with a card that names its place.

    Args:
        run: run folder, artifact folder or ``hub:OWNER/NAME``.
        folder: where to; empty.
        published: what the card says of its place.

    Raises:
        UserError: no artifact there, or one that names a place on this machine.
    """
    home = artifact_folder(run)
    about = {key: value for key, value in read_description(home).items() if key not in WRITTEN_ANEW}
    local = next(_local(about), None)
    if local:
        raise UserError(
            f"{DESCRIPTION} of {os.fspath(run)!r} names {local!r}, a place on this machine, which is not published; "
            "make the artifact again with this version: ddistill distill --recipe RUN/recipe.yaml --out ANOTHER"
        )
    save_synthetic(load_synthetic(home), folder, about, published)


def push(run: str | os.PathLike[str], words: str, *, private: bool = False, licence: str | None = None) -> Pushed:
    """Publish a set as a data set of the hub, or in place of the state of it that is there.

    A licence and a section on the source that its owner has filled in on the hub stay.

    Args:
        run: run folder, artifact folder or ``hub:OWNER/NAME``.
        words: ``hub:OWNER/NAME``.
        private: only the owner may see it; of a new one.
        licence: identifier as the hub knows them.

    Raises:
        UserError: no such artifact; the name is not free; no token, none that may write; the hub cannot be reached.
    """
    from huggingface_hub import HfApi

    published = Published(name_to_push(words), licence)
    name = str(published.name)
    with tempfile.TemporaryDirectory(prefix="ddistill-push-") as temporary, told(name):
        api = HfApi(library_name="ddistill")
        api.whoami()  # whether there is a token, before anything else
        there = _files_there(api, name, private)
        if there and CARD in there:
            published = _as_filled_in(api, published)
        stage(run, Path(temporary), published)
        url = api.create_repo(name, repo_type="dataset", private=private or None, exist_ok=True)
        done = api.upload_folder(
            repo_id=name,
            repo_type="dataset",
            folder_path=temporary,
            commit_message="Distilled set",
            delete_patterns=[PARQUETS, WHITENING],
        )
    return Pushed(name, str(url), done.oid, there is None)


def name_to_push(words: str) -> str:
    """``OWNER/NAME`` of ``hub:OWNER/NAME``.

    Raises:
        UserError: it is no such name, or names a revision.
    """
    name, revision = split_name(words)
    if revision:
        raise UserError(f"{words!r} names a revision, which the hub gives to what is pushed; leave @{revision} out")
    return name


def _files_there(api: HfApi, name: str, private: bool) -> list[str] | None:
    """Files of the data set on the hub, None where there is none.

    Raises:
        UserError: it is another kind of data set, or a public one where a private one is asked for.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        found = api.dataset_info(name)
    except RepositoryNotFoundError:
        return None
    files = [file.rfilename for file in found.siblings or []]
    others = [file for file in files if file not in ON_EVERY_REPOSITORY]
    if others and DESCRIPTION not in files:
        raise UserError(
            f"{name!r} on the hub holds another data set ({others[0]!r}, {len(others)} files), which is left alone; "
            "give another name"
        )
    if private and not found.private:
        raise UserError(
            f"{name!r} is on the hub and public; make it private in its settings there, or give another name"
        )
    return files


def _as_filled_in(api: HfApi, published: Published) -> Published:
    """With what the owner has written into the card that is there."""
    from huggingface_hub import DatasetCard

    card = DatasetCard.load(api.hf_hub_download(str(published.name), CARD, repo_type="dataset"))
    known = card.data.to_dict().get("license")
    section = re.search(rf"^{SOURCE_TITLE}\n+(.*?)(?=^## |\Z)", card.text, re.DOTALL | re.MULTILINE)
    kept = section[1].strip() if section and TO_FILL not in section[1] else None
    licence = published.licence or (known if isinstance(known, str) and known != UNKNOWN_LICENCE else None)
    return replace(published, licence=licence, source=kept)


def _local(value: Any) -> Iterator[str]:
    """Texts in a description that are places on this machine."""
    if isinstance(value, Mapping):
        for one in value.values():
            yield from _local(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _local(one)
    elif isinstance(value, str) and os.path.isabs(value):  # noqa: PTH117 - of any text
        path = Path(value)
        if path.exists() or path.is_relative_to(Path.home()):
            yield value
