"""Networks of section 5 of the algorithm description: python -m pytest tests/networks/test_networks.py.

Forward passes are compared in float64, absolute tolerance 1e-9.
"""

from __future__ import annotations

import copy
import math
import sys
from types import SimpleNamespace

import pytest
import torch
from reference import convnet as reference
from torch import nn

import ddistill
from ddistill.networks import (
    NETWORKS,
    ConvNet,
    NetworkSettings,
    ResNetAP,
    build_network,
    check_network,
    check_trainable,
    network_gives,
    network_of,
    register,
)
from ddistill.runtime.errors import UserError

TOLERANCE = 1e-9

# Table 1 of the supplement; torch stores a convolution as [out, in, k, k] and a linear layer as [out, in].
TABLE_1 = [
    (128, 3, 3, 3),
    (128,),
    (128, 128, 3, 3),
    (128,),
    (128, 128, 3, 3),
    (128,),
    *[(128,)] * 6,  # scale and shift of three norms
    (10, 2048),
    (10,),
]
# Table 2, with the stem's norm and conv7 as 3x3 (section 5); each norm has a scale and a shift.
TABLE_2_CONVOLUTIONS = [
    (64, 3, 7, 7),
    (64, 64, 3, 3),
    (64, 64, 3, 3),
    (128, 64, 3, 3),
    (128, 128, 3, 3),
    (128, 64, 1, 1),
    (256, 128, 3, 3),
    (256, 256, 3, 3),
    (256, 128, 1, 1),
    (512, 256, 3, 3),
    (512, 512, 3, 3),
    (512, 256, 1, 1),
]


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


def with_reference_weights(module: nn.Module, shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Give the module the reference's test parameters, by name; every name must be there on both sides."""
    parameters = reference.draw_parameters(shapes, seed=3)
    module.double().load_state_dict(parameters, strict=True)
    return parameters


def random_images(count: int, channels: int, size: int) -> torch.Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def table_1_order(shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    return len(shape), shape


def test_convnet_3_on_cifar_has_the_parameters_of_table_1():
    network = ConvNet(10)
    assert parameter_count(network) == 320_010
    assert sorted(shapes_of(network).values(), key=table_1_order) == sorted(TABLE_1, key=table_1_order)


def test_resnet_ap_10_at_224_px_has_the_parameters_of_table_2():
    network = ResNetAP(10)
    shapes = shapes_of(network)
    assert parameter_count(network) == 4_910_922
    assert sorted(s for s in shapes.values() if len(s) == 4) == sorted(TABLE_2_CONVOLUTIONS)
    assert sorted(s for s in shapes.values() if len(s) == 2) == [(10, 512)]
    norms = sorted(s for name, s in shapes.items() if "norm" in name)
    assert norms == sorted([(s[0],) for s in TABLE_2_CONVOLUTIONS for _ in ("scale", "shift")])
    assert [name for name in shapes if name.endswith("conv.bias")] == []


@pytest.mark.parametrize(
    ("size", "channels", "depth"), [(8, 1, 2), (8, 3, 2), (28, 1, 3), (28, 3, 3), (32, 1, 3), (32, 3, 3), (64, 3, 4)]
)
@pytest.mark.parametrize("norm", ["instance", "none"])
def test_convnet_computes_what_the_reference_computes(size, channels, depth, norm):
    network = ConvNet(5, channels, size, width=8, depth=depth, norm=norm)
    parameters = with_reference_weights(network, reference.convnet_shapes(depth, 8, channels, size, 5, norm))
    images = random_images(3, channels, size)
    expected = reference.convnet_forward(parameters, images, depth, norm)
    torch.testing.assert_close(network(images), expected, rtol=0, atol=TOLERANCE)


def test_the_classifier_of_a_28_px_convnet_sees_4x4_maps_because_of_padding_3():
    network = ConvNet(10, channels=1, size=28)
    assert network.classifier.in_features == 128 * 4 * 4
    assert network.features(torch.zeros(2, 1, 28, 28)).shape == (2, 128 * 4 * 4)


@pytest.mark.parametrize(("size", "depth", "side"), [(128, 5, 4), (224, 4, 14), (224, 5, 7), (32, 4, 2), (64, 5, 2)])
def test_convnet_builds_and_runs_at_other_sizes_and_depths(size, depth, side):
    network = ConvNet(7, 3, size, width=4, depth=depth)
    assert network.classifier.in_features == 4 * side * side
    assert network(torch.zeros(1, 3, size, size)).shape == (1, 7)


@pytest.mark.parametrize(
    ("size", "kernel", "width"), [(32, 3, 0.25), (64, 3, 0.125), (96, 3, 0.25), (128, 3, 0.125), (224, 7, 0.125)]
)
def test_resnet_ap_computes_what_the_reference_computes(size, kernel, width):
    widths = tuple(int(width * channels) for channels in (64, 128, 256, 512))
    network = ResNetAP(5, 3, size, width=width)
    parameters = with_reference_weights(network, reference.resnet_ap_shapes(size, 3, 5, widths))
    assert parameters["stem.conv.weight"].shape[-1] == kernel
    images = random_images(1, 3, size)
    expected = reference.resnet_ap_forward(parameters, images)
    torch.testing.assert_close(network(images), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("size", "side"), [(64, 64), (65, 32), (128, 64), (129, 32), (224, 56)])
def test_the_stem_of_resnet_ap_pools_by_the_size_of_the_images(size, side):
    network = ResNetAP(2, 3, size, width=0.125)
    seen = []
    network.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1]))
    network(torch.zeros(1, 3, size, size))
    assert seen == [side]


def test_resnet_ap_convolutions_start_from_a_normal_of_spread_by_fan_out():
    network = build_network(NetworkSettings(name="resnet_ap"), 10, 3, 224, 0, "spread")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            expected = math.sqrt(2.0 / (module.kernel_size[0] ** 2 * module.out_channels))
            error = 4.0 / math.sqrt(2 * module.weight.numel())  # four standard errors of a spread
            assert float(module.weight.detach().std()) == pytest.approx(expected, rel=error)
            assert abs(float(module.weight.detach().mean())) < 4 * expected / math.sqrt(module.weight.numel())


def test_instance_norm_is_written_out_as_the_same_function_under_a_compiler(monkeypatch):
    network = ConvNet(5, 3, 16, width=4, depth=2).double()
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0.3, 1.0, generator=torch.Generator().manual_seed(1))
    images = random_images(2, 3, 16)
    eager = network(images)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(network(images), eager, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    "settings", [NetworkSettings(width=8), NetworkSettings(name="resnet_ap", width=0.125)], ids=lambda s: s.name
)
def test_a_network_is_a_function_of_its_key(settings):
    def weights(*key: int | str) -> dict[str, torch.Tensor]:
        return build_network(settings, 10, 3, 32, *key).state_dict()

    first, again, others = weights(0, "pool", 1), weights(0, "pool", 1), (weights(0, "pool", 2), weights(1, "pool", 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    for other in others:
        assert all(not torch.equal(first[name], other[name]) for name in first if first[name].ndim >= 2)


def test_building_a_network_leaves_the_global_generator_as_it_was():
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first = build_network(NetworkSettings(width=4), 10, 3, 32, 0, "x")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    second = build_network(NetworkSettings(width=4), 10, 3, 32, 0, "x")
    assert torch.equal(first.classifier.weight, second.classifier.weight)


def test_building_a_network_that_fails_leaves_the_global_generator_as_it_was():
    before = torch.get_rng_state()
    with pytest.raises(UserError):
        build_network(NetworkSettings(depth=9), 10, 3, 32, 0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("name", "nearest"), [("convnt", "convnet"), ("resnetap", "resnet_ap")])
def test_an_unknown_network_is_refused_with_the_nearest_name(name, nearest):
    with pytest.raises(UserError, match=rf"'{name}'.*did you mean {nearest}"):
        build_network(NetworkSettings(name=name), 10, 3, 32, 0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (NetworkSettings(name="resnet_ap", depth=3), "resnet_ap.*depth"),
        (NetworkSettings(width=12.5), "network.width.*12.5"),
        (NetworkSettings(depth=6), "network.depth 6.*32-pixel"),
    ],
)
def test_an_option_that_a_network_cannot_take_is_refused_by_its_name(settings, words):
    with pytest.raises(UserError, match=words) as refusal:
        build_network(settings, 10, 3, 32, 0)
    assert "\n" not in str(refusal.value)


def test_an_own_network_can_be_registered_and_built_with_its_options(monkeypatch):
    monkeypatch.setattr("ddistill.networks.NETWORKS", dict(NETWORKS))

    class Linear(nn.Module):
        def __init__(self, num_classes, channels, size, *, width=1.0):
            super().__init__()
            self.width = width
            self.layer = nn.Linear(channels * size * size, num_classes)

        def forward(self, x):
            return self.layer(x.flatten(1))

    register("own", Linear)
    register("own", Linear)
    network = build_network(NetworkSettings(name="own", width=2.5), 4, 1, 6, 0)
    assert network.width == 2.5
    assert network(torch.zeros(3, 1, 6, 6)).shape == (3, 4)
    with pytest.raises(UserError, match="'own' is taken"):
        register("own", ConvNet)


def test_a_constructor_that_makes_no_new_module_is_refused(monkeypatch):
    monkeypatch.setattr("ddistill.networks.NETWORKS", dict(NETWORKS))
    made = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(256, 10))
    register("once", lambda *_: made)
    register("number", lambda *_: 3)
    register("tuple", lambda *_: Pair())
    register("broken", lambda *_: 1 // 0)
    for name, words in (
        ("once", "'once' is the same module each time; let its constructor make a new one"),
        ("number", "'number' is made as 'int'; it must be a torch.nn.Module"),
        ("tuple", r"'tuple' gives a tuple for 2 images of 10 classes; it must give a tensor of shape \(2, 10\)"),
        ("broken", "'broken' does not work for 10 classes of images of 1 x 8 x 8: ZeroDivisionError"),
    ):
        with pytest.raises(UserError, match=words):
            ddistill.distill("digits", changes={"network.name": name})


class Pair(nn.Module):
    """Gives its logits in a tuple, as networks with more than one head do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 10, 8)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.layer(images).flatten(1),)


@pytest.mark.parametrize(("size", "depth", "legal"), [(8, 3, 2), (8, None, 2), (16, 4, 3), (4, 2, 1)])
def test_a_convnet_too_deep_for_the_images_is_refused_with_a_depth_that_works(size, depth, legal):
    with pytest.raises(UserError, match=rf"network\.depth={legal}\b"):
        check_network(NetworkSettings(depth=depth), size)
    check_network(NetworkSettings(depth=legal), size)


@pytest.mark.parametrize(("size", "depth"), [(8, 2), (16, 3), (28, 3), (32, 3), (32, 4), (64, 5)])
def test_a_convnet_that_fits_the_images_is_accepted(size, depth):
    check_network(NetworkSettings(depth=depth), size)


def test_batch_norm_networks_have_buffers_and_run():
    network = build_network(NetworkSettings(width=4, norm="batch"), 3, 1, 16, 0)
    assert len([m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]) == 3
    assert network(torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))).shape == (4, 3)


PUBLISHED_COUNTS = {
    # parameters of the well-known versions for 10 classes and 32 px: body as published, 3x3 stem, one linear layer
    "resnet18": 11_173_962,
    "resnet10": 4_903_242,
    "vgg11": 9_231_114,  # 8 convolutions with bias 9,220,480, norms 2 x 2752, linear 5,130
    "mlp": 411_146,
    "lenet": 62_006,
    "densenet": 6_956_298,
}


@pytest.mark.parametrize(("name", "count"), PUBLISHED_COUNTS.items())
def test_networks_have_as_many_parameters_as_published(name, count):
    assert parameter_count(build_network(NetworkSettings(name=name), 10, 3, 32, "k")) == count


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 72)])
def test_every_network_takes_every_size_and_learns(name, channels, size):
    settings = NetworkSettings(name=name, **({} if name == "lenet" else {"width": 16 if name == "convnet" else 0.125}))
    if size < getattr(NETWORKS[name], "SMALLEST_SIDE", 1):
        with pytest.raises(UserError, match="px, got 8"):
            check_trainable(settings, size)
        return
    check_trainable(settings, size)
    if name == "mlp":
        settings = NetworkSettings(name=name)
    network = build_network(settings, 4, channels, size, "k")
    images = torch.randn(6, channels, size, size, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    while len(losses) < 20 and (len(losses) < 2 or losses[-1] >= 0.98 * losses[0]):
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert network(images).shape == (6, 4)
    assert network.features(images).shape == (6, network.classifier.in_features)
    assert losses[-1] < 0.98 * losses[0]
    # the images reach the output: no norm over a single pixel on the way
    assert not torch.allclose(network(images)[0], network(images)[1], atol=1e-4)


@pytest.mark.parametrize("name", ["resnet10", "resnet18", "densenet", "vgg11", "alexnet"])
def test_batch_norm_is_an_option(name):
    network = build_network(NetworkSettings(name=name, norm="batch", width=0.25), 10, 3, 32, "k")
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("resnet18", NetworkSettings(name="resnet18")),
        ("resnet18,norm=batch", NetworkSettings(name="resnet18", norm="batch")),
        ("convnet, width=64, depth=4", NetworkSettings(width=64, depth=4)),
    ],
)
def test_a_network_is_read_from_text(text, settings):
    assert network_of(text) == settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resnet19", "resnet18"),
        ("resnet18,norm", "NAME"),
        ("resnet18,norm=layer", "norm: "),
        ("resnet18,wdth=2", "width, depth or norm"),
        ("lenet,norm=batch", "lenet"),
        ("convnet,depth=x", "depth: "),
    ],
)
def test_a_mistake_in_the_text_of_a_network_is_named(text, message):
    with pytest.raises(UserError, match=message):
        network_of(text)


def test_networks_of_other_libraries_are_built_where_they_are_installed(monkeypatch):
    built = {}

    def create_model(name, **options):
        built[name] = options
        return nn.Linear(1, 1)

    timm = SimpleNamespace(list_models=lambda: ["resnet26"], create_model=create_model)
    models = SimpleNamespace(list_models=lambda: ["resnet34"], get_model=create_model)
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(models=models))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    build_network(NetworkSettings(name="timm/resnet26"), 7, 1, 32, "k")
    build_network(NetworkSettings(name="torchvision/resnet34"), 7, 3, 32, "k")
    assert built == {
        "resnet26": {"pretrained": False, "num_classes": 7, "in_chans": 1},
        "resnet34": {"weights": None, "num_classes": 7},
    }
    for text, message in (("timm/resnet27", "resnet26"), ("timm/resnet26,width=2", "does not take width")):
        with pytest.raises(UserError, match=message):
            network_of(text)
    with pytest.raises(UserError, match="colour images"):
        build_network(NetworkSettings(name="torchvision/resnet34"), 7, 1, 32, "k")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match="need the package timm"):
        network_of("timm/resnet26")


class Embedding(nn.Module):
    """As timm makes networks: two halves, and no method `features`."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Flatten(), nn.Linear(192, 5)

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        return self.body(images)

    def forward_head(self, x: torch.Tensor, *, pre_logits: bool = False) -> torch.Tensor:
        return x if pre_logits else self.head(x)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(images))


def test_a_module_is_asked_for_what_a_function_or_a_library_does_not_tell(monkeypatch):
    timm = SimpleNamespace(list_models=lambda: ["embedding"], create_model=lambda *_words, **_options: Embedding())
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setitem(NETWORKS, "bare", lambda classes, channels, size: Embedding())
    monkeypatch.setitem(NETWORKS, "maps", lambda classes, channels, size: nn.ModuleDict({"features": nn.Identity()}))
    monkeypatch.setitem(NETWORKS, "made", lambda classes, channels, size: ConvNet(classes, channels, size, depth=2))
    shape = (5, 3, 8)
    for name, gives in (("timm/embedding", True), ("made", True), ("bare", False), ("maps", False)):
        settings = NetworkSettings(name=name)
        assert network_gives(settings, "features")  # nothing is known against it before the data are
        assert network_gives(settings, "features", shape) == gives
    network = build_network(NetworkSettings(name="timm/embedding"), *shape, "k")
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(network.features(images), images.flatten(1))
    twin = copy.deepcopy(network)
    assert twin.features.__self__ is twin
