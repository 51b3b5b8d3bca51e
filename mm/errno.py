"""The error numbers that mm returns, as negative integers are returned by the kernel
(include/uapi/asm-generic/errno-base.h)."""

from errno import EAGAIN, EBUSY, EEXIST, EINVAL, EIO, ENODEV, ENOENT, ENOMEM, ENXIO, EOPNOTSUPP, EPERM

ENOTSUPP = 524  # kernel-internal, include/linux/errno.h
E2BIG = 7
ENOTRECOVERABLE = 131
EHWPOISON = 133

__all__ = [
    "E2BIG",
    "EAGAIN",
    "EBUSY",
    "EEXIST",
    "EHWPOISON",
    "EINVAL",
    "EIO",
    "ENODEV",
    "ENOENT",
    "ENOMEM",
    "ENOTRECOVERABLE",
    "ENOTSUPP",
    "ENXIO",
    "EOPNOTSUPP",
    "EPERM",
    "errno_name",
]

_NAMES = {value: name for name, value in list(globals().items()) if name.startswith("E") and isinstance(value, int)}


def errno_name(rc: int) -> str:
    """`-ENOMEM` for -12; other integers as digits."""
    return f"-{_NAMES[-rc]}" if -rc in _NAMES else str(rc)
