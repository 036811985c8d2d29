"""What every benchmark does with its ratios: judge them, print them, write them to a file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from lmcnb.errors import UserError
from lmcnb.lab import checkout, files, fingerprint, machine

Targets = Mapping[str, tuple[str, float]]  # by ratio: at_least or at_most, and the bound
Result = dict[str, Any]


def judged(
    name: str, ratios: Mapping[str, float], targets: Targets, seconds: Mapping[str, float]
) -> Result:
    """The result: ratios, whether each target is met, and times.

    Args:
        name: of the benchmark, and of its file.
        ratios: by name; one that is not a number misses its target.
        targets: of some of the ratios.
        seconds: per call of every program.
    """
    ratios = {key: round(value, 3) for key, value in ratios.items()}
    missed = [
        key
        for key, (rule, bound) in targets.items()
        if not (ratios[key] >= bound if rule == "at_least" else ratios[key] <= bound)
    ]
    return {
        "benchmark": name,
        "ratios": ratios,
        "targets": {key: dict([rule]) for key, rule in targets.items()},
        "meets_targets": not missed,
        "missed": missed,
        "milliseconds": {key: round(1e3 * value, 3) for key, value in seconds.items()},
        "threads": torch.get_num_threads(),
    }


def table(heads: list[str], per: str, result: Mapping[str, Any]) -> str:
    """The ratios with their targets, and the times, as text.

    Args:
        heads: first lines.
        per: what the times are of, such as `call`.
        result: from `judged`.
    """
    lines = list(heads)
    for name, value in result["ratios"].items():
        rule = " ".join(
            f"{k.replace('_', ' ')} {v:g}" for k, v in result["targets"].get(name, {}).items()
        )
        mark = "missed" if name in result["missed"] else "met" if rule else ""
        lines.append(f"  {name:<24}{value:>9.2f}  {rule:<14} {mark}".rstrip())
    lines.append(f"milliseconds per {per}")
    lines += [f"  {name:<24}{value:>11.3f}" for name, value in result["milliseconds"].items()]
    return "\n".join(lines)


def main(
    about: str | None,
    measure: Callable[[], Result],
    quick: Callable[[], Result],
    show: Callable[[Result], str],
    arguments: list[str] | None = None,
) -> None:
    """Measure on one thread, print the table and one JSON line, write the file.

    Args:
        about: the text of `--help`.
        measure: all of it.
        quick: one short round.
        show: the table of a result.
        arguments: of the command line; default: this process's.
    """
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="one short round: numbers mean little; no file"
    )
    parser.add_argument("--out", type=Path, help="where to write the JSON file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    result = quick() if options.quick else measure()
    print(show(result))
    out = options.out
    if out is None and not options.quick:
        out = checkout.root() / "results" / "benchmarks" / f"{result['benchmark']}.json"
    if out is not None:
        where = {
            "machine": machine.describe(),
            "versions": machine.versions(),
            **fingerprint.commit(),
        }
        files.write_json(out, {**result, **where})
    print(json.dumps(result))


def script(run: Callable[[], None]) -> None:
    """Run `main` of a benchmark; a user's error is one line on stderr and exit status 1."""
    try:
        run()
    except UserError as error:
        sys.exit(f"error: {error}")
