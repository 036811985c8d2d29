"""The laboratory: what turns a computation into a reproducible result.

The names are imported when they are first used, so that `lmcnb --help` does not load torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "start": "lmcnb.lab.run",
    "Run": "lmcnb.lab.run",
    "progress": "lmcnb.lab.bars",
    "load": "lmcnb.lab.data",
    "style": "lmcnb.lab.figures",
    "curve": "lmcnb.lab.figures",
    "method_style": "lmcnb.lab.figures",
    "save_figure": "lmcnb.lab.figures",
    "show": "lmcnb.lab.display",
    "table": "lmcnb.lab.display",
    "claims_table": "lmcnb.lab.display",
    "recorded_figure": "lmcnb.lab.display",
    "ledger": "lmcnb.lab.display",
    "cite": "lmcnb.lab.display",
    "read_records": "lmcnb.lab.evidence",
    "Paused": "lmcnb.errors",
    "UserError": "lmcnb.errors",
    "UsageError": "lmcnb.errors",
}


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        value = getattr(importlib.import_module(_EXPORTS[name]), name)
    else:
        try:
            value = importlib.import_module(f"lmcnb.lab.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"lmcnb.lab.{name}":
                raise
            raise AttributeError(f"module 'lmcnb.lab' has no attribute {name!r}") from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
