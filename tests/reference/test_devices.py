"""The reference makes every tensor where its inputs are, which torch's ``meta`` device shows without a GPU."""

from __future__ import annotations

import pytest
import torch

from reference import convnet, matching, other_methods, perturbation, selection, siamese

MEAN, STD, SIDE, CLASSES = (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), 16, 3
CONVNET = convnet.convnet_shapes(2, 4, 3, SIDE, CLASSES)
RESNET = convnet.resnet_ap_shapes(SIDE, 3, CLASSES, (4, 4, 8, 8))


def weights(shapes=CONVNET):
    return {name: weight.float().to("meta") for name, weight in convnet.draw_parameters(shapes, 0).items()}


def images(count=2, *more):
    return torch.empty(*more, count, 3, SIDE, SIDE, device="meta")


def forward(parameters, batch):
    return convnet.convnet_forward(parameters, batch, 2)


def layers(batch):
    return [batch, batch.mean(dim=(2, 3))]


def class_loop(distance):
    real = [images() for _ in range(CLASSES)]
    stored = images(2, CLASSES)
    decoded = matching.decode_multi if distance is matching.distance_l1 else matching.decode_single
    return matching.class_loop(forward, weights(), stored, stored, real, MEAN, STD, 2, decoded, distance, 0.1)


def one(operation, *arguments):
    return operation(images()[0], *arguments)


SUMMED = {"per_class": 2, "mean": MEAN, "std": STD, "lr": 0.1, "momentum": 0.5, "steps": 2}
CASES = {
    "convnet": lambda: forward(weights(), images()),
    "resnet_ap": lambda: convnet.resnet_ap_forward(weights(RESNET), images()),
    "class loop, mse": lambda: class_loop(matching.distance_mse),
    "class loop, l1": lambda: class_loop(matching.distance_l1),
    "class loop, cosine": lambda: class_loop(matching.distance_cosine),
    "decode bound": lambda: matching.decode_bound(images(), 3),
    "dc": lambda: other_methods.summed_step(
        lambda c, own: other_methods.dc_loss(forward, weights(), images(), own, c), images(6), **SUMMED
    ),
    "dm": lambda: other_methods.summed_step(
        lambda c, own: other_methods.dm_loss(lambda batch: batch.flatten(1), images(), own), images(6), **SUMMED
    ),
    "cafe": lambda: other_methods.cafe_loss(layers, [images()] * 2, [images()] * 2, [0.1, 1.0], 0.01),
    "tm": lambda: other_methods.trajectory_loss(
        forward,
        weights(),
        weights(),
        [(images(), torch.zeros(2, dtype=torch.int64, device="meta"))],
        torch.empty((), device="meta"),
    ),
    "brightness": lambda: one(siamese.brightness, 0.3),
    "saturation": lambda: one(siamese.saturation, 0.3),
    "contrast": lambda: one(siamese.contrast, 0.3),
    "shift": lambda: one(siamese.shift, 1, -2),
    "cutout": lambda: one(siamese.cutout, 4, 4, 8),
    "flip": lambda: one(siamese.flip),
    "scale": lambda: one(siamese.scale, 1.1, 0.9),
    "rotate": lambda: one(siamese.rotate, 10.0),
    "cutmix": lambda: one(siamese.cutmix, images()[0], (1, 4, 2, 5)),
    "average": lambda: selection.average([weights(), weights()]),
    "perturb": lambda: perturbation.perturb(weights(), [weights()], [0.1]),
}


def tensors(result):
    if isinstance(result, torch.Tensor):
        return [result]
    return [tensor for part in (result.values() if isinstance(result, dict) else result) for tensor in tensors(part)]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_it_computes_where_its_inputs_are(case):
    assert {tensor.device.type for tensor in tensors(case())} == {"meta"}
