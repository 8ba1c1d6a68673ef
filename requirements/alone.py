"""`python alone.py FILE COMMAND...`: runs the command once no other that was started so, with the same file, still runs."""

import fcntl
import os
import sys

held = open(sys.argv[1])  # noqa: SIM115 - the command takes it over; the kernel lets go of it when that ends, however it ends
try:
    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print(f"waiting for another `make` that holds {sys.argv[1]}", flush=True)
    fcntl.flock(held, fcntl.LOCK_EX)
os.set_inheritable(held.fileno(), True)
os.execvp(sys.argv[2], sys.argv[2:])
