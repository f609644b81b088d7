"""Distributed training: this process among those that `torchrun` started, one per device."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class ProcessGroup:
    """Group of training processes, seen from one of them."""

    rank: int
    size: int
    device: torch.device

    @classmethod
    def join(cls, device: str) -> ProcessGroup:
        """Join torchrun's processes if there are several."""
        size, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
        if device == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        if size > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if device == "cuda" else "gloo")
        return cls(rank, size, torch.device(device))

    def average_gradients(self, model: nn.Module) -> None:
        """Average the gradients over all processes in one message."""
        if self.size == 1:
            return
        # A head without labels in this process has no gradient. It takes part as zero.
        for p in model.parameters():
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in grads])
        dist.all_reduce(flat)
        flat /= self.size
        for g, part in zip(grads, torch.split(flat, [g.numel() for g in grads]), strict=True):
            g.copy_(part.view_as(g))

    def average(self, tensors: list[Tensor]) -> None:
        """Average tensors over all processes in place, in one message; equal values stay exact."""
        if self.size == 1:
            return
        flat = torch.cat([t.flatten().double() for t in tensors])
        dist.all_reduce(flat)
        flat /= self.size
        for t, part in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
            t.copy_(part.view_as(t))

    def broadcast_first(self, value: float) -> float:
        """Return the first process's value in all processes."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.broadcast(shared, 0)
        return float(shared)

    def barrier(self) -> None:
        """Wait for the other processes."""
        if self.size > 1:
            dist.barrier()
