"""Records that satisfy or violate a claim; the papers' tests share them."""

from __future__ import annotations

from lmcnb.lab import facts


def sample(paper: str, claim: facts.Claim, good: bool) -> list[dict[str, object]]:
    """A record that satisfies (or violates) a claim in every cell."""
    metrics: dict[str, list[dict[str, object]]] = {}

    def put(name: str, value: float) -> None:
        metrics[name] = [
            {"seed": s, "value": value, "se": 1e-6, "diverged": False} for s in range(3)
        ]

    for cell in claim.cells():
        keys = claim.names(cell)
        value = claim.parameters.get("value", 0.0)
        far = 10.0 + abs(float(value))
        if claim.rule == "ordering":
            values = [float(len(keys) - i) for i in range(len(keys))]
            values = values if good else values[::-1]
        else:
            down = claim.rule == "at_least"
            inside = {"at_least": 0.01, "at_most": -0.01}.get(str(claim.rule), 0.0)
            shift = inside if good else (-far if down else far)
            values = [float(value) + shift + 5.0, 5.0] if len(keys) == 2 else [float(value) + shift]
        for name, number in zip(keys, values, strict=True):
            put(name, number)
    return [
        {
            "id": "paper-s0-cpu-0",
            "notebook": paper,
            "profile": claim.most,
            "status": "ok",
            "seeds": [0, 1, 2],
            "overrides": {},
            "settings": {},
            "finished": "2026-01-01",
            "metrics": metrics,
            "code": {},
        }
    ]
