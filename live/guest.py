"""A booted guest, ready to be brought back to its first moment again and again.

`Template` boots a machine once, prepares the region (devices of size zero are made beforehand, so that creating
one in a program is only a matter of writing its ranges), and saves the state. `Guest` is one life of it.
"""

from __future__ import annotations

import re

from live.agent import Agent, GuestDied
from live.errors import LiveError
from live.faults import Ranges, prepare
from live.layout import Layout
from live.observe import Observer
from live.pagetable import GuestMemory
from live.qemu import Hardware, Qemu, Saved
from live.ram import Ram
from live.snapshot import Snapshot

DEVICES = "/sys/bus/dax/devices"
DRIVERS = "/sys/bus/dax/drivers"
NVDIMM = "/sys/bus/nd/devices"
NVDIMM_DRIVERS = "/sys/bus/nd/drivers"
SLOTS = 12
"""Devices of a region."""


class SetupError(LiveError):
    """The guest cannot be prepared: one sentence."""


class Guest:
    """One life of a machine, from just after its preparation on."""

    def __init__(
        self,
        qemu: Qemu,
        nodes: int,
        devices: list[str],
        blocks: dict[int, str] | None,
        namespaces: dict[tuple[int, int], str] | None = None,
        faults: Ranges | None = None,
        fsdev: bool = False,
    ) -> None:
        self.qemu = qemu
        self.agent = Agent(qemu.agent)
        self.observer = Observer(self.agent, GuestMemory(qemu.memory.words), qemu.cr3, nodes)
        self.idle = list(devices)
        """Devices without ranges."""
        self.namespaces = namespaces or {}
        """(address, size) -> number of the nvdimm region that is this one namespace."""
        self.faults = faults
        """Where allocations can be made to fail, None on a kernel that cannot."""
        self.fsdev = fsdev
        self.made = 0
        """Devices made of namespaces so far."""
        self.blocks = blocks

    def look(self, fresh_blocks: bool = False) -> Snapshot:
        """A snapshot; block devices are only read again when an operation may have changed them."""
        out = self.observer.look(None if fresh_blocks or self.blocks is None else self.blocks, self.qemu.console())
        self.blocks = out.blocks
        return out

    def close(self) -> None:
        """End this life."""
        self.qemu.close()


class Template:
    """A machine, booted and saved. `first` is what it looked like at the moment of saving."""

    def __init__(self, hardware: Hardware, layout: Layout) -> None:
        self.hardware = hardware
        self.layout = layout
        self.devices: list[str] = []
        self.namespaces: dict[tuple[int, int], str] = {}
        self.faults: Ranges | None = None
        self.fsdev = False
        """Whether the kernel has the driver fsdev (7.3)."""
        self.release = ""
        """Of its kernel, as uname says it."""
        self.log = ""
        """What the kernel printed while it booted."""
        self._ram = Ram(hardware.nodes)
        """The memory that lives run in, one after the other."""
        self._alive: Guest | None = None
        qemu = Qemu.boot(hardware, self._ram)
        try:
            agent = Agent(qemu.agent)
            agent.hello()
            self.log = qemu.console()
            (release,) = agent.read(("/proc/sys/kernel/osrelease",))
            self.release = release.decode().strip() if isinstance(release, bytes) else "unknown"
            self._prepare(agent)
            qemu.cr3 = qemu.read_cr3()
            guest = Guest(qemu, len(hardware.nodes), self.devices, None)
            guest.look()
            self.first: Snapshot = guest.look(fresh_blocks=True)
            self.saved: Saved = qemu.save()
        except GuestDied as error:
            last = _last_words(self.log + qemu.console())
            raise SetupError(f"{hardware.kernel} does not boot: {error}; its last words: {last}") from error
        finally:
            qemu.close()

    def start(self) -> Guest:
        """A new life; it ends the one before."""
        if self._alive is not None:
            self._alive.close()
        qemu = Qemu.resume(self.hardware, self.saved, self._ram)
        nodes = len(self.hardware.nodes)
        self._alive = Guest(qemu, nodes, self.devices, self.first.blocks, self.namespaces, self.faults, self.fsdev)
        return self._alive

    def close(self) -> None:
        """End the life that there may be, and forget the saved state."""
        if self._alive is not None:
            self._alive.close()
        self.saved.close()
        self._ram.close()

    def _prepare(self, agent: Agent) -> None:
        modules = {re.sub(r"^\d+-|\.ko$", "", name): f"/mod/{name}" for name in sorted(agent.names("/mod"))}
        early = [name for name in modules if name != "kmem"]
        for name in early:
            if rc := agent.insert_module(modules[name]):
                raise SetupError(
                    f"module {name} does not load into {self.hardware.kernel}: error {-rc}"
                    " (is the module tree that of another kernel?)"
                )
        self._find_namespaces(agent)
        regions = agent.names(DEVICES)
        if regions:
            self.devices = self._devices(agent, regions[0])
        # kmem last: it would take the devices that the region begins with.
        if "kmem" in modules and (rc := agent.insert_module(modules["kmem"])):
            raise SetupError(f"module kmem does not load: error {-rc}")
        self.faults = prepare(agent)
        agent.write("/proc/sys/vm/stat_refresh", "1")

    def _find_namespaces(self, agent: Agent) -> None:
        numbers = [name.removeprefix("region") for name in agent.names(NVDIMM) if re.fullmatch(r"region\d+", name)]
        for number in numbers:
            at, size = agent.read(f"{NVDIMM}/namespace{number}.0/{name}" for name in ("resource", "size"))
            if isinstance(at, bytes) and isinstance(size, bytes):
                self.namespaces[int(at, 0), int(size, 0)] = number

    def _devices(self, agent: Agent, first: str) -> list[str]:
        region = f"{DEVICES}/{first}/../dax_region"
        steps = []
        if f"{first}" in agent.names(f"{DRIVERS}/device_dax"):
            steps.append((f"{DRIVERS}/device_dax/unbind", first))
        steps += [(f"{DEVICES}/{first}/size", "0")]
        steps += [(f"{region}/create", "1")] * (SLOTS - 1)
        rcs = agent.steps(steps)
        names = sorted(agent.names(DEVICES), key=lambda name: int(name.rpartition(".")[2]))
        # A region offers itself to kmem; naming a device makes it acceptable to device_dax too.
        rcs += agent.steps([(f"{DRIVERS}/device_dax/new_id", name) for name in names])
        self.fsdev = "fsdev_dax" in agent.names(DRIVERS)
        if self.fsdev:
            agent.steps([(f"{DRIVERS}/fsdev_dax/new_id", name) for name in names])
        if rcs and rcs[-1] < 0:
            raise SetupError(f"the region's devices cannot be made: error {-rcs[-1]}")
        return names


def _last_words(console: str) -> str:
    lines = [line for line in console.splitlines() if line.strip()]
    return lines[-1] if lines else "none"
