"""How often what is generated: operations, machines, reserves, lengths, in one place.

Every choice is drawn from a source of floats in [0, 1), `Draw`: `random.Random().random` in the engines, bytes of an
example in Hypothesis. A draw of 0 gives the plainest choice, so that examples shrink.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mm.arch import WITH_KFENCE
from mm.machine import GRANULE, Machine, OnlineType

Draw = Callable[[], float]
"""A source of floats in [0, 1)."""

WEIGHTS: Final = {
    "hugetlb resize": 44,
    "hugetlb overcommit": 9,
    "hugetlb demote": 1,  # of one 1G page it makes 512 folios: the time of a hundred other operations
    "hugetlb map": 18,
    "hugetlb unmap": 15,
    "hugetlb flush": 5,
    "hugetlb dissolve": 13,
    "sysctl": 10,
    "memory add": 16,
    "memory online": 20,
    "memory offline": 18,
    "memory remove": 15,
    "memory unplug": 7,
    "subblock unplug": 8,
    "subblock plug": 6,
    "memory hard_offline": 7,
    "memory soft_offline": 7,
    "memory unpoison": 5,
    "dax create": 20,
    "dax destroy": 13,
    "dax rebind": 9,
    "dax set": 2,
    "dax state": 7,
    "dax online": 7,
    "dax offline": 5,
    "pages alloc": 15,
    "pages contig": 8,
    "pages free": 11,
    "fail alloc": 18,
}
"""Shares of the operations after boot. One that has nothing to work on gives way to the one that makes it."""

RESERVE_CMA: Final = 0.15
"""Share of areas for gigantic pages among the lines before the boot."""

FAILABLE: Final = (
    *("hugetlb resize",) * 8,
    *("dax create",) * 5,
    *("memory add",) * 4,
    *("hugetlb map",) * 4,
    *("hugetlb dissolve",) * 3,
    *("hugetlb unmap",) * 2,
    *("memory offline",) * 2,
    *("memory online",) * 2,
    *("memory hard_offline",) * 2,
    "memory soft_offline",
    *("pages contig",) * 2,
    *("dax rebind",) * 2,
    *("dax state",) * 2,
    "memory unplug",
    *("subblock unplug",) * 2,
    *("hugetlb demote",) * 3,
)
"""Operations with allocation points; one of them follows a `fail alloc`."""

K: Final = 1 << 10
M: Final = 1 << 20
G: Final = 1 << 30

# With a memmap of 1/64 of RAM, a program of some dozen operations fills these machines, and each boots in a few runs.
_SMALL: Final = (4 * G, 1 * G, 2 * G, 3 * G, 5 * G, 6 * G, 1536 * M, 2560 * M, 2816 * M, 4096 * M + 512 * M)
_TINY: Final = (512 * M, 640 * M, 768 * M)
_ONLINE_TYPES: Final[tuple[OnlineType, ...]] = ("online_movable", "online", "online_kernel")
_LARGE: Final = (64 * G, 128 * G, 1 << 40, 16 << 40)


_ARCHES: Final = (
    *(("x86_64", 4 * K),) * 40,
    *(("loongarch64", 4 * K), ("loongarch64", 16 * K), ("loongarch64", 64 * K)),
    *(("arm64", 4 * K), ("arm64", 16 * K), ("arm64", 64 * K)),
    *(("s390x", 4 * K), ("ppc64_hash", 64 * K), ("ppc64_radix", 4 * K), ("ppc64_radix", 64 * K)),
    *(("riscv64", 4 * K),) * 2,
)
"""Architectures, each as often as it is drawn."""


def choose_arch(draw: Draw) -> tuple[str, int]:
    """Name and base page size."""
    return _ARCHES[int(draw() * len(_ARCHES))]


_TURNS: Final = (*(0,) * 8, 64 * M, 192 * M, G)
_HIGH: Final = 128 << 40
"""RAM of riscv64 that begins where the vmemmap would end if it began at 0."""
_HOLES: Final = (*(0,) * 12, 2 * M, 66 * M, 128 * M, 576 * M)


def choose_machine(draw: Draw, of: tuple[str, int] | None = None) -> Machine:
    """Mostly 1G to 6G with 1 or 2 nodes, often a partial last section; sometimes tiny, rarely as large as a host."""
    arch, page = of or choose_arch(draw)
    size = draw()
    if size < 0.86:
        ram = _SMALL[int(draw() * len(_SMALL))]
    elif size < 0.98:
        ram = _TINY[int(draw() * len(_TINY))]
    else:
        ram = _LARGE[int(draw() * len(_LARGE))]
    if draw() >= 0.6:
        ram += GRANULE * int(draw() * 64)  # up to one section less 2M
    mode = draw()
    policy = draw()
    return Machine.coerced(
        arch=arch,
        page=page,
        ram=ram,
        nodes=2 if draw() >= 0.65 else 1,
        hugetlb_free_vmemmap=draw() < 0.88,
        deferred_init=draw() < 0.7,
        memmap_on_memory="off" if mode < 0.5 else "on" if mode < 0.75 else "force",
        memhp_default_state="offline" if policy < 0.6 else _ONLINE_TYPES[int((policy - 0.6) / 0.4 * 3)],
        interleave=_TURNS[int(draw() * len(_TURNS))],
        hole=_HOLES[int(draw() * len(_HOLES))],
        base=_HIGH if arch == "riscv64" and draw() < 0.1 else 0,
        kfence=(arch, page) in WITH_KFENCE and draw() < 0.3,
    )


def choose_length(draw: Draw) -> int:
    """Operations after the boot: 16 to 176, shorter ones more often. A boot costs as much as some dozen of them."""
    x = draw()
    return 16 + int(160 * x * x)


def choose_reserves(draw: Draw) -> int:
    """Reserve lines before the boot: none in six of ten programs."""
    x = draw()
    return 0 if x < 0.6 else 1 if x < 0.85 else 2 if x < 0.96 else 3
