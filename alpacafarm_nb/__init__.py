"""AlpacaFarm in a notebook: simulate human feedback, train on it, and measure what it did.

Importing this package is quick, because a name's module is loaded when the name is first used.

On a busy machine, torch's threads wait for each other by counting, for up to a hundred times as long as they compute.
Unless the environment has a variable that begins with OMP_, GOMP_ or KMP_, importing this package before torch has them
sleep soon instead (`GOMP_SPINCOUNT`, which GNU's OpenMP reads when torch is loaded: on Linux). The number of threads, and
with it every figure, stays the same. Where torch was imported first, nothing is changed.
"""

__version__ = "0.1.0"

import os
import sys

import lazy_loader

SPIN = "5000"  # rounds that a thread waits for the others before it sleeps; GNU's default is 300000


def _bound_spin():
    "Bound how long torch's threads wait awake for each other, unless somebody has settled that, or torch is loaded."
    settled = any(name.startswith(("OMP_", "GOMP_", "KMP_")) for name in os.environ)
    if not settled and "torch" not in sys.modules: os.environ["GOMP_SPINCOUNT"] = SPIN


_bound_spin()

# the names are in the stub beside this file, where editors find them, too
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
