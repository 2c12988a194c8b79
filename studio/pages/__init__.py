"""The pages, in the order of the navigation bar. Each module has `title`, `path` and `page(studio)`."""

from studio.pages import (
    alignment,
    attention,
    audit,
    browse,
    compare,
    datasets,
    generate,
    help,
    jobs,
    lab,
    methods,
    people,
    prompts,
    report,
    review,
    train,
    why,
)

PAGES = [
    datasets,
    methods,
    generate,
    prompts,
    review,
    browse,
    people,
    lab,
    audit,
    report,
    train,
    compare,
    attention,
    alignment,
    why,
    jobs,
    help,
]
LINKED = (why, attention, alignment)
"""Those that one comes to by a link, and that the navigation bar does not show."""
