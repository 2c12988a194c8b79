"""The pages, in the order of the navigation bar. Each module has `title`, `path` and `page(studio)`."""

from studio.pages import compare, datasets, generate, jobs, review, train

PAGES = [datasets, generate, review, train, compare, jobs]
