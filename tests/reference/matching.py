"""Gradient matching: distances, multi-formation decoding and the sequential class loop (sections 1 and 3)."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Gradients = dict[str, Tensor]
Distance = Callable[[Gradients, Gradients], Tensor]
Forward = Callable[[dict[str, Tensor], Tensor], Tensor]

CLASSIFIER = "classifier.weight"
COSINE_EPS = 1e-6
MOST_DECODED = 128


# ---------------------------------------------------------------------------------------------------- distances


def distance_mse(g_real: Gradients, g_syn: Gradients) -> Tensor:
    """Section 1, `mse`: sum over 4-dimensional weights of the squared differences. name -> gradient; scalar out."""
    terms = [((g_real[name] - g_syn[name]) ** 2).sum() for name in g_real if g_real[name].dim() == 4]
    return torch.stack(terms).sum()


def distance_l1(g_real: Gradients, g_syn: Gradients) -> Tensor:
    """Section 1, `l1`: sum over 4-dimensional weights of the absolute differences. name -> gradient; scalar out."""
    terms = [(g_real[name] - g_syn[name]).abs().sum() for name in g_real if g_real[name].dim() == 4]
    return torch.stack(terms).sum()


def distance_cosine(g_real: Gradients, g_syn: Gradients) -> Tensor:
    """Section 1, `cosine`: sum over layers and output filters j of 1 - cos(g_real[j], g_syn[j]).

    Layers: 4-dimensional weights and the classifier's weight matrix (one filter = one row, one class).
    cos(a, b) = <a, b> / (|a| |b| + 1e-6) over the flattened filter. name -> gradient; scalar out.
    """
    terms = []
    for name in g_real:
        if g_real[name].dim() != 4 and name != CLASSIFIER:
            continue
        for j in range(g_real[name].shape[0]):
            a = g_real[name][j].flatten()
            b = g_syn[name][j].flatten()
            # vector_norm has the subgradient 0 at a zero filter, where sqrt(sum of squares) would give NaN
            norms = torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b)
            cosine = (a * b).sum() / (norms + COSINE_EPS)
            terms.append(1 - cosine)
    return torch.stack(terms).sum()


def matched_names(parameters: dict[str, Tensor], distance: Distance) -> list[str]:
    """Names of the parameters whose gradients `distance` looks at: 4-dimensional; the classifier's for cosine."""
    names = []
    for name, parameter in parameters.items():
        if parameter.dim() == 4 or (distance is distance_cosine and name == CLASSIFIER):
            names.append(name)
    return names


# ---------------------------------------------------------------------------------------------------- decoding


def decode_single(stored: Tensor, factor: int) -> Tensor:
    """Section 3, `single`: [n, c, H, W] in [0, 1] -> [F * F * n, c, H, W].

    Cut into F * F cells of ceil(H / F) x ceil(W / F), after padding right and bottom with 0.5 to F times that; resize
    each cell bilinearly (align_corners false) to H x W. Order: cell by cell, row by row from the top left; all n
    images of a cell together.
    """
    height, width = stored.shape[-2:]
    cell_height = -(-height // factor)
    cell_width = -(-width // factor)
    pad_bottom = cell_height * factor - height
    pad_right = cell_width * factor - width
    padded = F.pad(stored, (0, pad_right, 0, pad_bottom), value=0.5)
    decoded = []
    for row in range(factor):
        for column in range(factor):
            top = row * cell_height
            left = column * cell_width
            for image in padded:
                cell = image[:, top : top + cell_height, left : left + cell_width]
                resized = F.interpolate(cell[None], size=(height, width), mode="bilinear", align_corners=False)
                decoded.append(resized[0])
    return torch.stack(decoded)


def decode_multi(stored: Tensor, factor: int) -> Tensor:
    """Section 3, `multi`: [n, c, H, W] -> [(1 + 4 + ... + F * F) * n, c, H, W], `single` of factors 1, 2, ..., F."""
    return torch.cat([decode_single(stored, f) for f in range(1, factor + 1)])


def bound_counts(images: int, factor: int, bound: int = MOST_DECODED) -> list[tuple[int, int]]:
    """How many stored images get which factor in `decode_bound`: [(F, k_F), (F - 1, k_{F-1}), ..., (1, k_1)]."""
    counts = []
    remaining = images
    room = bound
    for f in range(factor, 0, -1):
        taken = 0
        if f == 1:
            taken = remaining
        else:
            # f * f each, in what is left beside one decoded image for each image that had none when f began
            while taken < remaining and (taken + 1) * f * f <= room - remaining:
                taken += 1
        counts.append((f, taken))
        remaining -= taken
        room -= taken * f * f
    return counts


def decode_bound(stored: Tensor, factor: int, bound: int = MOST_DECODED) -> Tensor:
    """Section 3, `bound`: [n, c, H, W] -> [at most `bound`, c, H, W].

    The section says "uses factor F for as many images as fit in a bound of 128 decoded images, then smaller factors".
    The reading here, that of the published program: go through f = F, F - 1, ..., 1; give factor f to as many of the
    remaining images as fit, at f * f each, into the bound less what is decoded and less one for each remaining image.
    The images are consumed in stored order; the output is the concatenation of `single` of each part, from factor F
    downward.
    If n alone exceeds the bound, every image is decoded with factor 1 and the bound is not kept (n come out).
    """
    parts = []
    start = 0
    for f, taken in bound_counts(stored.shape[0], factor, bound):
        if taken > 0:
            parts.append(decode_single(stored[start : start + taken], f))
        start += taken
    return torch.cat(parts)


# ---------------------------------------------------------------------------------------------------- matching


def normalise(images: Tensor, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> Tensor:
    """(x - mean) / std per channel; images [n, c, H, W], mean and std [c]."""
    mean = torch.as_tensor(mean, dtype=images.dtype, device=images.device).reshape(1, -1, 1, 1)
    std = torch.as_tensor(std, dtype=images.dtype, device=images.device).reshape(1, -1, 1, 1)
    return (images - mean) / std


def matching_loss(
    forward: Forward,
    parameters: dict[str, Tensor],
    real: Tensor,
    real_labels: Tensor,
    syn: Tensor,
    syn_labels: Tensor,
    distance: Distance,
) -> Tensor:
    """Section 1: distance(grad_theta CE(real), grad_theta CE(syn)), a scalar that is differentiable in `syn`.

    real [B, c, H, W], syn [S, c, H, W], both normalised and augmented already; labels [B] and [S]; CE is the batch
    mean; theta is fixed. Only the parameters that the distance uses are differentiated.
    """
    theta = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    names = matched_names(theta, distance)
    for name in names:
        theta[name].requires_grad_(True)
    weights = [theta[name] for name in names]
    real_loss = F.cross_entropy(forward(theta, real.detach()), real_labels)
    real_gradients = torch.autograd.grad(real_loss, weights)
    g_real = {name: gradient.detach() for name, gradient in zip(names, real_gradients, strict=True)}
    syn_loss = F.cross_entropy(forward(theta, syn), syn_labels)
    syn_gradients = torch.autograd.grad(syn_loss, weights, create_graph=True)
    g_syn = dict(zip(names, syn_gradients, strict=True))
    return distance(g_real, g_syn)


def class_loss_and_image_gradient(
    forward: Forward,
    parameters: dict[str, Tensor],
    real: Tensor,
    real_labels: Tensor,
    syn: Tensor,
    syn_labels: Tensor,
    distance: Distance,
) -> tuple[Tensor, Tensor]:
    """Section 1: (loss_c [], d loss_c / d syn [S, c, H, W]) for inputs that are normalised and augmented already.

    `forward(parameters, images)` -> logits; `distance` is one of distance_mse, distance_l1, distance_cosine.
    """
    syn = syn.detach().clone().requires_grad_(True)
    loss = matching_loss(forward, parameters, real, real_labels, syn, syn_labels, distance)
    (gradient,) = torch.autograd.grad(loss, syn)
    return loss.detach(), gradient


def class_loop(
    forward: Forward,
    parameters: dict[str, Tensor],
    stored: Tensor,
    momentum_buffer: Tensor | None,
    real_batches: Sequence[Tensor],
    mean: Sequence[float] | Tensor,
    std: Sequence[float] | Tensor,
    factor: int,
    decoder: Callable[[Tensor, int], Tensor],
    distance: Distance,
    image_lr: float,
    image_momentum: float = 0.5,
    augment: Callable[[Tensor], Tensor] | None = None,
    clamp: bool = False,
    subsets: Sequence[Tensor | None] | None = None,
) -> tuple[Tensor, Tensor | None, list[Tensor]]:
    """Section 1, the loop over classes of one inner step, done literally.

    ONE SGD over ONE tensor of all classes, momentum 0.5, stepped once per class in class order, so that a class's
    images also move, by momentum, during the other classes' steps (before and after its own).

    stored [C, I, c, H, W] in [0, 1]; momentum_buffer of the same shape, or None before the very first step (then
    torch's SGD starts it as the first gradient, which equals starting from zeros since dampening is 0);
    real_batches[c] [B, c, H, W] in [0, 1], not normalised; decoder is decode_single, decode_multi or decode_bound;
    augment, if given, maps the normalised concatenation real_c ++ decoded_c to as many images, once per class;
    clamp=True clamps the stored images to [0, 1] first (section 1 does so once per outer step, not per inner step);
    subsets[c], if given and not None, holds the indices of the decoded images to use. It is required when more than
    128 would come out (section 1 takes a random subset; the reference draws nothing).

    Returns the new (stored, momentum_buffer, losses), losses[c] (0-d) being loss_c at the moment of class c's step.
    Inputs are not changed. With image_momentum 0 there is no buffer and None comes back.
    """
    images = stored.detach().clone()
    if clamp:
        images = images.clamp(0, 1)
    images.requires_grad_(True)
    optimiser = torch.optim.SGD([images], lr=image_lr, momentum=image_momentum)
    if momentum_buffer is not None:
        optimiser.state[images]["momentum_buffer"] = momentum_buffer.detach().clone()
    losses = []
    for c in range(images.shape[0]):
        real = real_batches[c]
        decoded = decoder(images[c], factor)
        if subsets is not None and subsets[c] is not None:
            decoded = decoded[subsets[c]]
        if decoded.shape[0] > MOST_DECODED:
            raise ValueError(f"class {c} decodes to {decoded.shape[0]} images, over {MOST_DECODED}: give its subset")
        both = normalise(torch.cat([real, decoded]), mean, std)
        if augment is not None:
            both = augment(both)
        real_labels = torch.full((real.shape[0],), c, device=real.device)
        syn_labels = torch.full((decoded.shape[0],), c, device=decoded.device)
        loss = matching_loss(
            forward, parameters, both[: real.shape[0]], real_labels, both[real.shape[0] :], syn_labels, distance
        )
        optimiser.zero_grad(set_to_none=False)
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    buffer = optimiser.state[images].get("momentum_buffer")
    return images.detach(), None if buffer is None else buffer.detach().clone(), losses
