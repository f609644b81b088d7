"""HemaX in PyTorch, answering for patches: the reference engine, and the one for GPUs."""

from __future__ import annotations

import threading

import numpy as np
import torch
from torch import Tensor

from .allocator import keep_freed_memory
from .answers import MIN_SCORE, Answer
from .familiarity import STAGE


class TorchNetwork:
    """`model` (a HemaX in eval mode) on `device`. Call it with pixels uint8 [B, 3, H, W]; threads may share it."""

    def __init__(self, model, device: str = "cpu"):
        self.model, self.device = model.to(device), torch.device(device)
        self._graphs, self._recording = {}, threading.Lock()

    @classmethod
    def ready_for_work(cls, model, device: str) -> TorchNetwork:
        """In a process that does nothing else: on the CPU with one thread, as there is a worker per core and sums keep
        their order, and keeping what it frees."""
        if device == "cpu":
            torch.set_num_threads(1)
            keep_freed_memory()
        return cls(model, device)

    @torch.inference_mode()
    def __call__(self, pixels: np.ndarray) -> Answer:
        """Steps: pixels there, network, which queries are sure, only their masks gathered, all back at once."""
        parts = (
            self.recorded(pixels) if self.device.type == "cuda" else self.said(self.there(pixels))
        )
        logits, attributes, boxes, masks, looks = (part[: len(pixels)] for part in parts)
        sure = logits.softmax(-1)[..., -1] <= 1 - MIN_SCORE
        parts = (logits, attributes, boxes, masks[sure].float(), looks)
        logits, attributes, boxes, masks, looks, sure = self._back(*parts, sure)
        return Answer(logits, attributes, boxes, sure, masks, looks)

    @torch.inference_mode()
    def said(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Class logits, attribute logits, boxes, all masks' logits, looks."""
        output, looks = self._with_looks(pixels)
        parts = (
            output.class_logits[-1],
            output.attribute_logits[-1],
            output.boxes_cxcywh[-1],
            output.mask_logits,
            looks,
        )
        return tuple(part if part is output.mask_logits else part.float() for part in parts)

    @torch.inference_mode()
    def recorded(self, pixels: np.ndarray) -> tuple[Tensor, ...]:
        """The same on a GPU by a CUDA graph, recorded at the first batch of a shape: starting the network's some thousand
        kernels one by one takes the host longer than the GPU is at work. Batches are filled up to a power of two, so that
        few shapes are recorded; what the filling says is to be left out."""
        shape = (1 << (len(pixels) - 1).bit_length(), *pixels.shape[1:])
        with self._recording:
            if shape not in self._graphs:
                self._graphs[shape] = self._record(shape)
            graph, there, said = self._graphs[shape]
            there[: len(pixels)].copy_(self.there(pixels))
            graph.replay()
            return tuple(part.clone() for part in said)  # the next replay writes where these lie

    def _record(self, shape: tuple[int, ...]):
        """The graph, the tensor that it reads pixels from, and those that it writes to."""
        there = torch.zeros(shape, dtype=torch.uint8, device=self.device)
        aside = torch.cuda.Stream(self.device)
        aside.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(aside):
            for _ in range(
                2
            ):  # libraries choose their kernels and fetch their memory outside the recording
                self.said(there)
        torch.cuda.current_stream(self.device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            said = self.said(there)
        return graph, there, said

    def _with_looks(self, pixels: Tensor):
        """The network's output, and the map of its backbone that `familiarity` speaks of, taken as it passes."""
        passed, mine = [], threading.get_ident()

        def take(_module, _arguments, maps):
            if (
                threading.get_ident() == mine
            ):  # a cluster's worker may run several, with one network
                passed.append(maps[STAGE])

        hook = self.model.backbone.register_forward_hook(take)
        try:
            with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
                return self.model(pixels), passed[0]
        finally:
            hook.remove()

    def there(self, pixels: np.ndarray) -> Tensor:
        """The pixels on the device; to a GPU from pinned memory, so that this process need not wait for the copy."""
        tensor = torch.from_numpy(np.ascontiguousarray(pixels))
        return (
            tensor
            if self.device.type == "cpu"
            else tensor.pin_memory().to(self.device, non_blocking=True)
        )

    def _back(self, *tensors: Tensor) -> list[np.ndarray]:
        """Arrays on the host; from a GPU all copies are under way before the one wait."""
        if self.device.type == "cpu":
            return [tensor.numpy() for tensor in tensors]
        here = [
            torch.empty(t.shape, dtype=t.dtype, pin_memory=True).copy_(t, non_blocking=True)
            for t in tensors
        ]
        torch.cuda.current_stream(self.device).synchronize()
        return [tensor.numpy() for tensor in here]
