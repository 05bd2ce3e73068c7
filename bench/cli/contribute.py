"""The commands of `iqarena` for contributors: `new`, `check`, `submit`, `verify`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from iqarena.bench.submission.bundle import Manifest

app = typer.Typer()
submit = typer.Typer(no_args_is_help=True, help="Pack a contribution into a bundle that others can verify.")
app.add_typer(submit, name="submit")

Root = Annotated[Path | None, typer.Option(help="folder of a data set that is not embedded")]
Out = Annotated[Path | None, typer.Option(help="the bundle; ./NAME.zip if left out")]


class Kind(StrEnum):
    """Kinds of plugins."""

    attack = "attack"
    defense = "defense"
    model = "model"


class Norm(StrEnum):
    """Norms of threat models."""

    linf = "linf"
    l2 = "l2"
    l0 = "l0"
    patch = "patch"
    ssim = "ssim"


@app.command()
def new(
    kind: Kind,
    name: Annotated[str, typer.Argument(help="registry name: small letters, digits and dashes")],
    package: Annotated[
        Path | None,
        typer.Option(help="folder of a separate package; if left out, the checkout, or ./iqarena-NAME outside of one"),
    ] = None,
) -> None:
    """Write a plugin and its test, which pass unchanged, with TODOs for your idea."""
    from iqarena.bench.cli.new import new as written

    files, after = written(kind.value, name, package)
    for file in files:
        typer.echo(file)
    typer.echo(f"next: replace the TODOs; then {'; '.join(after)}")


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="a registry name, or a file: .py with classes, or a network (.pt, .onnx)")],
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="model for the comparison of attacks and defenses; two small ones if left out"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=0, help="images of that comparison; 0 skips it and the check of strength")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="machine-readable")] = False,
) -> None:
    """Check whether a plugin does what it declares. Exit 0 if all checks pass, 1 if not."""
    from rich.console import Console

    from iqarena.bench.checks.run import check as checked

    reports = checked(name, model or (), limit)
    if json_:
        typer.echo(json.dumps([report.as_data() for report in reports], indent=1, ensure_ascii=False))
    else:
        for report in reports:
            Console().print(*report.tables(), sep="\n")
    if not all(report.ok for report in reports):
        raise typer.Exit(1)


@submit.command("attack")
def submit_attack(
    name: Annotated[str, typer.Argument(help="a registry name, or file:path.py:Class")],
    results: Annotated[Path, typer.Option(help="folder with its records, from iqarena run")] = Path("runs/latest"),
    root: Root = None,
    out: Out = None,
) -> None:
    """Pack an attack: its source, its records, and some attacked images of each cell."""
    from iqarena.bench.executors.progress import Reporter
    from iqarena.bench.submission.submit import submit_attack as packed

    file = out or _zip(name)
    with Reporter() as report:
        manifest = packed(name, results, root, file, report)
    _print_manifest(manifest, file)


@submit.command("images")
def submit_images(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a PNG per image, named after its image id")],
    model: Annotated[str, typer.Option("--model", "-m", help="a listed model")],
    eps: Annotated[str, typer.Option(help="budget of the threat model, such as 2/255")],
    defense: Annotated[str, typer.Option("--defense", "-d", help="a listed defense")] = "none",
    dataset: Annotated[str, typer.Option(help="data set of the attacked images")] = "demo",
    norm: Annotated[Norm, typer.Option(help="norm of the threat model")] = Norm.linf,
    name: Annotated[str, typer.Option(help="name of the attack")] = "images",
    root: Root = None,
    out: Out = None,
) -> None:
    """Pack adversarial images without code, however they were made; `iqarena data export` writes the clean ones."""
    from iqarena.bench.submission.submit import submit_images as packed

    file = out or _zip(name)
    manifest = packed(folder, model, defense, dataset, eps, norm.value, name, root, file)
    _print_manifest(manifest, file)


@submit.command("defense")
def submit_defense(
    weights: Annotated[
        Path, typer.Argument(metavar="FILE.safetensors", help="what iqarena train wrote, its card beside it")
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="the trained model")],
    defense: Annotated[str, typer.Option("--defense", "-d", help="the recipe of the training")],
    name: Annotated[str | None, typer.Option(help="name of the defense; RECIPE-submitted if left out")] = None,
    suite: Annotated[str, typer.Option(help="suite of the attacks on it")] = "quick",
    attack: Annotated[list[str] | None, typer.Option("--attack", "-a", help="instead of the suite's attacks")] = None,
    dataset: Annotated[str | None, typer.Option(help="instead of the suite's data set")] = None,
    limit: Annotated[int | None, typer.Option(help="maximal number of images")] = None,
    results: Annotated[Path, typer.Option(help="results folder")] = Path("runs/submit"),
    root: Root = None,
    out: Out = None,
) -> None:
    """Pack trained weights and their card, with their results under the attacks of a suite."""
    from iqarena.bench.executors.progress import Reporter
    from iqarena.bench.registry import parse_spec
    from iqarena.bench.submission.submit import submit_defense as packed

    name = name or f"{parse_spec(defense)[0]}-submitted"
    overrides = {"attacks": attack, "dataset": dataset, "limit": limit}
    changes = {key: value for key, value in overrides.items() if value is not None}
    file = out or _zip(name)
    with Reporter() as report:
        manifest = packed(weights, model, defense, name, suite, changes, root, results, file, report)
    _print_manifest(manifest, file)


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="what iqarena submit wrote")],
    run_code: Annotated[
        bool,
        typer.Option(
            "--run-code", help="run the code of an attack, in a process with limits; not a secure sandbox: see the docs"
        ),
    ] = False,
    seconds: Annotated[int, typer.Option(min=1, help="limit of that process: time in seconds")] = 3600,
    memory: Annotated[int, typer.Option(min=1, help="limit of that process: MiB of data")] = 8192,
    results: Annotated[
        Path, typer.Option(help="results folder of the leaderboard with which submitted images are compared")
    ] = Path("results"),
    root: Root = None,
    json_: Annotated[bool, typer.Option("--json", help="machine-readable")] = False,
) -> None:
    """Measure a submission again. Exit 0 if it is as claimed, 1 if not, 2 if it is refused."""
    from iqarena.bench.cli.verdict_table import print_verdict, verdict_as_data
    from iqarena.bench.submission.sandbox import Limits
    from iqarena.bench.submission.verify import verify as verified

    limits = Limits(seconds=seconds, memory_mib=memory)
    verdict = verified(bundle, root, run_code, limits, lambda message: typer.echo(message, err=True), results)
    if json_:
        typer.echo(json.dumps(verdict_as_data(verdict), indent=1, ensure_ascii=False))
    else:
        print_verdict(verdict)
    if not verdict.ok:
        raise typer.Exit(1)


def _zip(name: str) -> Path:
    """Return the name of the zip file for any name of a submission."""
    return Path("".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name).strip("-") + ".zip")


def _print_manifest(manifest: Manifest, file: Path) -> None:
    size, cells = file.stat().st_size / 2**20, len(manifest.claims)
    typer.echo(f"{file}: {manifest.kind} {manifest.name}, {cells} cell{'s' * (cells != 1)}, {size:.1f} MiB")
    typer.echo(f"next: iqarena verify {file}")
