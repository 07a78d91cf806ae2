"""The command `ddistill`; the only place that reads arguments, prints, and chooses a device.

Exit codes: 0 done; 2 the user can mend it; 1 a failure at run time, state saved; 130 interrupted, state saved.
"""

from __future__ import annotations

import os
import signal
from typing import Annotated

import typer

from ddistill.cli.common import DONE
from ddistill.cli.compare import compare
from ddistill.cli.distill import distill
from ddistill.cli.evaluate import evaluate
from ddistill.cli.export import export
from ddistill.cli.import_set import import_
from ddistill.cli.inspect import inspect
from ddistill.cli.plan import plan
from ddistill.cli.pretrain import pretrain
from ddistill.cli.push import push
from ddistill.cli.recipes import recipes
from ddistill.cli.report import report
from ddistill.cli.reproduce import reproduce
from ddistill.cli.verify import verify
from ddistill.terminal import STOP, out

app = typer.Typer(
    name="ddistill",
    help="Distil a labelled image dataset into a few synthetic images per class, quickly.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from ddistill import __version__

        out.print(f"ddistill {__version__}")
        raise typer.Exit(DONE)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command()(distill)
app.command()(evaluate)
app.command()(compare)
app.command()(pretrain)
app.command()(plan)
app.command()(inspect)
app.command("import")(import_)
app.command()(export)
app.command()(push)
app.command()(report)
app.command()(recipes)
app.command()(reproduce)
app.command()(verify)


def main() -> None:
    """Entry point of the command."""
    # OpenMP threads that wait actively for one that a busy core holds back make everything many times slower. The
    # library reads this once, when torch is imported.
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & set(os.environ):
        os.environ["OMP_WAIT_POLICY"] = "passive"
    signal.signal(signal.SIGTERM, STOP.hear)
    signal.signal(signal.SIGINT, STOP.hear)
    app()
