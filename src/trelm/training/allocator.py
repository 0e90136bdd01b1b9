"""The C library keeps memory that a training step frees, since the next step needs as much of it again."""

from __future__ import annotations

import ctypes
import os
import platform

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4  # glibc's malloc.h
NEVER = -1
PADDING = 2**26  # the heap grows by 64 MiB at a time
SETTINGS = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: NEVER, M_TOP_PAD: PADDING}
# The threshold is what glibc's own adjustment ends at where large blocks come and go.
USUAL = {M_MMAP_MAX: 65_536, M_MMAP_THRESHOLD: 2**25, M_TRIM_THRESHOLD: 2**26, M_TOP_PAD: 2**17}


def keep_freed_memory() -> bool:
    """Ask glibc for it; True where it will, False where there is another C library or the user has set `MALLOC_*`.

    By default glibc maps every tensor of 32 MiB or more anew from the kernel, which fills it with zeros page by page,
    and gives it back at once. With these settings tensors come from the heap, whose pages stay. (mallopt(3).) It
    holds for the whole process until `give_memory_back`.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    library = ctypes.CDLL(None)
    return all(library.mallopt(setting, value) == 1 for setting, value in SETTINGS.items())


def give_memory_back() -> None:
    """Undo `keep_freed_memory`, where it was done: what is free goes back to the system, and later blocks may, too."""
    library = ctypes.CDLL(None)
    for setting, value in USUAL.items():
        library.mallopt(setting, value)
    library.malloc_trim(0)
