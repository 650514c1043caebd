"""Residual networks for small images (He et al. 2016, section 4.2), with shortcuts that have no parameters."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two convolutions beside a shortcut; where the map shrinks, the shortcut takes every second pixel."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.stride, self.more = stride, (outer - inner) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more, self.more))
        return F.relu(out + shortcut)


class ResNet(nn.Module):
    """Three stages of ``blocks`` blocks with 16, 32 and 64 channels, and a classifier of ten classes."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        widths = (16, 16, 32, 64)
        for stage in (1, 2, 3):
            inner, outer = widths[stage - 1], widths[stage]
            first = Block(inner, outer, 1 if stage == 1 else 2)
            rest = [Block(outer, outer, 1) for _ in range(blocks - 1)]
            setattr(self, f"layer{stage}", nn.Sequential(first, *rest))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def resnet20() -> ResNet:
    """Return the network of 20 layers."""
    return ResNet(3)


def resnet8() -> ResNet:
    """Return one small enough for tests of every site."""
    return ResNet(1)


def nothing() -> str:
    """Return what is no network."""
    return "nothing"
