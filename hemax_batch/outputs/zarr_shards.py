"""Write one shard of a zarr array from its chunks that are not empty.

zarr itself reads the whole shard on every write: 64 MB, of which the cells of a smear fill some kilobytes.
That took half a minute for a slide of 500 cells. The format is zarr's `sharding_indexed`, with the index at the end
(https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/): the chunks' bytes, then for each chunk in
C order its offset and length as little-endian uint64 (both 2^64 - 1: empty), then the index's CRC-32C.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import google_crc32c
import numpy as np
from numcodecs import Zstd

if TYPE_CHECKING:
    from zarr.codecs import ShardingCodec

LEVEL = 1  # of zstd: 3 takes half as long again for 3 % fewer bytes
_EMPTY = 2**64 - 1


def sharding_codec(chunk_px: int) -> ShardingCodec:
    """Return the codec that describes to zarr what `write_shard` writes: square chunks of `chunk_px`."""
    from zarr.codecs import (
        BytesCodec,
        Crc32cCodec,
        ShardingCodec,
        ZstdCodec,
    )  # imported late: processes that only write do not need it

    return ShardingCodec(
        chunk_shape=(chunk_px, chunk_px),
        codecs=[BytesCodec(endian="little"), ZstdCodec(level=LEVEL)],
        index_codecs=[BytesCodec(endian="little"), Crc32cCodec()],
        index_location="end",
    )


class ChunkPacker:
    """Pack chunks, uint32 [chunk_px, chunk_px], as the codec says.

    One buffer serves all chunks: new memory per chunk costs as much as the copy.
    """

    def __init__(self, chunk_px: int) -> None:
        self._together, self._zstd = np.empty((chunk_px, chunk_px), "<u4"), Zstd(level=LEVEL)

    def __call__(self, pixels: np.ndarray) -> bytes:
        """Pack one chunk."""
        np.copyto(self._together, pixels)
        return bytes(self._zstd.encode(self._together))


def write_shard(path: Path, chunks: Mapping[tuple[int, int], bytes], across: int) -> None:
    """Write packed `chunks` {(row, column): bytes} to a new shard that is `across` chunks wide and high."""
    index = np.full((across, across, 2), _EMPTY, "<u8")
    parts, offset = [], 0
    for place in sorted(chunks):
        parts.append(chunks[place])
        index[place] = offset, len(parts[-1])
        offset += len(parts[-1])
    tail = index.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join([*parts, tail, google_crc32c.value(tail).to_bytes(4, "little")]))
