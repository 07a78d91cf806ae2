"""`ddistill evaluate`: fresh networks on a distilled set."""

from __future__ import annotations

from itertools import product
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from ddistill.cli.common import RUN_HELP, DebugOption, DeviceOption, PluginOption, reported, together, usable_device
from ddistill.runtime.errors import RunError
from ddistill.terminal import Screen, out, print_table


def evaluate(
    run: Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP)],
    data: Annotated[str | None, typer.Option(help="Real data for the test; the run's own if left out.")] = None,
    network: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,OPTION=VALUE...]",
            help="Networks to train: convnet, resnet10, resnet18,norm=batch, densenet,width=0.375, vgg11, vit, ... or "
            "all. Repeatable.",
        ),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="How they are trained: idc, dc, dsa (DM, too), cafe, tm, ddranking, tgdd, ncfm, or all. Repeatable. "
            "(default: as in the recipe)",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the set. (default: as in the recipe)")] = None,
    repeats: Annotated[int | None, typer.Option(help="Trained networks per kind. (default: as in the recipe)")] = None,
    seed: Annotated[int, typer.Option(min=0, help="First weights and batches follow from it.")] = 0,
    device: DeviceOption = "auto",
    plugin: PluginOption = None,
    debug: DebugOption = False,
) -> None:
    """Train fresh networks on a distilled set and test them on the real test images."""
    with reported(debug, plugin):
        from ddistill import api
        from ddistill.evaluation import PROTOCOLS
        from ddistill.networks import NETWORKS, check_trainable
        from ddistill.synthetic import artifact_folder, load_synthetic

        device = usable_device(device)
        path = artifact_folder(run)  # of the hub once, not for each network
        recipe, synthetic = api.recipe_of(path), load_synthetic(path)
        protocols = protocol or [recipe.evaluation.protocol]
        if "all" in protocols:
            fit = [name for name, one in PROTOCOLS.items() if synthetic.learned_rate or not one.learned_rate]
            protocols = [*fit, *(name for name in protocols if name not in ("all", *fit))]
        for name in protocols:
            api.check_protocol(name, synthetic)
        asked: list[str | None] = [*network] if network else [None]
        results, failed = [], {}
        with together(device), Screen() as screen:
            real = api.load_for(data, recipe, screen)
            if "all" in asked:
                known = [name for name, made in NETWORKS.items() if real.size >= getattr(made, "SMALLEST_SIDE", 1)]
                asked = [*known, *(name for name in asked if name not in ("all", *known))]
            for network_name in asked:  # before the first is trained
                check_trainable(api.network_for(network_name, recipe), real.size)
            api.tell_account(real, screen)
            for by, network_name in product(protocols, asked):
                called = (network_name or recipe.network.name) + (f" ({by})" if len(protocols) > 1 else "")
                settings = api.under_protocol(by, recipe, real)
                settings = settings.model_copy(update={"epochs": epochs, "steps": None} if epochs else {})
                try:
                    judged = api.evaluate(
                        path,
                        real,
                        settings,
                        network=network_name,
                        repeats=repeats,
                        seed=seed,
                        device=device,
                        observer=screen,
                    )
                except (TypeError, ValueError, RuntimeError) as error:
                    if len(asked) * len(protocols) == 1:
                        raise
                    failed[called] = f"{type(error).__name__}: {error}"  # what the others gave is not lost
                    screen.note(f"network {called} failed: {failed[called]}")
                    continue
                results.append((network_name or recipe.network.name, by, judged))
                if judged.fallback:
                    screen.note(f"network {called}: {judged.protocol['precision_reason']}")
                screen.accuracy(called, judged.mean, judged.std, len(judged.runs))
        columns = ["soft labels %"] if any(result.soft for *_, result in results) else []
        table = Table(Column("network", no_wrap=True), "size", "protocol", "accuracy %", *columns, "networks x epochs")
        for name, by, result in results:
            figures = [f"{one.mean:.1f} ({one.std:.1f})" for one in (result, result.soft) if one]
            parameters = result.protocol["parameters"]
            size = f"{parameters / 1e6:.2f} M" if parameters >= 1e5 else f"{parameters / 1e3:.1f} k"
            table.add_row(escape(name), size, by, *figures, f"{len(result.runs)} x {result.protocol['epochs']}")
        print_table(table)
        out.print(
            "Top-1 on the real test set at the last epoch: mean (standard deviation) of the networks. Size: parameters."
        )
        if failed:
            raise RunError(f"not evaluated: {'; '.join(f'{name} ({why})' for name, why in failed.items())}")
