"""`ddistill import`: a set that another program has written."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from ddistill.cli.common import DebugOption, SetOption, assignments, reported
from ddistill.runtime.errors import UserError
from ddistill.terminal import Screen, out


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE.pt", help="Images and labels, as torch.save wrote them.")],
    data: Annotated[str, typer.Option(help="The real data that the set was distilled from.")],
    folder: Annotated[Path, typer.Option("--out", help="Folder of the artifact; new or empty.")],
    factor: Annotated[int, typer.Option(help="Multi-formation factor of the images (2 for IDC on CIFAR).")] = 1,
    normalised: Annotated[
        bool | None,
        typer.Option(
            "--normalised/--pixels",
            help="Normalised by the data's mean and standard deviation, or in [0, 1]; by range if unsaid.",
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(metavar="X[,X,X]", help="Normalised by this mean, and --std; e.g. --mean 0.5 --std 0.5."),
    ] = None,
    std: Annotated[str | None, typer.Option(metavar="X[,X,X]", help="See --mean.")] = None,
    most_cut: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the values that may lie outside of [0, 1] and be cut.")
    ] = 0.01,
    changes: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Make an artifact of a .pt file that another program has written; nothing in the file is run."""
    with reported(debug):
        from ddistill import api

        with Screen() as screen:
            made = api.import_set(
                file,
                data,
                folder,
                factor=factor,
                normalised=_normalisation(normalised, mean, std),
                most_cut=most_cut,
                changes=assignments(changes),
                observer=screen,
            )
        out.print(f"{len(made.images)} images of {made.num_classes} classes in {escape(str(folder))}")
        own = api.recipe_of(folder).data.source  # no path of this machine goes into an artifact
        words = ["ddistill", "evaluate", str(folder), *([] if own else ["--data", data])]
        out.print(f"judge it:  {escape(shlex.join(words))}")


def _normalisation(normalised: bool | None, mean: str | None, std: str | None) -> Any:
    """What `api.import_set` takes for ``normalised``."""
    if mean is None and std is None:
        return normalised
    if mean is None or std is None or normalised is False:
        raise UserError("--mean and --std are given both, and without --pixels: normalised by these")
    try:
        return tuple([float(word) for word in text.split(",")] for text in (mean, std))
    except ValueError:
        raise UserError(f"--mean and --std take numbers such as 0.49,0.48,0.45; got {mean!r} and {std!r}") from None
