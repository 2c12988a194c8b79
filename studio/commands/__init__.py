"""The commands of `winnow`, a module for each group of them; studio.cli puts them together."""
