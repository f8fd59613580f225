"""One thread, here and in every process that a test starts: last digits of sums depend on it.

Libraries read these variables when they are first imported, which is after this file.
"""

import os

for library in ("OMP", "MKL", "OPENBLAS"):
    os.environ[f"{library}_NUM_THREADS"] = "1"
