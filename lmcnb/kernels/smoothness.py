"""Whether a function is smooth enough for second derivatives to mean something.

The gradient of a network of piecewise-linear activations jumps. A gradient step is then a torn map,
and the determinant of its Jacobian no change of variables. Guaranteed: every operation that torch
executes in the one call at hand is seen. Not guaranteed: kernels from elsewhere, branches that the
call did not take, and a kink made of smooth parts (a comparison that selects).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lmcnb.errors import UsageError

KINKED = frozenset(
    [
        "relu",
        "relu_",
        "leaky_relu",
        "leaky_relu_",
        "prelu",
        "_prelu_kernel",
        "rrelu_with_noise",
        "hardtanh",
        "hardtanh_",
        "hardswish",
        "hardswish_",
        "hardsigmoid",
        "hardsigmoid_",
        "threshold",
        "threshold_",
        "clamp",
        "clamp_",
        "clamp_min",
        "clamp_min_",
        "clamp_max",
        "clamp_max_",
        "abs",
        "abs_",
        "sign",
        "sgn",
        "maximum",
        "minimum",
        "fmax",
        "fmin",
        "amax",
        "amin",
        "max",
        "min",
        "max_pool2d_with_indices",
        "softshrink",
        "hardshrink",
        "round",
        "floor",
        "ceil",
        "trunc",
        "frac",
        "fmod",
        "remainder",
        "floor_divide",
        "heaviside",
        "selu",
        "selu_",
        "adaptive_max_pool2d",
        "adaptive_max_pool3d",
        "max_pool3d_with_indices",
        "aminmax",
        "cummax",
        "cummin",
        "_cummax_helper",
        "_cummin_helper",
        "sort",
        "topk",
        "median",
        "nanmedian",
        "kthvalue",
        "mode",
        "fake_quantize_per_tensor_affine_cachemask",
    ]
)

# Operations with kinks only for some values of an argument: its place, and the values without.
SOMETIMES: dict[str, tuple[int, tuple[Any, ...]]] = {
    "elu": (1, (1, 1.0)),  # alpha
    "elu_": (1, (1, 1.0)),
    "linalg_vector_norm": (1, (2, 2.0)),  # order
    "_cdist_forward": (2, (2, 2.0)),  # order
}


class _Recorder(TorchDispatchMode):
    """Keeps the names of the operations with kinks that run under it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[-1]
        place, smooth = SOMETIMES.get(name, (len(args), ()))
        if name in KINKED or (place < len(args) and args[place] not in smooth):
            self.names.add(name)
        return func(*args, **(kwargs or {}))


def kinks(function: Callable[..., Any], *arguments: Any) -> list[str]:
    """Names of the operations with kinks that `function(*arguments)` executes, sorted."""
    with _Recorder() as recorder, torch.no_grad():
        function(*arguments)
    return sorted(recorder.names)


def require_smooth(function: Callable[..., Any], *arguments: Any) -> None:
    """Refuse a function with kinks.

    Raises:
        UsageError: it executes operations that are not smooth; they are named.
    """
    found = kinks(function, *arguments)
    if found:
        raise UsageError(
            f"the log density has kinks ({', '.join(found)}): its gradient jumps there, so that a "
            "Langevin step tears and the determinant of its Jacobian is no change of variables; "
            "take smooth activations such as GELU, tanh, softplus"
        )
