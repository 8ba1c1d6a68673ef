"""Training of adapters: the run file, its data, the loop, and the folder that it leaves."""
