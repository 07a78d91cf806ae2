"""Small things that the tests of matching methods are made of."""

from dataclasses import replace

import torch
from ncfm import Characteristic, CharacteristicSettings
from reference.matching import normalise

from ddistill.augment import AugmentSettings, Normalisation
from ddistill.data import ImageSet
from ddistill.methods import Context, GradientMatching, IDCSettings
from ddistill.networks import ConvNet
from ddistill.runtime.execution import Execution, ExecutionSettings
from ddistill.synthetic import SyntheticSet
from ddistill.training import EAGER, Trainer, TrainingSettings

CLASSES, IPC, SIDE, PER_CLASS = 3, 2, 16, 20
FOUR = 4
"""Classes of `make_method`."""
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
PLAIN = AugmentSettings(operations=())


def make_context(norm: str = "instance", compiled: bool = False) -> Context:
    draws = torch.Generator().manual_seed(1)
    real = torch.randint(0, 256, (PER_CLASS * CLASSES, 3, SIDE, SIDE), dtype=torch.uint8, generator=draws)
    labels = torch.arange(CLASSES).repeat_interleave(PER_CLASS)
    images = torch.rand(CLASSES * IPC, 3, SIDE, SIDE, generator=draws)
    own = torch.arange(CLASSES).repeat_interleave(IPC)
    synthetic = SyntheticSet(images, own, ("a", "b", "c"), 1, "single", Normalisation(MEAN, STD))
    torch.manual_seed(2)
    network = ConvNet(CLASSES, size=SIDE, width=8, depth=2, norm=norm)
    source = ImageSet(real, labels, Normalisation(MEAN, STD))
    offsets = [PER_CLASS * c for c in range(CLASSES + 1)]
    trainer, hot_path = Trainer(network, source, TrainingSettings()), replace(EAGER, compiled=compiled)
    return Context(trainer, offsets, synthetic, 0, hot_path)


def nothing(done: int, total: int) -> None:
    pass


def real_batches(context: Context, plan_real: torch.Tensor) -> list[torch.Tensor]:
    return [normalise(context.real.images[plan_real[c, 0]].float() / 255, MEAN, STD) for c in range(CLASSES)]


def make_method(
    counts: tuple[int, ...] = (2,) * FOUR,
    class_chunk: int | None = None,
    precision: str = "fp32",
    compiled: bool = False,
    operations: tuple[str, ...] = ("color", "crop", "cutout"),
    image_chunk: int | None = None,
    network: torch.nn.Module | None = None,
    device: str = "cpu",
    captured: str | None = None,
) -> GradientMatching:
    draws = torch.Generator().manual_seed(1)
    real = torch.randint(0, 256, (20 * FOUR, 3, SIDE, SIDE), dtype=torch.uint8, generator=draws)
    own = torch.arange(FOUR).repeat_interleave(20)
    source = ImageSet(real.to(device), own.to(device), Normalisation((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)))
    labels = torch.repeat_interleave(torch.arange(FOUR), torch.tensor(counts))
    images = torch.rand(len(labels), 3, SIDE, SIDE, generator=draws)
    synthetic = SyntheticSet(images.to(device), labels.to(device), tuple("abcd"), 2, "single", source.normalisation)
    torch.manual_seed(2)
    network = (network or ConvNet(FOUR, size=SIDE, width=8, depth=2)).to(device)
    settings = IDCSettings(
        image_lr=5.0, inner_steps=2, real_batch=6, augment=AugmentSettings(operations=operations), network_samples=16
    )
    trainer = Trainer(
        network, source, TrainingSettings(batch=8), compiled=compiled, precision=precision, captured=captured
    )
    offsets = [20 * c for c in range(FOUR + 1)]
    hot_path = replace(EAGER, precision=precision, compiled=compiled)
    asked = ExecutionSettings(class_chunk=class_chunk, image_chunk=image_chunk)
    return GradientMatching(settings, Context(trainer, offsets, synthetic, 0, hot_path, Execution(settings=asked)))


def make_set() -> SyntheticSet:
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return SyntheticSet(images, torch.tensor([0, 0, 1, 1]), ("a", "b"), 1, "single", Normalisation(MEAN, STD))


def gradients(count: int = 4) -> list[torch.Tensor]:
    draws = torch.Generator().manual_seed(1)
    return [torch.randn(4, 3, 8, 8, generator=draws) for _ in range(count)]


def make_characteristic(changes=None, **settings) -> Characteristic:
    context = replace(make_context(), **(changes or {}))
    return Characteristic(CharacteristicSettings(real_batch=8, frequencies=64, **settings), context)
