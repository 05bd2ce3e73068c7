"""``python -m iqarena.bench.study``: train the weights of the study, write its suite, and write docs/cprl.md."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from iqarena.bench.errors import UserError, exit_on_user_error
from iqarena.bench.executors.progress import TrainingReporter
from iqarena.bench.process import use_threads
from iqarena.bench.results.store import Records
from iqarena.bench.study import page as pages
from iqarena.bench.study import suite as suites
from iqarena.bench.study.numbers import findings
from iqarena.bench.study.search import share
from iqarena.bench.study.training import trainings
from iqarena.bench.study.variants import SEEDS, available, trained_variants

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True)


@app.command()
def train(
    root: Annotated[Path, typer.Option(help="labelled images to train on")],
    start: Annotated[Path, typer.Option(help="undefended weights that every training starts from")],
    out: Annotated[Path, typer.Option(help="folder for the weights; $IQARENA_WEIGHTS for the suite")],
    part: Annotated[str, typer.Option(help="K/N: every N-th training from the K-th on, for N processes")] = "",
    print_: Annotated[bool, typer.Option("--print", help="only print the commands of what is missing")] = False,
    threads: Annotated[int | None, typer.Option(min=1)] = None,
) -> None:
    """Train the missing weights, seed by seed; an interrupted training is resumed."""
    if threads:
        use_threads(threads)
    for training in share(list(trainings()), part):
        if training.file(out).is_file():
            continue
        if print_:
            typer.echo(training.command(root, start, out))
            continue
        typer.echo(f"{training.variant.name}, seed {training.seed}")
        with TrainingReporter() as report:
            typer.echo(training.run(root, start, out, report))


@app.command()
def suite(
    sections: Annotated[list[str] | None, typer.Argument(help="only these sections, to be run alone")] = None,
    have: Annotated[bool, typer.Option("--at-hand", help="only of weights that exist")] = False,
    seed: Annotated[list[int] | None, typer.Option(help="only of weights with these seeds")] = None,
    write: Annotated[bool, typer.Option("--write", help=f"write the whole suite to {suites.PATH.name}")] = False,
) -> None:
    """Print the suite, or sections of it."""
    if write:
        suites.PATH.write_text(suites.text(), encoding="utf-8")
        typer.echo(suites.PATH)
    else:
        if unknown := set(seed or ()) - set(SEEDS):
            raise UserError(f"no seed {min(unknown)}; the study has {', '.join(map(str, SEEDS))}")
        runs = trained_variants(seeds=seed or SEEDS)
        typer.echo(suites.text(sections or (), available(runs) if have else runs), nl=False)


@app.command()
def page(
    results: Annotated[Path, typer.Option(help="results folder of the suite")],
    search: Annotated[
        Path | None, typer.Option(help="search.csv of `iqarena.bench.study.search`; the one in docs/cprl if left out")
    ] = None,
    docs: Annotated[Path, typer.Option(help="folder for cprl.md and the folder cprl")] = Path("docs"),
) -> None:
    """Write docs/cprl.md, its plots and its tables of numbers from the records."""
    for path in pages.write(findings(Records(results)), search, docs):
        typer.echo(path)


def main() -> None:
    """Run the command line."""
    with exit_on_user_error("study"):
        app()


if __name__ == "__main__":
    main()
