"""The pages, in the order of the navigation bar. Each module has `title`, `path` and `page(studio)`."""

from studio.pages import audit, compare, datasets, generate, help, jobs, lab, prompts, report, review, train

PAGES = [datasets, generate, prompts, review, lab, audit, report, train, compare, jobs, help]
