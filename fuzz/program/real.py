"""What no interface of a real Linux does, of the operations of the language, and why."""

from __future__ import annotations

from typing import Final

_PAGES: Final = "no interface takes single pages of one node and keeps them where they are"
_VIRTIO: Final = "needs a virtio-mem device"

WITHOUT_INTERFACE: Final = {
    "pages alloc": _PAGES,
    "pages contig": "no interface takes a given range of pages",
    "pages free": _PAGES,
    "hugetlb flush": "a kernel worker frees queued pages by itself, at once",
    "memory unplug": "only virtio-mem and daxN.M/state call it",
    "subblock unplug": _VIRTIO,
    "subblock plug": _VIRTIO,
}
