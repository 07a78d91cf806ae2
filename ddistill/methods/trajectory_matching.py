"""Trajectory matching (TM, also MTT): a few student steps on the synthetic set should lead where an expert got to.

https://arxiv.org/abs/2203.11932
Shapes: n decoded synthetic images in all, b of them in a student step, N student steps, theta all weights.

The student starts at an expert's weights theta_0 and makes N plain SGD steps with a learned rate eta,

    theta_{i+1} = theta_i - eta * g_i,   g_i = gradient of CE(theta_i, x_i),

and the loss is L = ||theta_N - target||^2 / ||theta_0 - target||^2. Its gradient is found exactly by a reverse sweep
over the stored theta_i (weights only), which rebuilds the graph of one student step at a time:

    lambda_N = 2 (theta_N - target) / ||theta_0 - target||^2
    dL/dx_i  = -eta * d<g_i, lambda_{i+1}>/dx_i,     dL/d eta = - sum of <g_i, lambda_{i+1}>
    lambda_i = lambda_{i+1} - eta * d<g_i, lambda_{i+1}>/d theta_i

So the memory for activations is that of one step, whatever N (TESLA has the same aim).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch.nn import functional as F

from ddistill.augment import DSA_AUGMENTATION, AugmentDraws, AugmentSettings, draw_augment
from ddistill.data import epoch_batches
from ddistill.methods.base import Context, Method, Needs, OnInner, Trajectory
from ddistill.methods.image_optimiser import ImageSGD
from ddistill.networks import couples_batch
from ddistill.runtime.errors import RunError, UserError
from ddistill.runtime.flops import flops_of
from ddistill.runtime.gradients import GradAndValue, eager_grad_and_value, grad_and_value_for
from ddistill.runtime.randomness import generator
from ddistill.runtime.settings import Settings
from ddistill.training import Forward, maybe_compile

Tensors = dict[str, torch.Tensor]


class TrajectoryMatchingSettings(Settings):
    """TM: unrolled student steps against an expert's weights some epochs later."""

    name: Literal["tm"] = "tm"
    """The method."""
    student_steps: int = Field(default=30, ge=1)
    """Student steps on the synthetic set (n_syn)."""
    expert_epochs: int = Field(default=2, ge=1)
    """Epochs from the expert's start to its target (m)."""
    max_start_epoch: int = Field(default=20, ge=1)
    """A student starts from an expert after fewer epochs than these."""
    image_lr: float = Field(default=1e3, gt=0)
    """Learning rate of the images, for images normalised by mean and std."""
    student_lr: float = Field(default=0.01, gt=0)
    """Learning rate of the student at the start; it is learned."""
    lr_lr: float = Field(default=1e-5, ge=0)
    """Learning rate of the student's learning rate."""
    image_momentum: float = Field(default=0.5, ge=0, lt=1)
    """SGD momentum of the images and of the student's learning rate."""
    synthetic_batch: int | None = Field(default=None, ge=1)
    """Decoded images in a student step; all of them if not set."""
    augment: AugmentSettings = DSA_AUGMENTATION
    """Augmentation of the student's images, drawn per image."""

    @property
    def needs(self) -> Needs:
        """Expert trajectories."""
        trajectory = Trajectory(self.max_start_epoch, self.expert_epochs)
        return Needs(network=True, second_order=True, reference=trajectory)


def student_gradient(
    grad_and_value: GradAndValue, forward: Forward, weights: Tensors, images: torch.Tensor, labels: torch.Tensor
) -> Tensors:
    """The gradient of the student's loss with respect to its weights."""

    def loss(theta: Tensors, x: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(forward(theta, x), labels)

    gradient: Tensors = grad_and_value(loss)(weights, images)[0]
    return gradient


def student_adjoint(
    grad_and_value: GradAndValue,
    forward: Forward,
    weights: Tensors,
    images: torch.Tensor,
    labels: torch.Tensor,
    adjoint: Tensors,
) -> tuple[torch.Tensor, Tensors, torch.Tensor]:
    """<g, adjoint> and its gradients with respect to weights and images, for g = `student_gradient`.

    Args:
        grad_and_value: of `runtime.gradients`.
        forward: from weights and images to logits.
        weights: of the student, detached.
        images: (b, channels, H, H), normalised and augmented.
        labels: int64 (b,).
        adjoint: lambda, shaped like the weights.
    """

    def product(theta: Tensors, x: torch.Tensor) -> torch.Tensor:
        gradient = student_gradient(grad_and_value, forward, theta, x, labels)
        return torch.stack([(g * adjoint[name]).sum() for name, g in gradient.items()]).sum()

    (by_weights, by_images), value = grad_and_value(product, argnums=(0, 1))(weights, images)
    return value, by_weights, by_images


class TrajectoryMatching(Method):
    """The loop of MTT (algorithm 1 of its paper), one student per outer step.

    Deviations from the authors' program: the stored images stay in [0, 1] pixels and are clamped there at each outer
    step (but for ``data.whitening``: a step on pixels is then the step on whitened images, and they move freely). The
    learned rate goes with the set, and evaluation trains at it under ``evaluation.protocol=tm``. Perturbed start
    weights (``model_augmentation.perturb``) are an extension of this library.
    """

    def __init__(self, settings: TrajectoryMatchingSettings, context: Context) -> None:
        self.settings = settings
        self.context = context
        device, space = context.synthetic.images.device, context.real.normalisation
        self.optimiser = ImageSGD(context.synthetic, settings.image_lr, settings.image_momentum, space)
        self.student_lr = torch.tensor(settings.student_lr, device=device)
        self.lr_velocity = torch.zeros((), device=device)
        self.pipeline = context.real.pipeline(settings.augment)
        self.forward = Forward(context.network, context.precision)
        compiled = context.hot_path.compiled and not couples_batch(context.network)
        self.grad_and_value = grad_and_value_for(compiled)
        self._gradient = maybe_compile(student_gradient, compiled)
        self._adjoint = maybe_compile(student_adjoint, compiled)
        self.labels = context.synthetic.decoded_labels()

    def outer_step(self, step: int, on_inner: OnInner) -> torch.Tensor:
        """One student, one step on the images and on the student's learning rate."""
        settings, context = self.settings, self.context
        context.synthetic.keep_in_range()
        context.network.train()
        if context.reference is None:
            raise UserError("method tm aims at an expert's later weights: it needs a source that gives a reference")
        device = context.synthetic.images.device
        start = {name: parameter.detach().clone() for name, parameter in context.network.named_parameters()}
        target = {name: parameter.detach() for name, parameter in context.reference.named_parameters()}
        batch = min(settings.synthetic_batch or len(self.labels), len(self.labels))
        draws = generator(context.seed, "student batch", step)
        order = epoch_batches(len(self.labels), batch, settings.student_steps, draws).to(device)
        augment = draw_augment(settings.augment, settings.student_steps, batch, draws).to(device)
        loss, by_images, by_lr = self.gradients(start, target, order, augment, on_inner)
        self.optimiser.step(by_images)
        self.lr_velocity.mul_(settings.image_momentum).add_(by_lr)
        self.student_lr.sub_(settings.lr_lr * self.lr_velocity)
        learned = float(self.student_lr)
        if learned <= 0.0:
            raise RunError(
                f"outer step {step}: the learned rate of the student fell to {learned:.3g}; use a smaller "
                f"method.lr_lr (now {settings.lr_lr}) or method.image_lr; the images of step {step - 1} are kept"
            )
        return loss

    def gradients(
        self, start: Tensors, target: Tensors, order: torch.Tensor, augment: AugmentDraws, on_inner: OnInner
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The loss and its gradients with respect to the stored images and the student's learning rate.

        Args:
            start: theta_0.
            target: the expert's later weights.
            order: positions of each student step's images among the decoded ones, int64 (N, b).
            augment: one call per student step.
            on_inner: called with (sweeps done, sweeps in all).
        """
        steps, rate = len(order), self.student_lr
        states = [start]
        with torch.no_grad():
            decoded = self._decoded(self.context.synthetic.images)
        for i in range(steps):
            with torch.no_grad():
                images = self.pipeline(decoded[order[i]], augment.uniforms[i], augment.choices[i])
            gradient = self._gradient(self.grad_and_value, self.forward, states[-1], images, self.labels[order[i]])
            states.append({name: weight - rate * gradient[name] for name, weight in states[-1].items()})
            on_inner(i + 1, 2 * steps)
        scale = _distance(start, target)
        loss = _distance(states[-1], target) / scale
        adjoint = {name: 2.0 * (weight - target[name]) / scale for name, weight in states.pop().items()}
        by_images = torch.zeros_like(self.context.synthetic.images)
        by_lr = torch.zeros_like(rate)
        for i in reversed(range(steps)):
            stored = self.context.synthetic.images.detach().requires_grad_()
            images = self.pipeline(self._decoded(stored)[order[i]], augment.uniforms[i], augment.choices[i])
            labels = self.labels[order[i]]
            setting = (self.grad_and_value, self.forward, states.pop())
            value, by_weights, by_batch = self._adjoint(*setting, images.detach(), labels, adjoint)
            by_images -= rate * torch.autograd.grad(images, stored, by_batch)[0]
            by_lr -= value
            adjoint = {name: tensor - rate * by_weights[name] for name, tensor in adjoint.items()}
            on_inner(2 * steps - i, 2 * steps)
        return loss, by_images, by_lr

    def _decoded(self, stored: torch.Tensor) -> torch.Tensor:
        """All images as `decode_class` makes them, class by class."""
        synthetic = self.context.synthetic
        classes = range(synthetic.num_classes)
        return torch.cat([synthetic.decode_class(stored[synthetic.class_slice(c)]) for c in classes])

    def state(self) -> dict[str, torch.Tensor]:
        """The momentum of the images, the student's learning rate and its momentum."""
        return {**self.optimiser.state(), "student_lr": self.student_lr, "lr_velocity": self.lr_velocity}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take back what `state` gave."""
        self.optimiser.load_state(state)
        self.student_lr.copy_(state["student_lr"])
        self.lr_velocity.copy_(state["lr_velocity"])

    @property
    def learned_rate(self) -> float:
        """Of the student, as it now is."""
        return float(self.student_lr)

    def flops_per_outer_step(self) -> float:
        """Counted on one eager student step forth and back."""
        settings, context = self.settings, self.context
        batch = min(settings.synthetic_batch or len(self.labels), len(self.labels))
        images = self._decoded(context.synthetic.images)[:batch]
        weights = {name: parameter.detach() for name, parameter in context.network.named_parameters()}
        inputs = (eager_grad_and_value, self.forward, weights, images, self.labels[:batch])
        return settings.student_steps * flops_of(lambda: (student_gradient(*inputs), student_adjoint(*inputs, weights)))


def _distance(one: Tensors, other: Tensors) -> torch.Tensor:
    return torch.stack([(weight - other[name]).square().sum() for name, weight in one.items()]).sum()
