"""The command line, `vmemmap-fuzz`.

Exit codes: 0 no difference, 1 a difference, 2 usage or input, 3 an error of this program.

Modules that a command needs are imported by that command: `--help` and `fmt` need neither the models nor an engine.
"""

from __future__ import annotations

import typer

# In the order of --help.
from fuzz.commands import corpus, exploring, fuzzing, mutants, programs, showing, surface, telling, zoo
from fuzz.commands.common import app, guarded

__all__ = ["app", "corpus", "exploring", "fuzzing", "mutants", "programs", "showing", "surface", "telling", "zoo"]


@app.command(
    "live",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
)
@guarded
def live_command(context: typer.Context) -> None:
    """Run programs on a real Linux kernel under QEMU: conform, run, diff, kernels (docs/live.md)."""
    from live.cli import app as live  # a quarter of a second that the other commands need not wait for

    live(args=context.args, prog_name="vmemmap-fuzz live")


def main() -> None:
    """Entry point."""
    app(prog_name="vmemmap-fuzz")


if __name__ == "__main__":
    main()
