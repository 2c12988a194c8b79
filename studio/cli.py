"""The command line: the same functions as the buttons of the studio."""

from __future__ import annotations

import logging
import sys

import typer

from db.errors import WinnowError
from studio.commands import data, generation, measuring, pocket, service, training, users, why
from studio.commands.common import console

app = typer.Typer(
    help="Generate training data for object detectors, winnow it, train on what you kept, measure what it was worth.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
PANELS = {
    "Data": data,
    "Generate": generation,
    "Train and look": training,
    "Measure": measuring,
    "Winnow itself": service,
}
for panel, group in PANELS.items():
    for command in group.app.registered_commands:
        command.rich_help_panel = panel
    app.add_typer(group.app)
app.add_typer(why.app, name="why", rich_help_panel="Train and look")
app.add_typer(users.app, name="user", rich_help_panel="Winnow itself")
app.add_typer(pocket.app, name="pocket", rich_help_panel="Winnow itself")


def main() -> None:
    """Entry point: errors for people become one line and exit code 1, bugs keep their traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app()
    except WinnowError as error:
        console.print(f"[red]winnow:[/] {error}", highlight=False, markup=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
