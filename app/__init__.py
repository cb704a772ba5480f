"""The program: sources, loops, windows and writers; the only place with threads."""

import os

# Lifting and fitting multiply small matrices, for which threads of the linear algebra library cost
# more than they bring (ten times as much on two busy cores). It reads this once, when numpy is
# imported, which happens after this line in our own commands.
for _name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
