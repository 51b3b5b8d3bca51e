"""`vmemmap-fuzz zoo`: the real bugs that can be planted."""

from __future__ import annotations

from typing import Annotated

import typer

from fuzz.commands.common import JsonOption, app, fail, guarded, print_json, print_table


@app.command("zoo")
@guarded
def zoo_command(
    listing: Annotated[bool, typer.Option("--list", help="Print all bugs, and why some cannot be planted.")] = False,
    as_json: JsonOption = False,
) -> None:
    """The zoo: real bugs of Linux, which --defect of other commands plants in one of the models.

    A bug of code that both models share lives in the side named here, or in that after an @: DAX-2026-20@reference.
    """
    from zoo import DEFECTS, NOT_MODELLED

    if not listing:
        raise fail("nothing to do; write --list to see the bugs")
    if as_json:
        modelled = [
            {
                "id": d.id,
                "modelled": True,
                "reason": None,
                "title": d.title,
                "side": d.side,
                "spot": d.spot,
                "layer": d.layer,
                "source": d.source,
                "mechanism": d.mechanism,
                "program": d.program,
            }
            for d in DEFECTS.values()
        ]
        left_out = [{"id": n.id, "modelled": False, "reason": n.reason, "title": n.title} for n in NOT_MODELLED]
        print_json([*modelled, *left_out])
        return
    rows = [[d.id, d.side, d.layer, d.title] for d in DEFECTS.values()]
    print_table("can be planted", ["id", "side", "layer", "what goes wrong"], rows, 4, fold=3)
    print_table("cannot", ["id", "title", "why"], [[n.id, n.title, n.reason] for n in NOT_MODELLED], 3, fold=2)
