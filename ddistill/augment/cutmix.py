"""CutMix with Beta(1, 1): a box of each image is replaced by the same box of another one, labels mix by area."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class CutMixDraws:
    """Parameters of a number of batches; an empty box stands for "not applied".

    Attributes:
        box: first row, last row + 1, first column, last column + 1 in pixels, int64 (batches, 4).
        keys: U(0, 1), (batches, B); their order says which image lends its box to which.
    """

    box: torch.Tensor
    keys: torch.Tensor

    def to(self, device: torch.device) -> CutMixDraws:
        """The same draws on ``device``."""
        return CutMixDraws(self.box.to(device), self.keys.to(device))


def draw_cutmix(probability: float, batches: int, batch: int, side: int, generator: torch.Generator) -> CutMixDraws:
    """Draw boxes of area share 1 - lambda, lambda ~ U(0, 1), centred anywhere and cut at the border."""
    applied, share, centre_y, centre_x = torch.rand(4, batches, generator=generator)
    half = (side * share.sqrt()).floor().long() // 2
    half = torch.where(applied < probability, half, 0)
    y, x = ((c * side).floor().long() for c in (centre_y, centre_x))
    box = torch.stack([y - half, y + half, x - half, x + half], dim=1).clamp(0, side)
    return CutMixDraws(box, torch.rand(batches, batch, generator=generator))


def cutmix(images: torch.Tensor, box: torch.Tensor, partner: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix images with their partners inside of a box: one batch, or K batches at once.

    Args:
        images: (B, C, H, W) or (K, B, C, H, W).
        box: as of `CutMixDraws`, (4,) or (K, 4).
        partner: the image of the batch that each one is mixed with, int64 (B,) or (K, B).

    Returns:
        The mixed images and the share of each image's own label, in [0, 1], 0-d or (K,).
    """
    position = torch.arange(images.shape[-1], device=images.device)
    rows = (position >= box[..., 0:1]) & (position < box[..., 1:2])
    columns = (position >= box[..., 2:3]) & (position < box[..., 3:4])
    inside = rows[..., :, None] & columns[..., None, :]
    share = 1.0 - inside.to(images.dtype).mean(dim=(-2, -1))
    batch = () if images.ndim == 4 else (torch.arange(len(images), device=images.device)[:, None],)
    return torch.where(inside[..., None, None, :, :], images[(*batch, partner)], images), share
