"""`winnow why`: where a candidate, a box or an AP comes from."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from studio.commands.common import (
    Home,
    Json,
    show,
    studio_at,
)


class CandidateByNumber(TyperGroup):
    """`why 12` is `why candidate 12`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, ["candidate", *args] if args[0].isdecimal() else args)


app = typer.Typer(
    cls=CandidateByNumber,
    help="Why is this in my training set? `winnow why 12` goes back to the making of candidate 12, and forward to all "
    "that used it.",
    no_args_is_help=True,
)


@app.command("candidate")
def why_candidate(
    candidate: Annotated[int, typer.Argument(help="id of a candidate, as Review shows it")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """What led to a candidate (scores, verdicts, policy, recipe, prompt, seed, model), and what used it."""
    from studio import why_api, why_lines

    with studio_at(home) as studio:
        told = why_api.candidate(studio.store, candidate)
    show(told, as_json, "\n".join(why_lines.candidate(told)))


@app.command("box")
def why_box(
    snapshot: Annotated[str, typer.Argument(help="name of the snapshot that was exported")],
    annotation: Annotated[str, typer.Argument(help="id of the annotation in the exported COCO or LVIS file")],
    split: Annotated[str | None, typer.Option(help="split, where an id is in several")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Where a box of an export comes from."""
    from studio import why_api, why_lines

    with studio_at(home) as studio:
        told = why_api.box(studio.store, snapshot, annotation, split)
    show(told, as_json, "\n".join(why_lines.box(told)))


@app.command("ap")
def why_ap(
    evaluation: Annotated[int, typer.Argument(help="id of a finished evaluation")],
    category: Annotated[str | None, typer.Option("--class", help="name of a class (default: all)")] = None,
    against: Annotated[int | None, typer.Option(help="another evaluation, to say what differs")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """What an AP, or a change of it, rests on: the generated data of the training behind it."""
    from studio import why_api, why_lines

    with studio_at(home) as studio:
        told = why_api.change(studio.store, evaluation, category, against)
    show(told, as_json, "\n".join(why_lines.change(told)))
