"""The command `lmcnb`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from lmcnb.errors import UsageError, UserError

FOLDER = click.Path(file_okay=False, path_type=Path)


class Commands(click.Group):
    """A group whose user errors are one message: exit 2 for usage, 1 for failure."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a user's mistake is a message, not a traceback."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(2 if isinstance(error, UsageError) else 1)
        except KeyboardInterrupt:
            click.echo("Stopped. What was saved is kept; the same command goes on.", err=True)
            ctx.exit(130)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Reproduce papers on Langevin Monte Carlo and Bayesian learning.

    `lmcnb list` shows what there is, `lmcnb run NAME` runs it.
    """


@main.command()
@click.argument("name", required=False)
@click.option("--all", "everything", is_flag=True, help="Every notebook that exists.")
@click.option("--profile", default="quick", show_default=True, help="quick, laptop or paper.")
@click.option("--seed", type=int, default=0, show_default=True, help="The first seed.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Change a setting; may be repeated."
)
@click.option("--max-seconds", type=float, metavar="N", help="Pause, all saved, after N seconds.")
@click.option("--force", is_flag=True, help="Run again; the earlier run is moved aside.")
@click.option("--stale", is_flag=True, help="Run again where the code changed since.")
@click.option("--out-dir", type=FOLDER, help="Where runs are written. [default: runs/]")
def run(
    name: str | None,
    everything: bool,
    profile: str,
    seed: int,
    device: str,
    sets: tuple[str, ...],
    max_seconds: float | None,
    force: bool,
    stale: bool,
    out_dir: Path | None,
) -> None:
    """Execute a notebook and write its record.

    Everything is checked before anything runs. A finished run is skipped; a killed or paused one
    goes on from its last checkpoint.

    \b
    Examples:
      lmcnb run langevin_diffusion
      lmcnb run langevin_diffusion --profile laptop --max-seconds 3600
      lmcnb run langevin_diffusion --seed 3 --set n_seeds=2
    """  # noqa: D301 (click reads the control character)
    from lmcnb.lab import checkout, config, console, execute, plan

    if (name is None) != everything:
        there = ", ".join(checkout.notebooks()) or "none"
        raise UsageError(f"give one NAME, or --all; the notebooks are: {there}")
    if max_seconds is not None and not max_seconds > 0:
        raise UsageError(f"--max-seconds {max_seconds:g}: must be greater than 0")
    names = [name] if name is not None else checkout.notebooks()
    if not names:
        raise UserError(f"there is no notebook in {checkout.root() / 'notebooks'}")
    overrides = config.parse_set(sets)
    for each in names:
        checkout.notebook_path(each)
    plans = [plan.make(each, profile, seed, device, overrides, out_dir) for each in names]
    failed: list[str] = []
    for number, decided in enumerate(plans, 1):
        place = f"({number} of {len(plans)}) " if everything else ""
        click.echo(f"{place}{decided.name} [{profile}] on {decided.device}, run {decided.id}")
        try:
            outcome = execute.execute(
                decided, max_seconds=max_seconds, force=force, stale=stale, say=click.echo
            )
        except UserError as error:
            if not everything:
                raise
            click.echo(f"  failed: {error}", err=True)
            failed.append(decided.name)
        else:
            click.echo(console.outcome(decided, outcome, sets, max_seconds, out_dir))
    if everything:
        click.echo(console.summary(plans))
    if failed:
        raise UserError(f"{len(failed)} of {len(plans)} failed: {', '.join(failed)}")


@main.command("list")
@click.argument("name", required=False)
@click.option("--profile", default="quick", show_default=True, help="Whose values to show.")
def list_(name: str | None, profile: str) -> None:
    """Show the papers and their profiles; with NAME, every setting of a profile."""
    from lmcnb.lab import console

    click.echo(console.papers() if name is None else console.settings(name, profile))


@main.command()
@click.argument("name", required=False)
@click.option(
    "--format",
    "style",
    type=click.Choice(["table", "json", "markdown"]),
    default="table",
    show_default=True,
    help="How to print them.",
)
@click.option("--records", multiple=True, type=FOLDER, help="Where records lie. [default: results]")
@click.option("--readme", is_flag=True, help="Also write the tables of README.md.")
def claims(name: str | None, style: str, records: tuple[Path, ...], readme: bool) -> None:
    """Judge the papers' claims from the run records.

    Nothing is executed: the verdicts are a pure function of the records.
    """
    from lmcnb.lab import checkout, console, facts, report
    from lmcnb.lab import claims as judge

    names = facts.papers(console.facts_folder())
    if name is not None and name not in names:
        raise UsageError(checkout.unknown("paper", name, names))
    if readme and name is not None:
        raise UsageError("--readme writes the tables of all papers: leave NAME out")
    for folder in records:
        if not folder.is_dir():
            raise UsageError(f"--records {folder}: no such folder")
    evidence = judge.read_records(records or [checkout.root() / "results"])
    rows = console.judge([name] if name else names, evidence)
    click.echo(report.render(rows, style))
    if readme and report.update_readme(checkout.root() / "README.md", rows):
        click.echo("README.md: tables written", err=True)


@main.group(cls=Commands)
def data() -> None:
    """The data sets: what is there, download, check."""


@data.command("list")
def data_list() -> None:
    """Show every data set and whether its files are there (`verify` reads them)."""
    from lmcnb.lab import data as store

    for name, entry in store.registry().items():
        click.echo(f"{'there ' if store.available(name) else 'absent'}  {name:20s} {entry.title}")


@data.command("fetch")
@click.argument("names", nargs=-1, required=True)
def data_fetch(names: tuple[str, ...]) -> None:
    """Download data sets, checked by their sha256."""
    from lmcnb.lab import data as store

    _known(names, store.registry())
    for name in names:
        store.fetch(name)
        click.echo(f"{name}: there")


@data.command("verify")
@click.argument("names", nargs=-1)
def data_verify(names: tuple[str, ...]) -> None:
    """Read data sets whole and compare their checksums; without names, all that are there."""
    from lmcnb.lab import data as store

    _known(names, store.registry())
    failed = []
    for name in names or [n for n in store.registry() if store.available(n)]:
        try:
            store.verify(name)
            click.echo(f"ok      {name}")
        except UserError as error:
            click.echo(f"{'broken' if store.available(name) else 'absent'}  {name}: {error}")
            failed.append(name)
    if failed:
        raise UserError(f"{len(failed)} broken or absent: {', '.join(failed)}")


def _known(names: Sequence[str], registry: Any) -> None:
    from lmcnb.lab import checkout

    for name in names:
        if name not in registry:
            raise UsageError(checkout.unknown("data set", name, registry))


@main.command()
@click.argument("name")
def cite(name: str) -> None:
    """Print the BibTeX of a paper."""
    from lmcnb.lab import checkout

    if name not in checkout.papers():
        raise UsageError(checkout.unknown("notebook", name, checkout.papers()))
    bibtex = checkout.facts(name).get("citation", {}).get("bibtex")
    if not bibtex:
        raise UserError(f"lmcnb/papers/{name}.toml has no [citation] bibtex")
    click.echo(bibtex.strip())


@main.command()
@click.argument("name")
@click.argument("run_id", required=False)
@click.option("--force", is_flag=True, help="Overwrite a kept result that differs.")
@click.option("--no-figures", is_flag=True, help="Only the record: a part of a profile, a variant.")
@click.option("--out-dir", type=FOLDER, help="Where runs are written. [default: runs/]")
def keep(
    name: str, run_id: str | None, force: bool, no_figures: bool, out_dir: Path | None
) -> None:
    """Copy a finished run to results/ and figures/, where it is committed.

    Without RUN_ID, the finished run that was written last.
    """
    from lmcnb.lab import console
    from lmcnb.lab import keep as keeper

    written = keeper.keep(name, run_id, out_dir=out_dir, force=force, figures=not no_figures)
    for path in written:
        click.echo(console.short(path))
    if not written:
        click.echo("kept before, nothing changed")


if __name__ == "__main__":
    sys.exit(main())
