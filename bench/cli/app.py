"""`iqarena`: the command line. A user error is reported in one line, with exit code 2."""

from __future__ import annotations

import json
import os
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from iqarena.bench.checkout import with_home
from iqarena.bench.cli import contribute as cli_contribute
from iqarena.bench.cli import results
from iqarena.bench.errors import UserError, exit_on_user_error
from iqarena.bench.process import keep_freed_memory, print_what_fits, shorten_waiting


class _Group(typer.core.TyperGroup):
    """The commands, for which ``~`` in a path is the home folder, also where the shell leaves it, as in ``--out=~/x``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [_with_home(arg) for arg in args])


def _with_home(argument: str) -> str:
    """Return an argument, or the value of ``--option=value``, with the home folder for a leading ``~``."""
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return f"{option}{equals}{with_home(Path(value))}" if value.startswith("~") else argument


app = typer.Typer(
    name="iqarena",
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Benchmark of the adversarial robustness of image quality models and defenses.",
)


def main() -> None:
    """Run the command line; a user error is reported in one line, without a traceback."""
    shorten_waiting()
    keep_freed_memory()
    print_what_fits()
    with exit_on_user_error("iqarena"):
        app()


class Kind(StrEnum):
    """Kinds of registry entries."""

    models = "models"
    defenses = "defenses"
    attacks = "attacks"
    datasets = "datasets"


class Executor(StrEnum):
    """Executors of cells."""

    local = "local"
    processes = "processes"
    ray = "ray"


data = typer.Typer(no_args_is_help=True, help="Data sets: required files, export and verification.")
app.add_typer(data, name="data")
app.add_typer(results.app, name="results")
app.add_typer(cli_contribute.app)


@app.command("list")
def list_(kind: Kind, json_: Annotated[bool, typer.Option("--json", help="machine-readable")] = False) -> None:
    """List a registry, including broken plugins with their errors."""
    from rich.console import Console
    from rich.table import Column

    from iqarena.bench.cli.catalogue import catalogue
    from iqarena.bench.terminal import text_table

    entries = catalogue(kind.value)
    if json_:
        typer.echo(json.dumps(entries, indent=1, ensure_ascii=False))
        return
    columns = {
        "attacks": ["access", "norms"],
        "defenses": ["kind", "surrogate"],
        "models": ["weights", "min_size"],
        "datasets": ["count", "label_kind"],
    }
    rows = []
    for entry in entries:
        facts = [" ".join(value) if isinstance(value := entry.get(c), list) else value or "" for c in columns[kind.value]]
        rows.append([entry["name"], *facts, f"broken: {entry['error']}" if entry["error"] else entry["about"]])
    headings = [column.replace("_", " ") for column in [*columns[kind.value], "about"]]
    Console().print(text_table([Column("name", no_wrap=True), *headings], rows))


@app.command()
def run(
    suite: Annotated[str, typer.Argument(help="name or YAML file of a suite; quick if left out")] = "quick",
    model: Annotated[list[str] | None, typer.Option("--model", "-m", help="instead of the suite's models")] = None,
    defense: Annotated[list[str] | None, typer.Option("--defense", "-d", help="instead of the suite's defenses")] = None,
    attack: Annotated[list[str] | None, typer.Option("--attack", "-a", help="instead of the suite's attacks")] = None,
    also_model: Annotated[list[str] | None, typer.Option(help="in addition to the suite's models")] = None,
    also_defense: Annotated[list[str] | None, typer.Option(help="in addition to the suite's defenses")] = None,
    also_attack: Annotated[list[str] | None, typer.Option(help="in addition to the suite's attacks")] = None,
    dataset: Annotated[str | None, typer.Option(help="instead of the suite's data set")] = None,
    root: Annotated[Path | None, typer.Option(help="folder of a data set that is not embedded")] = None,
    limit: Annotated[int | None, typer.Option(help="maximal number of images")] = None,
    eps: Annotated[
        str | None, typer.Option(help="one l-infinity budget instead of the suite's threats, such as 2/255")
    ] = None,
    out: Annotated[Path, typer.Option(help="results folder")] = Path("runs/latest"),
    executor: Annotated[Executor, typer.Option(help="executor of the cells")] = Executor.local,
    workers: Annotated[
        int | None, typer.Option(min=1, help="torch threads (local) or processes; all cores if left out")
    ] = None,
    address: Annotated[str | None, typer.Option(help="address of a Ray cluster; a local one is started if left out")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:N or mps, instead of the suite's")] = None,
    keep_images: Annotated[bool, typer.Option("--keep-images", help="store attacked images as 8-bit PNG")] = False,
    fresh: Annotated[bool, typer.Option(help="run finished cells again")] = False,
    isolate: Annotated[
        bool,
        typer.Option(
            "--isolate", help="craft in other processes, judge in one without attacks of others: for published numbers"
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only estimate the work and the time")] = False,
) -> None:
    """Run the missing cells of a suite. Exit 0 if all cells are ok, 3 if some failed."""
    if address is not None and executor is not Executor.ray:
        raise UserError(f"--address is of a Ray cluster, and --executor {executor.value} uses none; add --executor ray")
    if isolate and executor is not Executor.local:
        raise UserError(
            f"--isolate runs one cell after another in processes of its own; leave out --executor {executor.value}"
        )
    from iqarena.bench.executors import execute
    from iqarena.bench.executors.progress import Reporter
    from iqarena.bench.process import GO_ON, Stopped, stoppable
    from iqarena.bench.results.store import Records
    from iqarena.bench.suite import changed, load_suite, size_hints

    overrides = {
        "models": model,
        "defenses": defense,
        "attacks": attack,
        "dataset": dataset,
        "limit": limit,
        "device": device,
    }
    changes: dict[str, Any] = {name: value for name, value in overrides.items() if value is not None}
    if eps is not None:
        changes["threats"] = [{"norm": "linf", "eps": eps}]
    chosen_suite = changed(
        load_suite(suite), changes, {"models": also_model, "defenses": also_defense, "attacks": also_attack}
    )
    for hint in size_hints(chosen_suite):
        typer.echo(f"iqarena: {hint}", err=True)
    if dry_run:
        from iqarena.bench.executors.dry_run import dry_run as estimated

        for line in estimated(chosen_suite, root, Records(out), fresh, keep_images, isolate):
            typer.echo(line)
        return
    with Reporter() as report:
        try:
            with stoppable():
                outcome = execute(
                    chosen_suite, root, Records(out), report, executor.value, workers, fresh, address, keep_images, isolate
                )
            report.summary(outcome, out)
            sys.stdout.flush()
        except Stopped as stopped:
            typer.echo(GO_ON, err=True)
            raise typer.Exit(stopped.code) from None
        except BrokenPipeError:  # whoever read the output has gone, as `| head -1` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that nothing fails once more at the exit
            typer.echo(GO_ON, err=True)
            raise typer.Exit(128 + signal.SIGPIPE) from None
    if outcome.failed:
        raise typer.Exit(3)


@app.command()
def leaderboard(
    results: Annotated[Path, typer.Option(help="results folder")] = Path("results"),
    out: Annotated[Path, typer.Option(help="folder for leaderboard.md")] = Path(),
    check: Annotated[bool, typer.Option("--check", help="write nothing; exit 1 where the committed files differ")] = False,
    prune: Annotated[bool, typer.Option("--prune-images", help="delete stored images that are not shown")] = False,
) -> None:
    """Render leaderboard.md, its plots and its page from the records."""
    if check and prune:
        raise UserError("--check writes nothing and --prune-images deletes images; give one of them")
    from iqarena.bench.leaderboard import render as board
    from iqarena.bench.results.store import Records

    records = Records(results)
    if check:
        differences = board.check(records, out)
        for line in differences:
            typer.echo(line)
        if differences:
            raise typer.Exit(1)
        typer.echo(f"{out / 'leaderboard.md'} and its plots are what {results} says")
        return
    for path in board.render(records, out):
        typer.echo(path)
    if prune:
        typer.echo(f"{board.prune_images(records)} kept images deleted")


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="a defense or an attack")],
    second: Annotated[str, typer.Argument(metavar="B", help="another one")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="on this model only")] = None,
    results: Annotated[Path, typer.Option(help="results folder")] = Path("results"),
    out: Annotated[Path, typer.Option(help="folder for the table and the plots")] = Path("runs/compare"),
) -> None:
    """Compare two defenses or two attacks on the same images, with confidence intervals."""
    from rich.console import Console

    from iqarena.bench.cli.comparison_table import print_comparisons, write
    from iqarena.bench.results.comparison import compare as compared
    from iqarena.bench.results.curves import effort_curves
    from iqarena.bench.results.store import Records

    records = Records(results)
    comparisons = compared(records, first, second, model)
    print_comparisons(comparisons, Console())
    for path in write(comparisons, out, effort_curves(records)):
        typer.echo(path)


@app.command()
def attack(
    image: Annotated[Path, typer.Argument(help="an 8-bit RGB image")],
    model: Annotated[str, typer.Option("--model", "-m")],
    attack_: Annotated[str, typer.Option("--attack", "-a")],
    defense: Annotated[str, typer.Option("--defense", "-d")] = "none",
    objective: Annotated[
        str | None, typer.Option(help="raise, lower, reflect, away or target; the attack's usual one if left out")
    ] = None,
    norm: Annotated[str | None, typer.Option(help="linf, l2, l0, patch or ssim; the attack's usual one if left out")] = None,
    eps: Annotated[
        str | None,
        typer.Option(help="budget of the threat model: linf 2/255, l2 1, l0 0.001, patch 0.02, ssim 0.05 if left out"),
    ] = None,
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="folder for the images")] = Path("runs/attack"),
) -> None:
    """Attack one image; write it before and after, the difference ×16, scores and norms."""
    from iqarena.bench.cli.attack_image import attack_image

    report = attack_image(image, model, defense, attack_, objective, norm, eps, seed, out)
    for name, value in report.items():
        typer.echo(f"{name:24} {value}")


@app.command()
def explain(
    image: Annotated[Path, typer.Argument(help="an 8-bit RGB image")],
    model: Annotated[str, typer.Option("--model", "-m")],
    defense: Annotated[str, typer.Option("--defense", "-d", help="cprl or cprl-sortmask")] = "cprl",
    attack_: Annotated[str, typer.Option("--attack", "-a", help="crafted through the defense")] = "score-reflection-away",
    eps: Annotated[str, typer.Option(help="radius of the l-infinity ball")] = "2/255",
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="folder for image and table")] = Path("runs/explain"),
) -> None:
    """Show CPR and N-CPR maps, channels and the swap test of a clean image and the attacked one."""
    from iqarena.bench.cli.explain import explain as explained
    from iqarena.bench.cli.explain import write

    explanation = explained(image, model, defense, attack=attack_, eps=eps, seed=seed)
    typer.echo(explanation.swaps.to_string(index=False, float_format="%.3f"))
    typer.echo(f"channels: {explanation.overlap_text}")
    for path in write(explanation, image.stem, out):
        typer.echo(path)


@app.command()
def train(
    model: Annotated[str, typer.Option("--model", "-m")],
    defense: Annotated[str, typer.Option("--defense", "-d", help="a training recipe; none is plain regression")] = "none",
    dataset: Annotated[str, typer.Option(help="labelled images")] = "folder",
    root: Annotated[Path | None, typer.Option(help="its folder")] = None,
    start: Annotated[Path | None, typer.Option(help="undefended weights to start from")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="file with ImageNet weights of the backbone, or imagenet: torchvision fetches them")
    ] = None,
    passes: Annotated[int, typer.Option(min=1, help="budget in forward+backward passes of one image")] = 600_000,
    batch: Annotated[int, typer.Option(min=2)] = 32,
    crop: Annotated[int, typer.Option(min=32)] = 128,
    learning_rate: Annotated[float, typer.Option(min=1e-8)] = 2e-3,
    ema: Annotated[
        float, typer.Option(min=0, max=0.99999, help="decay per step of the averaged weights, which are saved")
    ] = 0.999,
    seed: int = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="torch threads; all cores if left out")] = None,
    workers: Annotated[int, typer.Option(min=0, help="processes that decode, crop and batch images")] = 1,
    label: Annotated[str, typer.Option(help="distinguishes these weights from others of the recipe: weights=LABEL")] = "",
    out: Annotated[Path, typer.Option(help="folder for weights and card")] = Path("runs/weights"),
) -> None:
    """Train a recipe; write safetensors and a card. An interrupted training is resumed."""
    from iqarena.bench.datasets import open_dataset
    from iqarena.bench.executors.progress import TrainingReporter
    from iqarena.bench.process import use_threads
    from iqarena.bench.training import fit
    from iqarena.defenses.training.loop import Schedule

    if threads is not None:
        use_threads(threads)
    schedule = Schedule(passes, batch, crop, learning_rate, ema=ema, seed=seed, workers=workers)
    with TrainingReporter() as report:
        written = fit(
            model,
            defense,
            open_dataset(dataset, root),
            schedule,
            out,
            start=start,
            backbone=backbone,
            label=label,
            report=report,
        )
    typer.echo(f"{written}\n{written.with_suffix('.yaml')}")


@data.command("list")
def data_list(
    dataset: Annotated[str | None, typer.Argument(help="registry name; all if left out")] = None,
    root: Annotated[Path | None, typer.Option(help="a folder in which they are searched")] = None,
    json_: Annotated[bool, typer.Option("--json", help="machine-readable")] = False,
) -> None:
    """List the files that a data set needs and, given a folder, whether they are there."""
    from rich.console import Console

    from iqarena.bench.datasets.requirements import needs, table

    rows = needs(dataset, root)
    if json_:
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        Console().print(table(rows))


@data.command("export")
def data_export(
    dataset: Annotated[str, typer.Argument(help="registry name")],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="folder for the images")],
    root: Annotated[Path | None, typer.Option(help="its folder")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="maximal number of images, chosen as by run --limit")] = None,
) -> None:
    """Write clean images as PNG, to attack them with any code and submit the result with `iqarena submit images`."""
    from iqarena.bench.datasets import open_dataset
    from iqarena.bench.submission.submit import export

    typer.echo(f"{out}: {export(open_dataset(dataset, root), limit, out)} images")


@data.command("verify")
def data_verify(
    dataset: Annotated[str, typer.Argument(help="registry name")],
    root: Annotated[Path | None, typer.Option(help="its folder")] = None,
    json_: Annotated[bool, typer.Option("--json", help="machine-readable")] = False,
) -> None:
    """Verify the labels and every image of a data set; write nothing. Exit 0 if it is complete, 2 if not."""
    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import Progress, TextColumn
    from rich.table import Column

    from iqarena.bench.datasets.verify import verify
    from iqarena.bench.terminal import text_table

    bars = [TextColumn("{task.description}", markup=False), *Progress.get_default_columns()[1:]]
    with Progress(*bars, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(f"looking at {dataset}")
        images, problems = verify(dataset, root, lambda done, all_: progress.update(task, completed=done, total=all_))
    if json_:
        rows = [asdict(problem) for problem in problems]
        typer.echo(json.dumps({"dataset": dataset, "images": images, "problems": rows}, indent=1, ensure_ascii=False))
    elif problems:
        columns = [Column(name, overflow="fold") for name in ("kind", "file", "about")]
        Console().print(text_table(columns, [(problem.kind, problem.file, problem.about) for problem in problems]))
    if problems:
        typer.echo(f"iqarena: {dataset} has {len(problems):,} problem(s) in {images:,} labelled images", err=True)
        raise typer.Exit(2)
    if not json_:
        typer.echo(f"{dataset} is whole: {images:,} images")
