"""The C library keeps memory that a training step frees, since the next step needs as much of it again."""

from __future__ import annotations

import ctypes
import os
import platform

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h
NEVER = -1
PADDING = 2**26  # the heap grows by 64 MiB at a time
SETTINGS = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: NEVER, M_TOP_PAD: PADDING}


def keep_freed_memory() -> bool:
    """Ask glibc for it; True where it will, False where there is another C library or the user has set `MALLOC_*`.

    By default glibc maps every tensor of 32 MiB or more anew from the kernel, which fills it with zeros page by page,
    and gives it back at once. With these settings tensors come from the heap, whose pages stay. (mallopt(3).) It
    holds for the whole process, and for the memory it allocates from now on.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    library = ctypes.CDLL(None)
    return all(library.mallopt(setting, value) == 1 for setting, value in SETTINGS.items())
