"""One emulator process, and the way back to a state it was in.

Nothing of it is ever a file: guest memory, console and saved device state are memfds, and its two sockets are
socketpairs, all handed over as open descriptors. So there is nothing to clean up, however it ends. It ends with the
process that started it, even when that is killed with SIGKILL: the kernel then kills it too (PR_SET_PDEATHSIG), and it
is the leader of a process group of its own.

A saved state is the guest's memory (`live.ram`) and the state of the devices (a migration stream without the memory:
x-ignore-shared). Going back is a fresh process that maps memory of that content and reads the stream; that survives a
guest that panicked, and works for every topology, which `loadvm` does not.
"""

from __future__ import annotations

import array
import json
import os
import re
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import Any

from fuzz.lifeline import die_with_parent
from live.errors import LiveError
from live.ram import Ram

COMMAND_LINE = (
    "console=ttyS0 nokaslr nopti mitigations=off no5lvl init_on_alloc=0 panic=-1 loglevel=5 nowatchdog"
    " memhp_default_state=offline"
)

M = 1 << 20


class QemuError(LiveError):
    """The emulator did not do what it was asked: one sentence."""


@dataclass(frozen=True, slots=True)
class Emulator:
    """How to start the emulator."""

    command: tuple[str, ...]
    firmware: tuple[str, ...] = ()
    """Folders with its firmware, when they are not where it looks for it."""
    modules: str | None = None
    """Folder of its loadable parts, likewise."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """What is on the emulator's command line."""

    emulator: Emulator
    kernel: str
    initrd: str
    append: str
    """Added to the kernel's command line."""
    nodes: tuple[int, ...]
    """Bytes of RAM of each node."""
    accel: str = "tcg"
    """"tcg" (emulation) or "kvm"."""


@dataclass(slots=True)
class Saved:
    """A state to come back to."""

    memory: Ram
    devices: int
    """A memfd with the migration stream."""
    cr3: int

    def close(self) -> None:
        """Forget it."""
        self.memory.close()
        os.close(self.devices)


class Qemu:
    """A running emulator. Make one with `boot` or `resume`; `close` ends it, its memory is the caller's."""

    def __init__(self, hardware: Hardware, memory: Ram, incoming: int | None) -> None:
        self.hardware = hardware
        self.memory = memory
        self.cr3 = 0
        """Physical address of the kernel's top page table."""
        self._console = os.memfd_create("console")
        self._said = 0
        qmp, its_qmp = socket.socketpair()
        agent, its_agent = socket.socketpair()
        self.agent = agent
        """The host's end of the serial port of the agent."""
        self._qmp = qmp
        self._replies = qmp.makefile("r")
        fds = [its_qmp.fileno(), its_agent.fileno(), self._console, *memory.fds]
        command = self._command(its_qmp.fileno(), its_agent.fileno())
        if incoming is not None:
            os.lseek(incoming, 0, os.SEEK_SET)
            fds.append(incoming)
            command += ["-incoming", "defer"]
        environment = dict(os.environ)
        if hardware.emulator.modules is not None:
            environment["QEMU_MODULE_DIR"] = hardware.emulator.modules
        parent = os.getpid()
        self._errors = os.memfd_create("stderr")
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            pass_fds=fds,
            start_new_session=True,
            env=environment,
            preexec_fn=lambda: die_with_parent(parent),  # noqa: PLW1509  # each worker is a process of one thread
        )
        its_qmp.close()
        its_agent.close()
        qmp.settimeout(60)
        self._reply()  # the greeting
        self.command("qmp_capabilities")

    # -- life
    # -----------------------------------------------------------------------------------------------------------

    @classmethod
    def boot(cls, hardware: Hardware, memory: Ram) -> Qemu:
        """Switch a machine on."""
        return cls(hardware, memory, None)

    @classmethod
    def resume(cls, hardware: Hardware, saved: Saved, memory: Ram) -> Qemu:
        """A machine in a saved state, running in `memory`, whatever that held."""
        memory.become(saved.memory)
        self = cls(hardware, memory, saved.devices)
        self.cr3 = saved.cr3
        try:
            self._ignore_shared()
            self.command("migrate-incoming", uri=f"fd:{saved.devices}")
            self._wait_for("paused", ("inmigrate",))
            self.command("cont")
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """End the emulator; may be called twice."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for fd in (self._console, self._errors):
            os.close(fd)
        self._console = self._errors = -1
        self._replies.close()
        self._qmp.close()
        self.agent.close()
        self.close = lambda: None  # type: ignore[method-assign]

    def save(self) -> Saved:
        """The present state; the machine is stopped by it and must be closed."""
        self.command("stop")
        cr3 = self.read_cr3()
        self._ignore_shared()
        devices = os.memfd_create("devices")
        self._send_fd("saved", devices)
        self.command("migrate", uri="fd:saved")
        while True:
            state = self.command("query-migrate").get("status")
            if state == "completed":
                break
            if state in ("failed", "cancelled"):
                raise QemuError(f"the emulator could not save its state: {state}")
            time.sleep(0.002)
        memory = Ram(self.hardware.nodes)
        memory.become(self.memory)
        return Saved(memory, devices, cr3)

    # -- QMP
    # ------------------------------------------------------------------------------------------------------------

    def command(self, name: str, **arguments: Any) -> Any:
        """A QMP command and what it returned."""
        message = {"execute": name, "arguments": arguments} if arguments else {"execute": name}
        self._qmp.sendall(json.dumps(message).encode() + b"\n")
        return self._reply()

    def _reply(self) -> Any:
        while True:
            try:
                line = self._replies.readline()
            except ConnectionResetError:
                line = ""
            if not line:
                self.process.wait()
                os.lseek(self._errors, 0, os.SEEK_SET)
                text = os.read(self._errors, 4096).decode(errors="replace").strip()
                raise QemuError(f"the emulator ended: {text or 'without a word'}")
            message = json.loads(line)
            if "error" in message:
                raise QemuError(f"the emulator refused: {message['error'].get('desc')}")
            if "return" in message:
                return message["return"]
            if "QMP" in message:
                return message["QMP"]

    def _send_fd(self, name: str, fd: int) -> None:
        text = json.dumps({"execute": "getfd", "arguments": {"fdname": name}}).encode() + b"\n"
        self._qmp.sendmsg([text], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
        self._reply()

    def _ignore_shared(self) -> None:
        self.command("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])

    def _wait_for(self, wanted: str, passing: tuple[str, ...]) -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            state = self.command("query-status")["status"]
            if state == wanted:
                return
            if state not in passing:
                raise QemuError(f"the emulator is in state {state} instead of {wanted}")
            time.sleep(0.001)
        raise QemuError(f"the emulator does not reach state {wanted}")

    def read_cr3(self) -> int:
        """The top page table of whatever the guest's CPU runs; the kernel's half is common to all."""
        text = self.command("human-monitor-command", **{"command-line": "info registers"})
        found = re.search(r"CR3=([0-9a-fA-F]+)", text)
        if found is None:
            raise QemuError("the emulator does not tell CR3")
        return int(found[1], 16) & 0x000FFFFFFFFFF000

    # -- console
    # --------------------------------------------------------------------------------------------------------

    def console(self) -> str:
        """What the guest printed since the last call."""
        data = os.pread(self._console, 1 << 20, self._said)
        self._said += len(data)
        return data.decode(errors="replace")

    # -- command line
    # ---------------------------------------------------------------------------------------------------

    def _command(self, qmp: int, agent: int) -> list[str]:
        hw = self.hardware
        out = [*hw.emulator.command, "-nodefaults", "-no-user-config", "-display", "none"]
        for folder in hw.emulator.firmware:
            out += ["-L", folder]
        # A nested hypervisor may refuse to set what it offers in arch-capabilities.
        cpu = "host,la57=off,arch-capabilities=off" if hw.accel == "kvm" else "max,la57=off"
        out += ["-accel", hw.accel, "-cpu", cpu, "-smp", "1"]
        machine, numa = "q35,hmat=off", []
        for i, (size, fd) in enumerate(zip(hw.nodes, self.memory.fds, strict=True)):
            out += ["-object", f"memory-backend-file,id=ram{i},size={size},mem-path=/proc/self/fd/{fd},share=on"]
            numa += ["-numa", f"node,nodeid={i},memdev=ram{i}" + (",cpus=0" if i == 0 else "")]
        out += ["-machine", machine, "-m", f"{sum(hw.nodes) // M}M", *numa]
        out += ["-kernel", hw.kernel, "-initrd", hw.initrd, "-append", f"{COMMAND_LINE} {hw.append}".strip()]
        out += [
            "-chardev",
            f"file,id=console,path=/proc/self/fd/{self._console},append=on",
            "-serial",
            "chardev:console",
        ]
        out += ["-chardev", f"socket,id=qmp,fd={qmp}", "-mon", "chardev=qmp,mode=control", "-no-reboot"]
        out += ["-chardev", f"socket,id=agent,fd={agent}", "-device", "virtio-serial-pci"]
        return [*out, "-device", "virtserialport,chardev=agent,nr=1,name=agent"]
