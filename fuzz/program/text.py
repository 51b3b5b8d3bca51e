"""Reading and writing `.vmm` text.

`parse` accepts every spelling of docs/language.md and refuses everything else with a `ProgramError` at the exact place;
`format` writes the one canonical form. Formatting keeps comments and handle names, so `parse(format(p)) == p` for every
legal program. An argument equal to its default is left out of the canonical form; of the machine, the first keys are
always written.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, NoReturn

from fuzz.program.arguments import (
    REQUIRED,
    Argument,
    BadValue,
    Type,
    clip,
    format_size,
    format_value,
    parse_value,
)
from fuzz.program.errors import ProgramError
from fuzz.program.model import Op, Program
from fuzz.program.operations import (
    AFTER_BOOT,
    BEFORE_BOOT,
    BOOT,
    KINDS,
    MACHINE,
    MEMORY,
    OPERATIONS,
    VERSION,
    Operation,
)
from mm.machine import Machine, page_sizes

MAX_BYTES: Final = 1 << 20
"""A file larger than this is refused: a repro is a few lines, the largest campaign program a few hundred."""

ALWAYS_WRITTEN: Final = frozenset({"arch", "page", "ram", "nodes"})
"""Machine keys that the canonical form always writes: a reader of a repro wants them."""

_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")
_RAM_NAME: Final = re.compile(r"ram[0-9]+")
_KEYS: Final = {argument.name: argument for argument in MACHINE}
_BY_NAME: Final = {
    operation.name: {a.name: a for a in operation.arguments if a.type is not Type.HANDLE}
    for operation in OPERATIONS.values()
}
_FIRST_WORDS: Final = frozenset(name.split()[0] for name in OPERATIONS)


def parse(source: str | bytes, file: str = "<program>") -> Program:
    """The program in a text; raises ProgramError, which names `file`."""
    return _Parser(file).program(_text(source, file))


def parse_file(path: str | Path) -> Program:
    """The program in a file; raises ProgramError, or OSError if the file cannot be read."""
    with Path(path).open("rb") as stream:
        return parse(stream.read(MAX_BYTES + 1), str(path))


def format(program: Program) -> str:
    """The canonical text of a program."""
    lines = [f"vmm {program.version}"]
    lines += map(_comment, program.comments)
    lines.append(format_machine(program.machine))
    for op in program.ops:
        if op.above:
            lines += map(_comment, op.above)
        line = format_op(op)
        lines.append(f"{line}  # {op.comment}" if op.comment else line)
    lines += map(_comment, program.footer)
    return "\n".join(lines) + "\n"


def format_machine(machine: Machine) -> str:
    """The canonical `machine` line."""
    words = ["machine"]
    for key in MACHINE:
        value = getattr(machine, key.name)
        if key.name in ALWAYS_WRITTEN or value != key.default:
            words.append(f"{key.name}={format_value(key, value)}")
    return " ".join(words)


def format_op(op: Op) -> str:
    """The canonical line of an operation, without its comments."""
    words = [op.name] if op.result is None else [op.result, "=", op.name]
    for argument in OPERATIONS[op.name].arguments:
        value = op.args[argument.name]
        if argument.type is Type.HANDLE:
            words.append(value)
        elif argument.required or value != argument.default:
            words.append(f"{argument.name}={format_value(argument, value)}")
    return " ".join(words)


def _comment(text: str) -> str:
    return f"# {text}" if text else "#"


def _text(source: str | bytes, file: str) -> str:
    if len(source) > MAX_BYTES:
        raise ProgramError(file, 0, 0, "", f"the file is larger than {MAX_BYTES >> 20}M", "a program")
    if isinstance(source, bytes):
        data = source
        try:
            source = data.decode()
        except UnicodeDecodeError as error:
            raise _binary(file, data, error.start, f"byte {data[error.start]:#04x} is not UTF-8") from None
    if "\0" in source:
        raise _binary(file, source.encode(), source.encode().index(0), "there is a NUL byte")
    if not source.strip():
        raise ProgramError(file, 0, 0, "", "the file is empty", f"a program, whose first line is 'vmm {VERSION}'")
    return source.removeprefix("\ufeff")


def _binary(file: str, data: bytes, position: int, why: str) -> ProgramError:
    start = data.rfind(b"\n", 0, position) + 1
    line = data[start:].split(b"\n", 1)[0].decode(errors="replace").replace("\ufffd", "?")
    column = len(data[start:position].decode(errors="replace")) + 1
    message = f"this is a binary file: {why}"
    return ProgramError(file, data.count(b"\n", 0, position) + 1, column, line, message, "the text of a program")


def _suggest(word: str, known: list[str] | tuple[str, ...]) -> str:
    close = get_close_matches(word, known, 1)
    return f", did you mean {close[0]!r}?" if close else ""


class _Parser:
    """One pass over the lines. Places are worked out only when an error is raised: the good case must be fast."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.number = 0
        self.raw = ""
        self.kinds: dict[str, str] = {}
        """Kind of every handle ever made."""
        self.made: dict[str, int] = {}
        """Line that made it; 0 for boot RAM."""
        self.ended: dict[str, int] = {}
        """Line that ended it, if it is gone."""
        self.booted = 0
        """Line of the boot."""

    def program(self, text: str) -> Program:
        lines = text.split("\n")
        version = self._version(lines[0])
        machine: Machine | None = None
        header: list[str] = []
        pending: list[str] = []
        ops: list[Op] = []
        _, mark, comment = lines[0].partition("#")
        if mark:
            header.append(comment.strip())
        for number, raw in enumerate(lines[1:], 2):
            self.number, self.raw = number, raw
            code, mark, comment = raw.partition("#")
            comment = comment.strip()
            tokens = code.split()
            if not tokens:
                if mark:
                    pending.append(comment)
                continue
            if tokens[0] == "machine":
                if machine is not None:
                    self._fail(0, "a second machine line", "operations from here on")
                machine = self._machine(tokens)
                header += pending
                if comment:
                    header.append(comment)
                pending = []
            elif machine is None:
                self._fail(0, "the machine line is missing", "'machine ...' before the first operation")
            else:
                ops.append(self._operation(tokens, comment, tuple(pending)))
                pending = []
        if machine is None or not self.booted:
            last = len(lines) if lines[-1].strip() or len(lines) == 1 else len(lines) - 1
            self.number, self.raw = last, lines[last - 1]
            what = "'boot'" if machine else "the machine line"
            expected = "'boot' after the reserves" if machine else "'machine ...' on the second line"
            self._fail(None, f"the file ends before {what}", expected)
        assert machine is not None  # the test above
        return Program(machine, tuple(ops), tuple(header), tuple(pending), version)

    def _version(self, line: str) -> int:
        self.number, self.raw = 1, line
        tokens = line.partition("#")[0].split()
        first = f"'vmm {VERSION}' on the first line"
        if not tokens or tokens[0] != "vmm":
            self._fail(0, "this is not a program", first)
        if len(tokens) == 1:
            self._fail(None, "the language version is missing", first)
        word = tokens[1]
        if not (word.isascii() and word.isdecimal()) or int(word[:9]) < 1:
            self._fail(1, f"{clip(word)} is not a language version", f"a number from 1 to {VERSION}")
        if int(word[:9]) > VERSION:
            self._fail(
                1, f"the file is in language version {clip(word)[1:-1]}, this program reads versions up to {VERSION}"
            )
        if len(tokens) > 2:
            self._fail(2, f"unexpected {clip(tokens[2])} after the version", "the end of the line")
        return int(word)

    def _machine(self, tokens: list[str]) -> Machine:
        given = self._arguments(tokens, 1, _KEYS, None, "the machine")
        machine = Machine(**{name: value for name, value in given.items() if value is not REQUIRED})
        pages = page_sizes(machine.arch)
        if machine.page not in pages:
            place = next((i for i, token in enumerate(tokens) if token.startswith("page=")), None)
            expected = " or ".join(f"page={format_size(page)}" for page in pages)
            self._fail(place, f"{machine.arch} has no pages of {format_size(machine.page)}", expected)
        for index in range(len(machine.ram_ranges())):
            self.kinds[f"ram{index}"] = MEMORY
            self.made[f"ram{index}"] = 0
        return machine

    def _operation(self, tokens: list[str], comment: str, above: tuple[str, ...]) -> Op:
        first = 2 if len(tokens) > 1 and tokens[1] == "=" else 0
        operation = OPERATIONS.get(" ".join(tokens[first : first + 2]))
        words = 2
        if operation is None:
            operation = OPERATIONS.get(tokens[first]) if first < len(tokens) else None
            words = 1
        if operation is None:
            self._unknown(tokens, first)
        self._in_order(operation, first)
        args = self._arguments(tokens, first + words, _BY_NAME[operation.name], operation.handle, operation.name)
        for argument in operation.arguments:
            if args[argument.name] is REQUIRED:
                usage = f"'{operation.usage()}'"
                if argument.type is Type.HANDLE:
                    self._fail(
                        None, f"{operation.name} needs a {KINDS[argument.name]}{self._live(argument.name)}", usage
                    )
                self._fail(None, f"{operation.name} needs {argument.name}=", usage)
            if argument.along and len(args[argument.name]) != len(args[argument.along]):
                count, other = len(args[argument.name]), len(args[argument.along])
                index = next(i for i, token in enumerate(tokens) if token.startswith(f"{argument.name}="))
                message = (
                    f"{argument.name} has {count} {'entry' if count == 1 else 'entries'}, {argument.along} has {other}"
                )
                self._fail(index, message, "as many of one as of the other")
        if operation.ends and operation.handle is not None:
            self.ended[args[operation.handle.name]] = self.number
        result = self._define(operation, tokens[0] if first else None)
        return Op(operation.name, args, result, comment, above)

    def _arguments(
        self, tokens: list[str], first: int, known: dict[str, Argument], handle: Argument | None, owner: str
    ) -> dict[str, Any]:
        args: dict[str, Any] = {} if handle is None else {handle.name: REQUIRED}
        for name, its in known.items():
            args[name] = its.default
        seen: set[str] = set()
        for index in range(first, len(tokens)):
            token = tokens[index]
            name, equals, value = token.partition("=")
            if not equals:
                if handle is None or handle.name in seen:
                    self._fail(
                        index,
                        f"unexpected {clip(token)}",
                        "an argument, as name=value" if known else "the end of the line",
                    )
                seen.add(handle.name)
                args[handle.name] = self._use(handle.name, token, index)
                continue
            argument = known.get(name)
            if argument is None:
                if handle is not None and name == handle.name:
                    self._fail(index, f"a handle is written without {name}=", f"'{owner} {value or name + '0'}'")
                if not name:
                    self._fail(index, "'=' without a name before it", "name=value, without spaces")
                hint = _suggest(name, tuple(known))
                takes = ", ".join(known) or "no arguments"
                self._fail(index, f"{owner} has no argument {clip(name)}{hint}", "" if hint else takes)
            if name in seen:
                self._fail(index, f"{name} is given twice")
            seen.add(name)
            try:
                args[name] = parse_value(argument, value)
            except BadValue as error:
                self._fail(index, str(error), error.expected, len(name) + 1)
        return args

    def _in_order(self, operation: Operation, index: int) -> None:
        if operation.when == BOOT:
            if self.booted:
                self._fail(index, f"a second boot, the first one is in line {self.booted}", "one boot")
            self.booted = self.number
        elif operation.when == BEFORE_BOOT and self.booted:
            self._fail(index, f"{operation.name} after boot", f"{operation.name} before line {self.booted}")
        elif operation.when == AFTER_BOOT and not self.booted:
            self._fail(index, f"{operation.name} before boot", "reserve or boot")

    def _use(self, kind: str, name: str, index: int) -> str:
        actual = self.kinds.get(name)
        if name in self.ended:
            self._fail(index, f"{name} is gone since line {self.ended[name]}{self._live(kind)}")
        if actual is None:
            if not _NAME.fullmatch(name):
                self._fail(index, f"{clip(name)} is not a handle", f"a {KINDS[kind]}, a name such as {kind}0")
            hint = _suggest(name, [live for live in self.kinds if self.kinds[live] == kind])
            self._fail(index, f"{clip(name)} is not made before this line{hint or self._live(kind)}")
        if actual != kind:
            self._fail(index, f"{name} is a {KINDS[actual]}{self._live(kind)}", f"a {KINDS[kind]}")
        return name

    def _define(self, operation: Operation, name: str | None) -> str | None:
        if operation.makes is None:
            if name is not None:
                self._fail(0, f"{operation.name} makes no handle", f"'{operation.usage()}'")
            return None
        if name is None:
            self._fail(0, f"{operation.name} makes a handle, which needs a name", f"'{operation.usage()}'")
        if not _NAME.fullmatch(name):
            self._fail(0, f"{clip(name)} is not a name", "small letters, digits and _, a letter first")
        if name in self.made:
            where = f"line {self.made[name]}" if self.made[name] else "the boot memory"
            self._fail(0, f"{name} is already made in {where}", "a new name")
        if _RAM_NAME.fullmatch(name):
            self._fail(0, f"the name {name} is kept for boot memory", "another name")
        self.kinds[name] = operation.makes
        self.made[name] = self.number
        return name

    def _live(self, kind: str) -> str:
        live = [name for name, its in self.kinds.items() if its == kind and name not in self.ended]
        if not live:
            return f", and there is no {KINDS[kind]} here"
        return f" (here: {', '.join(live[:6])}{', ...' if len(live) > 6 else ''})"

    def _unknown(self, tokens: list[str], first: int) -> NoReturn:
        if first == len(tokens):
            self._fail(None, "the operation is missing", f"'{tokens[0]} = operation ...'")
        word = tokens[first]
        if word == "vmm":
            self._fail(first, "a second version line", "an operation")
        name, equals, rest = word.partition("=")
        if equals and (rest in _FIRST_WORDS or not rest):
            self._fail(first, "the '=' of a result stands between spaces", f"'{name} = {rest or 'operation'} ...'")
        second = tokens[first + 1] if first + 1 < len(tokens) and "=" not in tokens[first + 1] else ""
        hint = _suggest(f"{word} {second}".rstrip(), tuple(OPERATIONS)) or _suggest(word, tuple(OPERATIONS))
        expected = ""
        if word in _FIRST_WORDS:
            expected = "one of " + ", ".join(name for name in OPERATIONS if name.startswith(f"{word} "))
        elif not hint:
            expected = "one of " + ", ".join(OPERATIONS)
        shown = f"{word} {second}".rstrip() if second and word in _FIRST_WORDS else word
        self._fail(first, f"unknown operation {clip(shown)}{hint}", "" if hint else expected)

    def _fail(self, index: int | None, message: str, expected: str = "", offset: int = 0) -> NoReturn:
        """Raise the error at a token of the current line, or behind the last one if `index` is None."""
        raw = self.raw.rstrip("\r")
        code = raw.partition("#")[0]
        starts = [match.start() for match in re.finditer(r"\S+", code)]
        if index is not None and index < len(starts):
            column = starts[index] + offset + 1
        else:
            column = len(code.rstrip()) + 1
        raise ProgramError(self.file, self.number, column, raw, message, expected)
