"""Programs as bytes, for engines that mutate bytes.

Any byte string decodes to a legal program; any program encodes to bytes that decode to the same program, except that
comments are not carried and handles come back under their canonical names. Bytes are a transport, not an archive: a new
operation in the registry changes what old bytes mean. Archive text.

A string is a row of records of WIDTH bytes; the last one is filled up with zeros. All records have one width so that an
engine's insertions, erasures and crossovers of blocks move whole operations.

    machine record   first; the slots of the machine's keys, from byte 0
    operation        byte 0 the operation, then the slots of its arguments
    extension        byte 0 from 240 up; a value for the next operation that its slot cannot hold

Byte 0 of an operation record, modulo the number of operations, picks one of those that follow the boot, in the
registry's order. Before the boot, 200 to 239 is an operation from before the boot instead, every eighth of them one for
CMA. The boot has no record: it stands before the first record that is not of these.

A slot has a fixed width by the type of its argument. Slots are made for decoding random bytes: most values of a slot
give something plausible for this point of the program (a handle that is live, an address where something begins or
ends, a size from a menu), fewer give a plain number. The encoder uses the plain form only.

    bool, choice   1 byte    the n-th option, the default first
    node           1 byte    below 240: none (if allowed) or a node of the machine; else node n - 240
    handle         1 byte    the n-th live handle of its kind, modulo their number
    count          2 bytes   mode, low: small number, menu, or ((mode - 232) << 8) + low
    address, size  4 bytes   mode below 224: a place or menu entry and small steps from it;
                             else ((mode & 7) << 24) + the other three, times 4K, 2M, 128M or 1G by (mode >> 3) & 3
    list           4 bytes   its first entry, as above

If there is no live handle of the kind that an operation takes, the record is one of the operation that makes such
handles.

An extension record holds in byte 1 the index of the argument (modulo their number), in byte 2 flags, from byte 4 a
value: 8 bytes big-endian if flags are 192 or more, else a slot as above. The value of a handle is its index among the
live ones, the value of a node its number. It replaces the slot; for a list it adds an entry, to an empty list if flags
are odd. Lists that must have one length are made so by repeating the last size, each next address behind the last
range.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from fuzz.program.arguments import LIMIT, LISTS, Argument, G, K, M, Type
from fuzz.program.model import Op, Program
from fuzz.program.operations import AFTER_BOOT, BEFORE_BOOT, BOOT, MACHINE, MAKERS, OPERATIONS, Operation
from fuzz.program.scope import SECTION, Scope
from mm.machine import Machine

WIDTH: Final = 15
"""Bytes of a record: the machine fills it."""

EXTENSION: Final = 240
RESERVE: Final = 200
_RAW: Final = 192
_RESTART: Final = 1

_RESERVE, _RESERVE_CMA = (op for op in OPERATIONS.values() if op.when == BEFORE_BOOT)
RESERVES: Final = (*(_RESERVE,) * 7, _RESERVE_CMA)
_CODES: Final = tuple(op for op in OPERATIONS.values() if op.when == AFTER_BOOT)
_CODE_OF: Final = {op.name: RESERVE + i for i, op in enumerate(RESERVES)} | {
    op.name: code for code, op in enumerate(_CODES)
}

_SCALES: Final = (4 * K, 2 * M, SECTION, G)
_STEPS: Final = (0, 0, 0, 0, SECTION, 2 * SECTION, 512 * M, G, 2 * G, 64 * M, 8 * G, 2 * M)
_NUDGES: Final = (0,) * 52 + (4 * K, -4 * K, 2 * M, -2 * M, 64 * M, -64 * M, SECTION, -SECTION, 1, 4 * M, -G, 512)
_NODES: Final = 240
_WIDTHS: Final = {
    Type.ADDRESS: 4,
    Type.ADDRESSES: 4,
    Type.SIZE: 4,
    Type.SIZES: 4,
    Type.COUNT: 2,
    Type.NODE: 1,
    Type.BOOL: 1,
    Type.CHOICE: 1,
    Type.HANDLE: 1,
}


def decode(data: bytes) -> Program:
    """The program that a byte string stands for; there is always one."""
    records = [data[start : start + WIDTH].ljust(WIDTH, b"\0") for start in range(0, len(data), WIDTH)]
    machine = _decode_machine(records[0] if records else bytes(WIDTH))
    scope = Scope(machine)
    ops: list[Op] = []
    pending: list[bytes] = []
    for record in records[1:]:
        if record[0] >= EXTENSION:
            pending.append(record)
            continue
        if not scope.booted and not RESERVE <= record[0] < EXTENSION:
            ops.append(_BOOT)
            scope.advance(_BOOT)
        op = decode_op(record, scope, pending)
        pending = []
        scope.advance(op)
        ops.append(op)
    if not scope.booted:
        ops.append(_BOOT)
    return Program(machine, tuple(ops))


def encode(program: Program) -> bytes:
    """Bytes that decode to the program, without its comments, with canonical handle names."""
    scope = Scope(program.machine)
    records = [_encode_machine(program.machine)]
    for op in program.ops:
        if op.name != BOOT:
            records += _encode_op(op, scope)
        scope.advance(op)
    return b"".join(records)


def decode_op(record: bytes, scope: Scope, extensions: list[bytes] | None = None) -> Op:
    """The operation that one record stands for at a point of a program; mutation draws new operations from it too."""
    code = record[0]
    if scope.booted or not RESERVE <= code < EXTENSION:
        operation = _CODES[code % len(_CODES)]
    else:
        operation = RESERVES[(code - RESERVE) % len(RESERVES)]
    handle = operation.handle
    if handle is not None and not scope.live[handle.name]:
        operation = MAKERS[handle.name]
    args: dict[str, Any] = {}
    for argument, start, read, _ in _LAYOUT[operation.name]:
        value = read(argument, record, start, scope)
        args[argument.name] = (value,) if argument.type in LISTS else value
    if extensions:
        _extend(operation, args, extensions, scope)
    return Op(operation.name, args, scope.fresh(operation.makes) if operation.makes else None)


def _extend(operation: Operation, args: dict[str, Any], extensions: list[bytes], scope: Scope) -> None:
    """Apply extension records to an operation's arguments."""
    layout = _LAYOUT[operation.name]
    for record in extensions:
        if not layout:
            return
        argument, _, read, _ = layout[record[1] % len(layout)]
        flags = record[2]
        if flags < _RAW:
            value = read(argument, record, 4, scope)
        else:
            value = _from_number(argument, int.from_bytes(record[4:12], "big"), scope)
        if argument.type in LISTS:
            value = (value,) if flags & _RESTART else (*args[argument.name], value)
        args[argument.name] = value
    for argument in operation.arguments:
        if argument.along:
            args[argument.along], args[argument.name] = even(args[argument.along], args[argument.name])


def even(starts: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two lists of ranges made equally long: the last size repeated, each next start behind the last range."""
    count = max(len(starts), len(sizes))
    sizes += sizes[-1:] * (count - len(sizes))
    while len(starts) < count:
        starts += (min(starts[-1] + sizes[len(starts) - 1], LIMIT - 1),)
    return starts, sizes


def _encode_op(op: Op, scope: Scope) -> list[bytes]:
    """The records of an operation: extensions first, then its own."""
    record = bytearray(WIDTH)
    record[0] = _CODE_OF[op.name]
    extensions: list[bytes] = []
    for index, (argument, start, _, write) in enumerate(_LAYOUT[op.name]):
        value = op.args[argument.name]
        flags = _RAW
        rest: tuple[int, ...] = ()
        if argument.type in LISTS:
            value, *more = value
            rest = tuple(more)
            flags |= _RESTART
        if not write(argument, record, start, value, scope):
            extensions.append(_extension(index, flags, _to_number(argument, value, scope)))
        extensions += (_extension(index, _RAW, entry) for entry in rest)
    return [*extensions, bytes(record)]


def _extension(index: int, flags: int, number: int) -> bytes:
    return (bytes((EXTENSION, index, flags, 0)) + number.to_bytes(8, "big")).ljust(WIDTH, b"\0")


def _from_number(argument: Argument, number: int, scope: Scope) -> Any:
    """The value for which an extension record holds a number."""
    if argument.type is Type.HANDLE:
        live = scope.live[argument.name]
        return live[number % len(live)]
    options = argument.options
    return options[number % len(options)] if options else argument.clamp(number % LIMIT)


def _to_number(argument: Argument, value: Any, scope: Scope) -> int:
    """The inverse of `_from_number`, for values that do not fit their slot."""
    number = scope.live[argument.name].index(value) if argument.type is Type.HANDLE else value
    assert isinstance(number, int)
    return number


def _decode_machine(record: bytes) -> Machine:
    scope = Scope(Machine())  # the keys are read as arguments are, and those need a scope that they do not look at
    return Machine.coerced(**{key.name: read(key, record, start, scope) for key, start, read, _ in _MACHINE_LAYOUT})


def _encode_machine(machine: Machine) -> bytes:
    record = bytearray(WIDTH)
    scope = Scope(machine)
    for key, start, _, write in _MACHINE_LAYOUT:
        fits = write(key, record, start, getattr(machine, key.name), scope)
        assert fits, f"machine {key.name} does not fit its slot"
    return bytes(record)


# One reader and one writer for each kind of slot. A writer returns False if the slot cannot hold the value.

_Reader = Callable[[Argument, bytes, int, Scope], Any]
_Writer = Callable[[Argument, bytearray, int, Any, Scope], bool]


def _read_option(argument: Argument, record: bytes, start: int, scope: Scope) -> Any:
    options = argument.options
    return options[record[start] % len(options)]


def _write_option(argument: Argument, record: bytearray, start: int, value: Any, scope: Scope) -> bool:
    record[start] = argument.options.index(value)
    return True


def _read_node(argument: Argument, record: bytes, start: int, scope: Scope) -> int | None:
    byte = record[start]
    if byte >= _NODES:
        return byte - _NODES
    if argument.default is not None:
        return byte % scope.machine.nodes
    choice = byte % (scope.machine.nodes + 1)
    return choice - 1 if choice else None


def _write_node(argument: Argument, record: bytearray, start: int, value: int | None, scope: Scope) -> bool:
    if value is None:
        return True
    if value >= 256 - _NODES:
        return False
    record[start] = _NODES + value
    return True


def _read_handle(argument: Argument, record: bytes, start: int, scope: Scope) -> str:
    live = scope.live[argument.name]
    return live[record[start] % len(live)]


def _write_handle(argument: Argument, record: bytearray, start: int, value: str, scope: Scope) -> bool:
    index = scope.live[argument.name].index(value)
    if index > 255:
        return False
    record[start] = index
    return True


_COUNT_BYTE, _COUNT_MENU, _COUNT_RAW = 96, 136, 232


def _read_count(argument: Argument, record: bytes, start: int, scope: Scope) -> int:
    mode, low = record[start], record[start + 1]
    if mode < _COUNT_BYTE:
        value = low % 8
    elif mode < _COUNT_MENU:
        value = low
    elif mode < _COUNT_RAW:
        value = argument.menu[low % len(argument.menu)]
    else:
        value = (mode - _COUNT_RAW << 8) + low
    return max(value, argument.minimum)


def _write_count(argument: Argument, record: bytearray, start: int, value: int, scope: Scope) -> bool:
    if value < 8:
        record[start + 1] = value
    elif value < (256 - _COUNT_RAW) << 8:
        record[start], record[start + 1] = _COUNT_RAW + (value >> 8), value & 255
    elif value in argument.menu:
        record[start], record[start + 1] = _COUNT_MENU, argument.menu.index(value)
    else:
        return False
    return True


_NEAR_PLACE, _PLAIN = 160, 224


def _read_plain(record: bytes, start: int) -> int:
    mode = record[start]
    number = (mode & 7) << 24 | record[start + 1] << 16 | record[start + 2] << 8 | record[start + 3]
    return number * _SCALES[mode >> 3 & 3]


def _write_plain(argument: Argument, record: bytearray, start: int, value: int, scope: Scope) -> bool:
    for index in (3, 2, 1, 0):
        number, rest = divmod(value, _SCALES[index])
        if not rest and number < 1 << 27:
            record[start : start + 4] = ((_PLAIN | index << 3) << 24 | number).to_bytes(4, "big")
            return True
    return False


def _read_address(argument: Argument, record: bytes, start: int, scope: Scope) -> int:
    mode, first, second, third = record[start : start + 4]
    if mode >= _PLAIN:
        return argument.clamp(_read_plain(record, start))
    if mode >= _NEAR_PLACE:  # any 2M page of boot RAM: where huge pages are
        return (first << 16 | second << 8 | third) * 2 * M % (scope.machine.ram + 2 * G)
    place = scope.places[first % len(scope.places)]
    return argument.clamp(place + _STEPS[second % len(_STEPS)] + _NUDGES[third % len(_NUDGES)])


def _read_size(argument: Argument, record: bytes, start: int, scope: Scope) -> int:
    mode, first, second, third = record[start : start + 4]
    if mode >= _PLAIN:
        return argument.clamp(_read_plain(record, start))
    times = 1 + (second & 3) if second >= 192 else 1
    return argument.clamp(argument.menu[first % len(argument.menu)] * times + _NUDGES[third % len(_NUDGES)])


_OPTION: Final = _read_option, _write_option
_SLOTS: Final[dict[Type, tuple[_Reader, _Writer]]] = {
    Type.ADDRESS: (_read_address, _write_plain),
    Type.ADDRESSES: (_read_address, _write_plain),
    Type.SIZE: (_read_size, _write_plain),
    Type.SIZES: (_read_size, _write_plain),
    Type.COUNT: (_read_count, _write_count),
    Type.NODE: (_read_node, _write_node),
    Type.BOOL: _OPTION,
    Type.CHOICE: _OPTION,
    Type.HANDLE: (_read_handle, _write_handle),
}

_Slot = tuple[Argument, int, _Reader, _Writer]


def _layout(arguments: tuple[Argument, ...], start: int) -> tuple[_Slot, ...]:
    """Where the slots of some arguments lie in a record, and how they are read and written."""
    slots: list[_Slot] = []
    for argument in arguments:
        read, write = _OPTION if argument.choices else _SLOTS[argument.type]
        slots.append((argument, start, read, write))
        start += 1 if argument.choices else _WIDTHS[argument.type]
    assert start <= WIDTH, f"the arguments {[a.name for a in arguments]} need a wider record"
    return tuple(slots)


_BOOT: Final = Op(BOOT)
_LAYOUT: Final = {op.name: _layout(op.arguments, 1) for op in OPERATIONS.values()}
_MACHINE_LAYOUT: Final = _layout(MACHINE, 0)
