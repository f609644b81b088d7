"""This process among those that train together (one a device; `torchrun` starts several)."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class ProcessGroup:
    """This process among the others."""

    rank: int
    size: int
    device: torch.device

    @classmethod
    def join(cls, device: str) -> ProcessGroup:
        """Join torchrun's processes where there are several."""
        size, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
        if device == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        if size > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if device == "cuda" else "gloo")
        return cls(rank, size, torch.device(device))

    def average_gradients(self, model: nn.Module) -> None:
        """Mean of the gradients over all processes, in one message."""
        if self.size == 1:
            return
        # a head that no label of this process touched has no gradient: it still takes part, as zero
        for p in model.parameters():
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        grads = [p.grad for p in model.parameters()]
        flat = torch.cat([g.flatten() for g in grads])
        dist.all_reduce(flat)
        flat /= self.size
        for g, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            g.copy_(part.view_as(g))

    def average(self, tensors: list[Tensor]) -> None:
        """Mean of each over all processes, in place, in one message; what is alike in all of them stays to the bit."""
        if self.size == 1:
            return
        flat = torch.cat([t.flatten().double() for t in tensors])
        dist.all_reduce(flat)
        flat /= self.size
        for t, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            t.copy_(part.view_as(t))

    def broadcast_first(self, value: float) -> float:
        """The first process's `value`, in all of them, so that all decide alike."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.broadcast(shared, 0)
        return float(shared)

    def barrier(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            dist.barrier()
