"""The tasks that ``vlsae enhance`` compares before and after, one a file."""
