"""The commands of `gossamer` that are more than one function of the library with its arguments."""
