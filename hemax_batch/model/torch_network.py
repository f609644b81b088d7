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
        output, looks = self._with_looks(self._there(pixels))
        logits = output.class_logits[-1].float()
        sure = logits.softmax(-1)[..., -1] <= 1 - MIN_SCORE
        masks = output.mask_logits[sure]
        parts = (logits, output.attribute_logits[-1], output.boxes_cxcywh[-1], masks, looks)
        logits, attributes, boxes, masks, looks, sure = self._back(*(part.float() for part in parts), sure)
        return Answer(logits, attributes, boxes, sure, masks, looks)

    def _with_looks(self, pixels: Tensor):
        """The network's output, and the map of its backbone that `familiarity` speaks of, taken as it passes."""
        passed, mine = [], threading.get_ident()

        def take(_module, _arguments, maps):
            if threading.get_ident() == mine:  # a cluster's worker may run several, with one network
                passed.append(maps[STAGE])

        hook = self.model.backbone.register_forward_hook(take)
        try:
            with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
                return self.model(pixels), passed[0]
        finally:
            hook.remove()

    def _there(self, pixels: np.ndarray) -> Tensor:
        """The pixels on the device; to a GPU from pinned memory, so that this process need not wait for the copy."""
        tensor = torch.from_numpy(np.ascontiguousarray(pixels))
        return tensor if self.device.type == "cpu" else tensor.pin_memory().to(self.device, non_blocking=True)

    def _back(self, *tensors: Tensor) -> list[np.ndarray]:
        """Arrays on the host; from a GPU all copies are under way before the one wait."""
        if self.device.type == "cpu":
            return [tensor.numpy() for tensor in tensors]
        here = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True).copy_(t, non_blocking=True) for t in tensors]
        torch.cuda.current_stream(self.device).synchronize()
        return [tensor.numpy() for tensor in here]
