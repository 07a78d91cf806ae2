"""Data sets of the hub, fetched by `datasets` and kept in its own cache folder."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from ddistill.data.facts import KNOWN_SETS, short_names
from ddistill.data.labels import resolve_wanted, wanted_classes
from ddistill.data.settings import DataSettings
from ddistill.data.splits import RawSplits
from ddistill.data.tables import one_line, open_tables
from ddistill.runtime.errors import UserError

PROBE_SECONDS = 10.0


def open_hub(hub_id: str, config: str | None, settings: DataSettings) -> RawSplits:
    """Parts of a hub data set; a UserError when it cannot be loaded. Runs no code of the data set."""
    where = repr(hub_id)
    try:
        _probe(hub_id)
        names = declared_classes(hub_id, config, settings.label_column)
    except Exception as error:  # the hub's client raises errors of many libraries
        raise _not_loaded(hub_id, error) from error
    wanted = wanted_classes(settings.classes)
    if wanted and names:
        resolve_wanted(where, names, wanted)  # before a set of 150 GB is fetched to find that they do not fit
    try:
        found = fetch(hub_id, config)
    except Exception as error:
        raise _not_loaded(hub_id, error) from error
    return open_tables(found, None, settings, where)


def declared_classes(hub_id: str, config: str | None, label_column: str | None) -> list[str] | None:
    """Class names that a hub data set declares for its label column, found without fetching it."""
    import datasets

    features = datasets.load_dataset_builder(hub_id, config).info.features or {}
    return getattr(features.get(label_column or ""), "names", None)


def fetch(hub_id: str, config: str | None) -> Any:
    """All parts of a hub data set, a DatasetDict."""
    import datasets

    return datasets.load_dataset(hub_id, config)


def _probe(hub_id: str) -> None:
    """Fail at once where `datasets` would try again for half a minute, unless it has a copy of its own."""
    import datasets
    from huggingface_hub import HfApi

    if not (Path(datasets.config.HF_DATASETS_CACHE) / hub_id.replace("/", "___")).exists():
        HfApi().dataset_info(hub_id, timeout=PROBE_SECONDS)


def _not_loaded(hub_id: str, error: Exception) -> UserError:
    known = {facts.hub_id: name for name, facts in KNOWN_SETS.items() if facts.settings.classes is None}
    near = difflib.get_close_matches(hub_id.rsplit("/", 1)[1].lower(), short_names(), n=3, cutoff=0.5)
    near = [] if hub_id in known else near
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return UserError(
        f"the hub data set {hub_id!r} could not be loaded: the hub could not be reached, or it has no such set that is "
        f"open to you ({type(error).__name__}: {one_line(error)}); {hint}give another id, the path of a local copy, "
        f"or a short name: {', '.join(short_names())}"
    )
