"""One shard of a zarr array, written from the few chunks of it that are not empty.

Through zarr itself every write looks through the whole shard, 64 MB of which a smear's cells fill some kilobytes: that
cost a slide of 500 cells half a minute. The format is zarr's own `sharding_indexed` with the index at the end
(https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/): the chunks' bytes, then for each chunk in
C order its offset and length as little-endian uint64 (both 2^64 - 1: empty), then the index's CRC-32C.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import google_crc32c
import numpy as np
from numcodecs import Zstd

LEVEL = 1  # of zstd: 3 takes half as long again for 3 % fewer bytes
_EMPTY = 2**64 - 1


def sharding_codec(chunk_px: int):
    """The codec (zarr.codecs.ShardingCodec) that tells zarr how `write_shard` writes: square chunks of `chunk_px`."""
    from zarr.codecs import (
        BytesCodec,
        Crc32cCodec,
        ShardingCodec,
        ZstdCodec,
    )  # processes that only write go without

    return ShardingCodec(
        chunk_shape=(chunk_px, chunk_px),
        codecs=[BytesCodec(endian="little"), ZstdCodec(level=LEVEL)],
        index_codecs=[BytesCodec(endian="little"), Crc32cCodec()],
        index_location="end",
    )


class ChunkPacker:
    """Packs chunks, uint32 [chunk_px, chunk_px], as that codec says, copied to one place first: fresh memory a chunk costs
    as much as copying."""

    def __init__(self, chunk_px: int):
        self._together, self._zstd = np.empty((chunk_px, chunk_px), "<u4"), Zstd(level=LEVEL)

    def __call__(self, pixels: np.ndarray) -> bytes:
        np.copyto(self._together, pixels)
        return bytes(self._zstd.encode(self._together))


def write_shard(path: Path, chunks: Mapping[tuple[int, int], bytes], across: int) -> None:
    """Write packed `chunks` {(row, column): bytes} of a shard that is `across` chunks wide and high to a new file."""
    index = np.full((across, across, 2), _EMPTY, "<u8")
    parts, offset = [], 0
    for place in sorted(chunks):
        parts.append(chunks[place])
        index[place] = offset, len(parts[-1])
        offset += len(parts[-1])
    tail = index.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join([*parts, tail, google_crc32c.value(tail).to_bytes(4, "little")]))
