"""Section 7 done literally: one image step of DC and of DM in normalised images, herding and k-center by search.

The published programs keep their images normalised by mean and std and step them there; so does this reference,
which the package, stepping pixels in [0, 1], has to agree with.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from reference.matching import distance_cosine, matching_loss, normalise


def denormalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Back to pixels in [0, 1]."""
    shape = (1, -1, 1, 1)
    mean, std = (torch.tensor(values, device=images.device).reshape(shape) for values in (mean, std))
    return images * std + mean


def summed_step(
    loss_of_class: Callable[[int, Tensor], Tensor],
    stored: Tensor,
    per_class: int,
    mean: Sequence[float],
    std: Sequence[float],
    lr: float,
    momentum: float,
    steps: int,
) -> Tensor:
    """``steps`` SGD steps on the sum of all classes' losses; stored [C * I, c, H, W] in [0, 1], and so the result.

    ``loss_of_class(c, images)`` gets the normalised images of class c.
    """
    images = normalise(stored, mean, std).requires_grad_(True)
    optimiser = torch.optim.SGD([images], lr=lr, momentum=momentum)
    for _ in range(steps):
        classes = range(len(stored) // per_class)
        loss = sum(loss_of_class(c, images[c * per_class : (c + 1) * per_class]) for c in classes)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return denormalise(images.detach(), mean, std)


def dc_loss(forward: Callable, parameters: dict[str, Tensor], real: Tensor, images: Tensor, label: int) -> Tensor:
    """DC: for each output filter of each layer 1 - cos of the two gradients, classifier included."""
    labels = [torch.full((len(batch),), label, device=batch.device) for batch in (real, images)]
    return matching_loss(forward, parameters, real, labels[0], images, labels[1], distance_cosine)


def dm_loss(embed: Callable[[Tensor], Tensor], real: Tensor, images: Tensor) -> Tensor:
    """DM: sum over the embedding of the squared difference of the two means."""
    return torch.sum((torch.mean(embed(real).detach(), dim=0) - torch.mean(embed(images), dim=0)) ** 2)


def cafe_loss(
    layers: Callable[[Tensor], list[Tensor]],
    real: list[Tensor],
    images: list[Tensor],
    layer_weights: list[float],
    discrimination_weight: float,
) -> Tensor:
    """CAFE, all classes: weighted squared distances of layer means, 1 more for the flattened last layer, and the
    cross-entropy of all real embeddings under the synthetic mean embeddings as classifier, summed over them."""
    total = torch.zeros((), device=images[0].device)
    real_embeddings, classifier, labels = [], [], []
    for c in range(len(real)):
        of_real, of_synthetic = layers(real[c]), layers(images[c])
        for weight, r, s in zip(layer_weights, of_real, of_synthetic, strict=True):
            total = total + weight * torch.sum((r.detach().mean(dim=0) - s.mean(dim=0)) ** 2)
        r, s = of_real[-1].detach().flatten(1), of_synthetic[-1].flatten(1)
        total = total + 1.0 * torch.sum((r.mean(dim=0) - s.mean(dim=0)) ** 2)
        real_embeddings.append(r)
        classifier.append(s.mean(dim=0))
        labels.append(torch.full((len(r),), c, device=r.device))
    logits = torch.cat(real_embeddings) @ torch.stack(classifier).T
    return total + discrimination_weight * torch.nn.functional.cross_entropy(logits, torch.cat(labels), reduction="sum")


def trajectory_loss(
    forward: Callable,
    start: dict[str, Tensor],
    target: dict[str, Tensor],
    batches: list[tuple[Tensor, Tensor]],
    lr: Tensor,
) -> Tensor:
    """TM, unrolled in one graph: plain SGD student steps from ``start`` on (images, labels), then
    ||student - target||^2 / ||start - target||^2. Differentiable in the images and in lr."""
    student = {name: weight.detach().clone().requires_grad_(True) for name, weight in start.items()}
    for images, labels in batches:
        loss = torch.nn.functional.cross_entropy(forward(student, images), labels)
        gradients = torch.autograd.grad(loss, list(student.values()), create_graph=True)
        student = {name: w - lr * g for (name, w), g in zip(student.items(), gradients, strict=True)}
    moved = sum(torch.sum((student[name] - target[name]) ** 2) for name in start)
    return moved / sum(torch.sum((start[name] - target[name]) ** 2) for name in start)


def herding(embeddings: np.ndarray, count: int) -> list[int]:
    """At each turn the image that brings the mean of the chosen nearest to the mean of all."""
    chosen: list[int] = []
    for _ in range(count):
        distances = {
            i: np.linalg.norm(embeddings.mean(axis=0) - embeddings[[*chosen, i]].mean(axis=0))
            for i in range(len(embeddings))
            if i not in chosen
        }
        chosen.append(min(distances, key=distances.__getitem__))
    return chosen


def k_center(embeddings: np.ndarray, count: int) -> list[int]:
    """First the image nearest to the mean; then, each time, the one whose nearest chosen image is farthest."""
    everyone = range(len(embeddings))
    chosen = [min(everyone, key=lambda i: np.linalg.norm(embeddings[i] - embeddings.mean(axis=0)))]
    while len(chosen) < count:
        left = [i for i in everyone if i not in chosen]
        chosen.append(max(left, key=lambda i: min(np.linalg.norm(embeddings[i] - embeddings[j]) for j in chosen)))
    return chosen


def crop(image: np.ndarray, area: float, root_ratio: float, top: float, left: float) -> np.ndarray:
    """A part of an image (channels, side, side), scaled to the full side: every pixel by hand, bilinear.

    The part has ``area`` of the image and sides in the ratio root_ratio ** 2 (cut to the image); ``top`` and ``left``
    in [0, 1] say where in the room that is left.
    """
    side = image.shape[1]
    height, width = min(1.0, area**0.5 / root_ratio), min(1.0, area**0.5 * root_ratio)
    made = np.zeros_like(image)
    for row in range(side):
        for column in range(side):
            y = (top * (1 - height) + height * (row + 0.5) / side) * side - 0.5
            x = (left * (1 - width) + width * (column + 0.5) / side) * side - 0.5
            y, x = min(max(y, 0.0), side - 1.0), min(max(x, 0.0), side - 1.0)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, side - 1), min(x0 + 1, side - 1)
            upper = image[:, y0, x0] * (1 - x + x0) + image[:, y0, x1] * (x - x0)
            lower = image[:, y1, x0] * (1 - x + x0) + image[:, y1, x1] * (x - x0)
            made[:, row, column] = upper * (1 - y + y0) + lower * (y - y0)
    return made


def rded(crops: list[list[np.ndarray]], loss: Callable[[np.ndarray], float], count: int) -> list[np.ndarray]:
    """Of each image's crops the one with the lowest loss; of these the ``count`` best, the best first."""
    best = [min(own, key=loss) for own in crops]
    return sorted(best, key=loss)[:count]
