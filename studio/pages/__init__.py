"""The pages, in the order of the navigation bar. Each module has `title`, `path` and `page(studio)`."""

from studio.pages import compare, datasets, generate, jobs, prompts, review, train

PAGES = [datasets, generate, prompts, review, train, compare, jobs]
