"""Processes that end when the process that started them ends, however that happened."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

PR_SET_PDEATHSIG: Final = 1
"""include/uapi/linux/prctl.h."""


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent`, the process that started it, is gone.

    A parent that was gone before this call ends the process at once. Elsewhere than on Linux this does nothing more.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
