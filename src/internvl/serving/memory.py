"""Memory that two processes see: an anonymous file whose descriptor a frame of `internvl.serving.wire` carries."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence

import numpy as np

from internvl.errors import InternVLError


class WireError(InternVLError):
    """A frame that is none, or of a kind that is not expected: the process at the other end is not to be trusted."""


class Memory:
    """An anonymous file that two processes see; it is gone when both have closed it.

    >>> memory = Memory.of(np.arange(6, dtype=np.uint8))
    >>> memory.array((2, 3)).tolist()
    [[0, 1, 2], [3, 4, 5]]
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    @classmethod
    def of(cls, values: np.ndarray) -> Memory:
        """Memory that holds these values."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("internvl", os.MFD_CLOEXEC)
        else:  # macOS
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        memory = cls(descriptor)
        view = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
        try:
            while view:
                view = view[os.write(descriptor, view) :]
        except BaseException:
            memory.close()
            raise
        return memory

    @property
    def descriptor(self) -> int:
        if self._descriptor is None:
            raise ValueError("the memory is closed")
        return self._descriptor

    def array(self, shape: Sequence[int], dtype: type = np.uint8) -> np.ndarray:
        """What it holds, read only; it stays valid when the memory is closed. Raises WireError for another size."""
        expected = int(np.prod([int(one) for one in shape], dtype=np.int64)) * np.dtype(dtype).itemsize
        size = os.fstat(self.descriptor).st_size
        if size != expected or min(shape, default=0) < 0:
            raise WireError(f"memory of {size} bytes came for {expected}")
        array = np.empty(tuple(shape), dtype)
        view = array.reshape(-1).view(np.uint8).data
        # Read, not mapped: the other process can still cut the file short, which would end this one.
        while view:
            count = os.preadv(self.descriptor, [view], size - len(view))
            if not count:
                raise WireError(f"memory of {size} bytes was cut short")
            view = view[count:]
        array.flags.writeable = False
        return array

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        self.close()  # who was to close it may be gone: a request that is cancelled just as its answer comes
