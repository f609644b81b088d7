"""PyTorch engine: the reference, and the engine for GPUs."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..hemax import HemaX, HemaXOutput
from ..network_output import MIN_SCORE, NetworkOutput
from ..out_of_distribution import FEATURE_STAGE
from .memory_allocator import keep_freed_memory


@dataclass(frozen=True)
class _RecordedGraph:
    """A CUDA graph of the network with its input and output tensors."""

    graph: torch.cuda.CUDAGraph
    pixels: Tensor
    outputs: tuple[Tensor, ...]


class TorchEngine:
    """A HemaX in eval mode on a device. Threads may share it.

    Parameters
    ----------
    model
        The network.
    device
        "cpu" or "cuda".
    """

    def __init__(self, model: HemaX, device: str = "cpu") -> None:
        self.model, self.device = model.to(device), torch.device(device)
        self._graphs: dict[tuple[int, ...], _RecordedGraph] = {}
        self._graph_lock = threading.Lock()

    @classmethod
    def for_worker(cls, model: HemaX, device: str) -> TorchEngine:
        """Make an engine for a process that only runs inference.

        On the CPU it uses one thread, because there is one worker per core and sums then keep
        their order. It also keeps freed memory.
        """
        if device == "cpu":
            torch.set_num_threads(1)
            keep_freed_memory()
        return cls(model, device)

    @torch.inference_mode()
    def __call__(self, pixels: np.ndarray) -> NetworkOutput:
        """Run the network on patches uint8 [B, 3, H, W].

        Steps: copy the pixels to the device, run the network, select the masks of confident
        queries, copy all outputs back at once.
        """
        if self.device.type == "cuda":
            padded = self.replay_graph(pixels)
        else:
            padded = self.run_network(self.to_device(pixels))
        logits, attributes, boxes, masks, features = (part[: len(pixels)] for part in padded)
        confident = logits.softmax(-1)[..., -1] <= 1 - MIN_SCORE
        masks = masks[confident].float()
        return NetworkOutput(*self._to_host(logits, attributes, boxes, confident, masks, features))

    @torch.inference_mode()
    def run_network(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Run the network on patches on the device.

        Returns
        -------
        tuple of Tensor
            Class logits, attribute logits and boxes of the last layer, mask logits of all
            queries, backbone features. All but the masks are float32.
        """
        output, backbone_features = self._forward_with_features(pixels)
        return (
            output.class_logits[-1].float(),
            output.attribute_logits[-1].float(),
            output.boxes_cxcywh[-1].float(),
            output.mask_logits,
            backbone_features.float(),
        )

    @torch.inference_mode()
    def replay_graph(self, pixels: np.ndarray) -> tuple[Tensor, ...]:
        """Run the network as a CUDA graph, recorded at the first batch of a shape.

        Launching the network's thousand kernels one by one takes the host longer than the GPU
        works. Batches are padded to a power of two, so few shapes are recorded. The returned
        tensors include the padding.
        """
        shape = (1 << (len(pixels) - 1).bit_length(), *pixels.shape[1:])
        with self._graph_lock:
            if shape not in self._graphs:
                self._graphs[shape] = self._record_graph(shape)
            recorded = self._graphs[shape]
            recorded.pixels[: len(pixels)].copy_(self.to_device(pixels))
            recorded.graph.replay()
            # The next replay overwrites the outputs.
            return tuple(part.clone() for part in recorded.outputs)

    def _record_graph(self, shape: tuple[int, ...]) -> _RecordedGraph:
        """Record a CUDA graph for batches of a shape."""
        pixels = torch.zeros(shape, dtype=torch.uint8, device=self.device)
        side_stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        side_stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side_stream):
            # Libraries choose kernels and allocate memory in the first runs, outside the graph.
            for _ in range(2):
                self.run_network(pixels)
        torch.cuda.current_stream(self.device).wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self.run_network(pixels)
        return _RecordedGraph(graph, pixels, outputs)

    def _forward_with_features(self, pixels: Tensor) -> tuple[HemaXOutput, Tensor]:
        """Return the network's output and the backbone map for the out-of-distribution score."""
        feature_maps: list[Tensor] = []
        own_thread = threading.get_ident()

        def record_features(_module: nn.Module, _arguments: object, maps: list[Tensor]) -> None:
            # A cluster's worker may run several threads with one network.
            if threading.get_ident() == own_thread:
                feature_maps.append(maps[FEATURE_STAGE])

        hook = self.model.backbone.register_forward_hook(record_features)
        try:
            with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
                return self.model(pixels), feature_maps[0]
        finally:
            hook.remove()

    def to_device(self, pixels: np.ndarray) -> Tensor:
        """Copy pixels to the device; to a GPU from pinned memory, without waiting."""
        tensor = torch.from_numpy(np.ascontiguousarray(pixels))
        if self.device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def _to_host(self, *tensors: Tensor) -> list[np.ndarray]:
        """Copy tensors to the host; from a GPU all copies start before the one wait."""
        if self.device.type == "cpu":
            return [tensor.numpy() for tensor in tensors]
        on_host = [
            torch.empty(t.shape, dtype=t.dtype, pin_memory=True).copy_(t, non_blocking=True)
            for t in tensors
        ]
        torch.cuda.current_stream(self.device).synchronize()
        return [tensor.numpy() for tensor in on_host]
