"""The figures of one paper a file: each has a function `costs` that returns rows."""
