"""Win rates, length control, agreement and rankings from tables of verdicts; needs neither torch nor a model."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
