"""`winnow user`: who may sign in, and what they did."""

from __future__ import annotations

from typing import Annotated

import typer

from db.users import Role, one_time_password
from studio.commands.common import (
    Home,
    Json,
    show,
    studio_at,
    table,
)

app = typer.Typer(help="Who may sign in where the studio asks, and what they did there.", no_args_is_help=True)


Name = Annotated[str, typer.Argument(help="name of the user")]
AsRole = Annotated[
    Role, typer.Argument(help="reviewer looks and judges; curator also makes and trains; admin also keeps the users")
]


@app.command("add")
def user_add(name: Name, role: AsRole = Role.REVIEWER, home: Home = None) -> None:
    """Add a user, and print the password for their first sign-in.

    Example: `winnow user add ada curator`
    """
    password = one_time_password()
    with studio_at(home) as studio:
        added = studio.store.users.add(name, password, role, one_time=True)
    show(added, False, f"{added.name}, {added.role}, signs in with {password} and then chooses a password.")


@app.command("list")
def user_list(home: Home = None, as_json: Json = False) -> None:
    """List the users."""
    with studio_at(home) as studio:
        found = studio.store.users.everybody()
    table(found, ("name", "role", "one_time"), as_json)


@app.command("remove")
def user_remove(name: Name, home: Home = None) -> None:
    """Remove a user; what they decided stays."""
    with studio_at(home) as studio:
        studio.store.users.remove(name)


@app.command("role")
def user_role(name: Name, role: AsRole, home: Home = None) -> None:
    """Give a user another role. They have to sign in again."""
    with studio_at(home) as studio:
        studio.store.users.set_role(name, role)


@app.command("password")
def user_password(name: Name, home: Home = None) -> None:
    """Give a user a new password for one sign-in, and end all their sessions."""
    password = one_time_password()
    with studio_at(home) as studio:
        studio.store.users.set_password(name, password, one_time=True)
    show(None, False, f"{name} signs in with {password} and then chooses a password.")


@app.command("trail")
def user_trail(
    name: Annotated[str | None, typer.Argument(help="one user's only")] = None,
    home: Home = None,
    as_json: Json = False,
    limit: int = 50,
) -> None:
    """What people did, newest first; verdicts are in the log of Review."""
    with studio_at(home) as studio:
        found = studio.store.users.trail(actor=name, limit=limit)
    table(found, ("at", "actor", "action", "status", "request"), as_json)
