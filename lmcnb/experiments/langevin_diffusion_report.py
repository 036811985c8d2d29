"""What the runs of Langevin diffusion VI leave in the record, and the checks beside them.

Every function enters its numbers into a run (`lab.start`) and returns rows for a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lmcnb.experiments.langevin_diffusion import (
    MEAN_FIELD,
    target,
)
from lmcnb.lab import facts
from lmcnb.lab.claims import compare
from lmcnb.methods.langevin_diffusion import METHODS


def record(run: Any, results: Sequence[dict[str, Any]]) -> None:
    """Enter results into the run's record, under `elbo/...`, `log_z/...` and `last_500/...`."""
    for result in results:
        cell = result["cell"]
        name = cell.get("label", cell["target"])
        last = "MF" if cell["method"] == MEAN_FIELD else f"K={cell['bridges']}/{cell['method']}"
        run.count("score evaluations", result["score_evaluations"])
        for own in result["seeds"]:
            note = None
            if own["diverged_at"] is not None:
                rate = result["learning_rate"]
                note = f"diverged at iteration {own['diverged_at']}, learning rate {rate}"
            for key, metric, estimator in (
                ("elbo", "elbo", "mean log weight of fresh chains"),
                ("log_z", "log_z", "log-mean-exp of fresh chains, biased low"),
            ):
                estimate = own[key] or {"value": None, "se": None, "n": None}
                run.metric(
                    f"{metric}/{name}/{last}",
                    estimate["value"],
                    se=estimate["se"],
                    n=estimate["n"],
                    seed=own["seed"],
                    estimator=estimator,
                    diverged=own["diverged_at"] is not None,
                    note=note,
                )
            if own["last_500_losses"] is not None:
                run.metric(
                    f"last_500/{name}/{last}",
                    own["last_500_losses"],
                    seed=own["seed"],
                    estimator="mean of the last 500 training losses, as the paper reports",
                    split="training",
                )


def methods() -> list[dict[str, Any]]:
    """Rows of the table METHODS, one a method, as a reader wants them."""
    return [
        {
            "method": m.name,
            "move": m.move,
            "forward refresh": "none" if m.move == "overdamped" else m.forward,
            "refresh undone": "none" if m.move == "overdamped" else m.backward,
            "network sees": m.network or "no network",
            "source": m.source,
        }
        for m in METHODS.values()
    ]


def summary(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of (target, K, one column per method): mean ELBO over seeds, standard error."""
    table: dict[tuple[str, int], dict[str, Any]] = {}
    for result in results:
        cell = result["cell"]
        if cell["method"] == MEAN_FIELD:
            continue
        key = (cell.get("label", cell["target"]), cell["bridges"])
        row = table.setdefault(key, {"target": key[0], "K": key[1]})
        lost = sum(own["elbo"] is None for own in result["seeds"])
        diverged = f"{lost} of {len(result['seeds'])} seeds diverged"
        row[cell["method"]] = diverged if lost else mean_elbo(result)
    return list(table.values())


def mean_elbo(result: dict[str, Any]) -> tuple[float, float] | None:
    """Mean ELBO over seeds and its standard error; None if a seed diverged."""
    if any(own["elbo"] is None for own in result["seeds"]):
        return None
    values = torch.tensor([own["elbo"]["value"] for own in result["seeds"]], dtype=torch.float64)
    errors = torch.tensor([own["elbo"]["se"] for own in result["seeds"]], dtype=torch.float64)
    n = len(values)
    monte_carlo = float(errors.square().sum().sqrt()) / n
    spread = float(values.std()) / n**0.5 if n > 1 else 0.0
    return float(values.mean()), max(monte_carlo, spread)


def results_table(records: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The paper, its replication and our recorded runs on one target: rows by K and source.

    Printed numbers stand as printed, with their standard deviation (sd); ours with ± one standard
    error.
    """
    sources: dict[str, list[dict[str, Any]]] = {}
    for source, profile, metric in (
        ("ours, laptop", "laptop", "elbo"),
        ("ours, paper", "paper", "elbo"),
        ("ours, paper, last 500 losses", "paper", "last_500"),
    ):
        found = compare("langevin_diffusion", records, f"{metric}/{name}/", profile=profile)
        sources[source] = [row | {"value": _with_lost(row)} for row in found]
    both = sources["ours, paper"]
    sources = {
        "paper": [row | {"value": _printed(row["paper"], 1)} for row in both],
        "replication": [row | {"value": _printed(row["replication"], 2)} for row in both],
    } | sources
    table: dict[tuple[int, int], dict[str, Any]] = {}
    for order, (source, rows) in enumerate(sources.items()):
        for row in rows:
            parts = row["metric"].split("/")
            if len(parts) != 4 or row["value"] is None:
                continue
            K = int(parts[2].removeprefix("K="))
            own = table.setdefault((K, order), {"K": K, "source": source})
            own[parts[3]] = row["value"]
    columns = ["K", "source", *(m for m in METHODS if any(m in row for row in table.values()))]
    return [{c: table[key].get(c) for c in columns} for key in sorted(table)]


def _printed(pair: tuple[float, float | None] | None, digits: int) -> str | None:
    """A number as it was printed, and its standard deviation."""
    if pair is None:
        return None
    return f"{pair[0]:.{digits}f}" + (f" (sd {pair[1]:.2g})" if pair[1] else "")


def _with_lost(row: dict[str, Any]) -> Any:
    """Our value of a compared row; words instead where seeds diverged."""
    if not row["diverged"]:
        return _ours(row["ours"])
    value = row["ours"][0]
    kept = f"{row['seeds'] - row['diverged']} of {row['seeds']} seeds"
    return "diverged" if value is None else f"{value:.2f} ({kept})"


def _ours(pair: tuple[float, float | None] | None) -> str | None:
    """Our mean over seeds ± one standard error."""
    if pair is None:
        return None
    value, se = pair
    return f"{value:.2f}" if se is None else f"{value:.2f} ± {se:.3f}"


def _table(identity: str) -> dict[str, float]:
    """Metric names and values of one table of the paper's facts."""
    tables = {t.id: t.entries for t in facts.load("langevin_diffusion").table}
    values = {metric: entry["value"] for metric, entry in tables[identity].items()}
    return {metric: value for metric, value in values.items() if value is not None}


def published() -> dict[str, float]:
    """The paper's ELBOs by metric name."""
    return _table("paper")


def known_log_z(targets: Sequence[str]) -> dict[str, float]:
    """Reference log Z (nats) of the targets that have one."""
    reference = {m.split("/")[1]: v for m, v in _table("log_z").items()}
    own = {t: getattr(target(t), "log_normalizer", None) for t in targets if t not in reference}
    found: dict[str, float | None] = {**reference, **own}
    return {t: v for t, v in found.items() if t in targets and v is not None}


def sanity(
    results: Sequence[dict[str, Any]],
    mean_field: Sequence[dict[str, Any]],
    log_z: dict[str, float],
) -> list[str]:
    """Statements that hold at any scale, with their verdicts."""
    floors = {r["cell"]["target"]: mean_elbo(r) for r in mean_field}
    elbos = {
        (r["cell"]["target"], r["cell"]["method"], r["cell"]["bridges"]): mean_elbo(r)
        for r in results
    }
    most = max(K for _, _, K in elbos)
    kept = {key: value for key, value in elbos.items() if value is not None}
    below = [v[0] < log_z[t] + 4 * v[1] for (t, _, _), v in kept.items() if t in log_z]
    above = [
        v[0] > f[0] - 4 * v[1] for (t, _, K), v in kept.items() if most == K and (f := floors[t])
    ]
    logistic = ("breast_cancer", "sonar", "ionosphere", "a1a")
    gains = [
        v[0] > kept[t, "ULA", K][0]
        for (t, m, K), v in kept.items()
        if m == "UHA" and t in logistic and (t, "ULA", K) in kept
    ]
    diverged = len(elbos) - len(kept)
    return [
        f"no ELBO above log Z (four standard errors): {_verdict(below)}",
        f"with K = {most} no method below plain variational inference: {_verdict(above)}",
        f"UHA above ULA on the logistic regressions: {_verdict(gains)}",
        f"cells with a diverged seed: {diverged}",
    ]


def _verdict(holds: Sequence[bool]) -> str:
    if not holds:
        return "nothing to compare"
    return "yes" if all(holds) else f"NO, {sum(holds)} of {len(holds)}"


def lorenz_values(results: Sequence[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Highest ELBO over K of each method on Lorenz, and its error; empty if none was run.

    The errors are standard errors of means over seeds; the name has the K.
    """
    best: dict[str, tuple[float, float, str]] = {}

    def offer(name: str, K: int, value: tuple[float, float]) -> None:
        if name not in best or value[0] > best[name][0]:
            best[name] = (*value, f", K = {K}" if K else "")

    for result in results:
        cell, found = result["cell"], mean_elbo(result)
        if cell["target"] != "lorenz" or found is None:
            continue
        start = "published start" if cell.get("label") == "lorenz_published" else "Laplace"
        offer(f"{cell['method']}, ours, {start}", cell["bridges"], found)
    if not best:
        return {}
    tables = {t.id: t.entries for t in facts.load("langevin_diffusion").table}
    for metric, entry in (tables["paper_vi"] | tables["paper"]).items():
        _, where, *K, method = metric.split("/")
        shown = method in ("MF", "ULA", "MCD", "UHA", "LDVI") and where == "lorenz_published"
        if shown and entry["value"] is not None:
            bridges = int(K[0].removeprefix("K=")) if K else 0
            offer(f"{method}, paper", bridges, (entry["value"], (entry["sd"] or 0.0) / 3**0.5))
    named = {f"{name}{K}": (value, se) for name, (value, se, K) in best.items()}
    return dict(sorted(named.items(), key=lambda item: item[1]))


def this_run(run: Any, results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """This run beside the paper, for the cells that both have."""
    known = published()
    rows = []
    for result in results:
        cell = result["cell"]
        metric = f"elbo/{cell.get('label', cell['target'])}/K={cell['bridges']}/{cell['method']}"
        if metric in known:
            rows.append(
                {"target": cell["target"], "K": cell["bridges"], "method": cell["method"]}
                | {"paper": known[metric], f"this run ({run.profile})": mean_elbo(result)}
            )
    return rows
