"""HemaX in PyTorch, answering for patches: the reference engine, and the one for GPUs."""

from __future__ import annotations

import threading

import numpy as np
import torch
from torch import Tensor

from ..network_output import MIN_SCORE, NetworkOutput
from ..out_of_distribution import FEATURE_STAGE
from .memory_allocator import keep_freed_memory


class TorchEngine:
    """`model` (a HemaX in eval mode) on `device`. Call it with pixels uint8 [B, 3, H, W]; threads may share it."""

    def __init__(self, model, device: str = "cpu"):
        self.model, self.device = model.to(device), torch.device(device)
        self._graphs, self._graph_lock = {}, threading.Lock()

    @classmethod
    def for_worker(cls, model, device: str) -> TorchEngine:
        """In a process that does nothing else: on the CPU with one thread, as there is a worker per core and sums keep
        their order, and keeping what it frees."""
        if device == "cpu":
            torch.set_num_threads(1)
            keep_freed_memory()
        return cls(model, device)

    @torch.inference_mode()
    def __call__(self, pixels: np.ndarray) -> NetworkOutput:
        """Steps: pixels there, network, which queries are sure, only their masks gathered, all back at once."""
        parts = (
            self.replay_graph(pixels)
            if self.device.type == "cuda"
            else self.run_network(self.to_device(pixels))
        )
        logits, attributes, boxes, masks, backbone_features = (
            part[: len(pixels)] for part in parts
        )
        confident = logits.softmax(-1)[..., -1] <= 1 - MIN_SCORE
        parts = (logits, attributes, boxes, masks[confident].float(), backbone_features)
        logits, attributes, boxes, masks, backbone_features, confident = self._to_host(
            *parts, confident
        )
        return NetworkOutput(logits, attributes, boxes, confident, masks, backbone_features)

    @torch.inference_mode()
    def run_network(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Class logits, attribute logits, boxes, all masks' logits, looks."""
        output, backbone_features = self._forward_with_features(pixels)
        parts = (
            output.class_logits[-1],
            output.attribute_logits[-1],
            output.boxes_cxcywh[-1],
            output.mask_logits,
            backbone_features,
        )
        return tuple(part if part is output.mask_logits else part.float() for part in parts)

    @torch.inference_mode()
    def replay_graph(self, pixels: np.ndarray) -> tuple[Tensor, ...]:
        """The same on a GPU by a CUDA graph, recorded at the first batch of a shape: starting the network's some thousand
        kernels one by one takes the host longer than the GPU is at work. Batches are filled up to a power of two, so that
        few shapes are recorded; what the filling says is to be left out."""
        shape = (1 << (len(pixels) - 1).bit_length(), *pixels.shape[1:])
        with self._graph_lock:
            if shape not in self._graphs:
                self._graphs[shape] = self._capture_graph(shape)
            graph, to_device, run_network = self._graphs[shape]
            to_device[: len(pixels)].copy_(self.to_device(pixels))
            graph.replay()
            return tuple(
                part.clone() for part in run_network
            )  # the next replay writes where these lie

    def _capture_graph(self, shape: tuple[int, ...]):
        """The graph, the tensor that it reads pixels from, and those that it writes to."""
        to_device = torch.zeros(shape, dtype=torch.uint8, device=self.device)
        side_stream = torch.cuda.Stream(self.device)
        side_stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side_stream):
            for _ in range(
                2
            ):  # libraries choose their kernels and fetch their memory outside the recording
                self.run_network(to_device)
        torch.cuda.current_stream(self.device).wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run_network = self.run_network(to_device)
        return graph, to_device, run_network

    def _forward_with_features(self, pixels: Tensor):
        """The network's output, and the map of its backbone that `familiarity` speaks of, taken as it passes."""
        feature_maps, own_thread = [], threading.get_ident()

        def record_features(_module, _arguments, maps):
            if (
                threading.get_ident() == own_thread
            ):  # a cluster's worker may run several, with one network
                feature_maps.append(maps[FEATURE_STAGE])

        hook = self.model.backbone.register_forward_hook(record_features)
        try:
            with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
                return self.model(pixels), feature_maps[0]
        finally:
            hook.remove()

    def to_device(self, pixels: np.ndarray) -> Tensor:
        """The pixels on the device; to a GPU from pinned memory, so that this process need not wait for the copy."""
        tensor = torch.from_numpy(np.ascontiguousarray(pixels))
        return (
            tensor
            if self.device.type == "cpu"
            else tensor.pin_memory().to(self.device, non_blocking=True)
        )

    def _to_host(self, *tensors: Tensor) -> list[np.ndarray]:
        """Arrays on the host; from a GPU all copies are under way before the one wait."""
        if self.device.type == "cpu":
            return [tensor.numpy() for tensor in tensors]
        on_host = [
            torch.empty(t.shape, dtype=t.dtype, pin_memory=True).copy_(t, non_blocking=True)
            for t in tensors
        ]
        torch.cuda.current_stream(self.device).synchronize()
        return [tensor.numpy() for tensor in on_host]
