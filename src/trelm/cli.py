"""The command line: parse, call, print. A mistake of the user's is one line and exit code 2."""

from __future__ import annotations

import importlib
import json
import shlex
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.exceptions import TyperException

from trelm.config import RECIPES, Config, dump_config, load_config, make_config, override_values
from trelm.errors import ConfigError, TrelmError
from trelm.processes import is_first

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Move a pretrained encoder to another language.",
    epilog="--debug with any command: a traceback before the line that says what went wrong.",
    rich_markup_mode=None,
)
config_commands = typer.Typer(help="Show or check a configuration.")
app.add_typer(config_commands, name="config")

INTERRUPTED = 130
TEMPORARY = (
    "no --run: what is prepared goes into a temporary folder, which is removed at the end; with --run FOLDER "
    "`trelm transfer` can go on from there"
)
PREPARE_HELP = "prepare only, and write what the cells need to this new folder, for another machine"
MINUTES_HELP = "with --run-prepared: begin no cell that would not end in so many minutes"
TASKS_HELP = "YAML file with evaluation sets under `evaluation`, or a run's configuration"

ConfigPath = Annotated[Path, typer.Argument(help="YAML configuration")]
RunFolder = Annotated[Path, typer.Argument(help="run folder")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="override a setting: budget.minutes=30")]
Quiet = Annotated[bool, typer.Option("--quiet", help="print no progress")]
AsJson = Annotated[bool, typer.Option("--json", help="print the result as JSON on standard output")]


@app.command()
def transfer(
    config: ConfigPath,
    run: Annotated[Path, typer.Option("--run", help="run folder, made or gone on with")],
    until: Annotated[str | None, typer.Option(help="stop after this step")] = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """All steps that are not done yet; run it again to resume. Prints where the model and the report are."""
    resolved = load_config(config, overrides or ())
    _transfer(resolved, run, until=until, quiet=quiet, as_json=as_json)


@app.command()
def plan(
    config: ConfigPath,
    overrides: Overrides = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """What will run, how long, how much memory and disk, before anything runs: measured on a sample of your text."""
    estimate = _pipeline().estimate(load_config(config, overrides or ()), quiet=quiet)
    if as_json:
        _print_json(estimate)
        return
    table = Table(box=None, padding=(0, 1, 0, 0))  # no frame: eight columns are to fit a narrow terminal
    for heading in ("step", "time", "updates", "tokens", "FLOPs", "memory", "disk", "is"):
        table.add_column(heading, no_wrap=True)
    for step in estimate["steps"]:
        table.add_row(*_load("trelm.cost").cells_of_plan(step))
    Console(markup=False).print(table)
    for line in estimate["summary"]:
        typer.echo(line)


@app.command()
def diagnose(
    config: ConfigPath,
    run: Annotated[Path | None, typer.Option("--run", help="run folder; a temporary one without")] = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """What can be told before anything trains: the new rows, the tokenizer, first guesses; warnings, if any."""
    resolved = load_config(config, overrides or ())
    if run is None and not quiet:
        typer.echo(TEMPORARY, err=True)
    figures = _pipeline().diagnose(resolved, run, quiet=quiet)
    if as_json:
        _print_json(figures)
        return
    _print_diagnosis(figures)
    if run is not None:
        again = [argument for override in overrides or () for argument in ("--set", override)]
        typer.echo(f"go on with: {shlex.join(['trelm', 'transfer', str(config), '--run', str(run), *again])}")


@app.command()
def compare(
    config: Annotated[Path | None, typer.Argument(help="YAML configuration; none with --run-prepared")] = None,
    run: Annotated[Path | None, typer.Option("--run", help="folder of the comparison, made or gone on with")] = None,
    prepare: Annotated[Path | None, typer.Option("--prepare", help=PREPARE_HELP)] = None,
    prepared: Annotated[Path | None, typer.Option("--run-prepared", help="compute cells of a prepared folder")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="with --run-prepared: folder of results")] = None,
    arms: Annotated[str | None, typer.Option("--arms", help="with either: these arms alone, a,b")] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", help="with either: these seeds alone, 1,2")] = None,
    minutes: Annotated[float | None, typer.Option("--device-minutes", help=MINUTES_HELP)] = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """TreLM beside its rivals: same data, equal budgets, several seeds. Run it again to resume; prints the page."""
    chosen: dict[str, Any] = {"arms": _names(arms), "seeds": _numbers(seeds), "quiet": quiet}
    if prepared is not None:
        _refuse_with("--run-prepared", {"CONFIG": config, "--run": run, "--prepare": prepare})
        folder = _required(out, "--run-prepared", "--out FOLDER, where its results go")
        if minutes is not None and minutes <= 0:
            raise ConfigError(f"--device-minutes {minutes:g}: expected more than 0; give the minutes that there are")
        done = _pipeline().run_prepared(prepared, folder, overrides=overrides or (), minutes=minutes, **chosen)
        _print_json(done) if as_json else _print_cells(done, folder)
        return
    needed = "CONFIG and --run FOLDER, or --run-prepared FOLDER"
    resolved, place = (
        load_config(_required(config, "compare", needed), overrides or ()),
        _required(run, "compare", needed),
    )
    _refuse_without("--run-prepared", {"--out": out, "--device-minutes": minutes})
    if prepare is not None:
        written = _pipeline().prepare_for_elsewhere(resolved, place, prepare, **chosen)
        _print_json(written) if as_json else _print_prepared(written)
        return
    _refuse_without("--prepare or --run-prepared", {"--arms": arms, "--seeds": seeds})
    result = _pipeline().compare(resolved, place, quiet=quiet)
    _print_json(result) if as_json else _print_comparison(result, place)


@config_commands.command("show")
def show(
    config: Annotated[Path | None, typer.Argument(help="YAML configuration; the recipe's own defaults without")] = None,
    recipe: Annotated[str | None, typer.Option(help=f"lay it over this one: {', '.join(RECIPES)}")] = None,
    overrides: Overrides = None,
) -> None:
    """All settings, resolved, as YAML."""
    changes = [*([f"recipe={recipe}"] if recipe else []), *(overrides or ())]
    typer.echo(dump_config(load_config(config, changes) if config else _example(changes)), nl=False)


@config_commands.command("check")
def check(config: ConfigPath, overrides: Overrides = None) -> None:
    """Whether a configuration is valid and its files exist."""
    resolved = load_config(config, overrides or ())
    files = _pipeline().describe_inputs(resolved)
    typer.echo(f"{config}: valid, {len(files)} input files")


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="model folder or Hub id: any encoder")],
    tasks: Annotated[Path, typer.Option("--tasks", help=TASKS_HELP)],
    only: Annotated[str | None, typer.Option("--only", help="this evaluation set alone, by its name")] = None,
    work: Annotated[Path | None, typer.Option("--work", help="folder of trainings under way; in the cache")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Any Hugging Face encoder on your tasks: tuned where they have training data, else as a masked language model."""
    scores = _pipeline().evaluate(model, tasks, only=only, work=work, quiet=quiet)
    if as_json:
        _print_json(scores)
        return
    table = Table("evaluation set", "task", "score", "others", "examples")
    for name, values in scores.items():
        if "skipped" not in values:
            table.add_row(name, *_score_columns(values))
    Console(markup=False).print(table)


@app.command()
def report(run: RunFolder) -> None:
    """Write the report of a run or a comparison again: one HTML page, and Markdown."""
    is_comparison = (run / "comparison.json").exists()
    pages = _load("trelm.report.comparison_page") if is_comparison else _load("trelm.report.page")
    for path in (pages.write_comparison if is_comparison else pages.write_report)(run).values():
        typer.echo(str(path))


@app.command()
def export(
    run: RunFolder,
    to: Annotated[Path | None, typer.Option("--to", help="new folder; by default RUN/plain or RUN/trelm")] = None,
    plain: Annotated[
        bool | None,
        typer.Option("--plain/--trelm", help="an ordinary model of the source's class, or TreLM's own class"),
    ] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="also for ONNX Runtime (plain models)")] = False,
    push: Annotated[str | None, typer.Option("--push", help="Hub repository that it goes to: OWNER/NAME")] = None,
    private: Annotated[bool, typer.Option("--private", help="with --push: a private repository")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write the final model, its tokenizer and its card as a folder that Hugging Face tools load."""
    if private and push is None:
        raise ConfigError("--private: expected it together with --push, found it alone; name the repository")
    kind = None if plain is None else "plain" if plain else "trelm"
    result = _pipeline().export(run, to, kind=kind, onnx=onnx, repo=push, private=private, quiet=quiet)
    if as_json:
        _print_json(result)
        return
    for line in result["summary"]:
        typer.echo(line)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """What this machine can do."""
    facts = _load("trelm.doctor").examine(Path.cwd())
    if as_json:
        _print_json(facts)
        return
    for name, value in facts.items():
        if name != "advice":
            typer.echo(f"{name}: {_plain(value)}")
    for line in facts["advice"]:
        typer.echo(f"advice: {line}")


@app.command()
def demo(
    run: Annotated[Path, typer.Option("--run", help="run folder")] = Path("runs/demo"),
    overrides: Overrides = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """The whole thing, small: a made-up language from Python's own documentation, minutes on a laptop."""
    demonstration = _load("trelm.demo.run")
    _transfer(demonstration.prepare(run, overrides or ()), run / "run", until=None, quiet=quiet, as_json=as_json)
    scores = demonstration.link_scores(run)
    for direction in ("forward", "reverse"):
        figures = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in scores[direction].items())
        typer.echo(f"word links against the known truth, {direction}: {figures}", err=as_json)


def main() -> None:
    """Entry point of the `trelm` command."""
    signal.signal(signal.SIGTERM, _terminate)
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"] or ["--help"]
    sys.exit(_run(lambda: app(arguments, prog_name="trelm", standalone_mode=False), debug))


def _run(command: Callable[[], Any], debug: bool) -> int:
    """The exit code: 0; 1 for a fault of ours; 2 for a mistake of the user's; 130 for an interruption."""
    try:
        code = command()
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except TyperException as error:
        sys.stderr.write(f"trelm: {error.format_message().rstrip('.')}; see `{_command_of(error)} --help`\n")
        return 2
    except Exception as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, TrelmError):
            sys.stderr.write(f"trelm: {error}\n")
            return 2
        first = (str(error).splitlines() or [""])[0]
        sys.stderr.write(f"trelm: a fault of the program: {type(error).__name__}: {first}; --debug shows where\n")
        return 1
    if code == INTERRUPTED:  # typer, too, makes an interruption an exit code
        sys.stderr.write("trelm: stopped; the same command goes on from here\n")
    return code if isinstance(code, int) else 0


def _command_of(error: TyperException) -> str:
    """The command whose arguments were wrong, as far as it was understood."""
    context = getattr(error, "ctx", None)
    return "trelm" if context is None else str(context.command_path)


def _terminate(*_: Any) -> None:
    raise KeyboardInterrupt


def _transfer(config: Config, run: Path, *, until: str | None, quiet: bool, as_json: bool) -> None:
    result = _pipeline().transfer(config, run, until=until, quiet=quiet)
    if not is_first():
        return
    if as_json:
        _print_json(result)
    elif "export" in result:  # the whole report, not the figures of one step
        _print_outcome(result, run)


def _print_outcome(result: dict[str, Any], run: Path) -> None:
    table = Table("model", "bits per character", "masked accuracy", "masked loss")
    for name, scores in result["models"].items():
        table.add_row(
            name,
            f"{scores['bits_per_character']:.3f}",
            f"{100 * scores['masked_accuracy']:.1f} %",
            f"{scores['masked_loss']:.3f}",
        )
    Console(markup=False).print(table)
    typer.echo(f"model: {result['export']['path']}\nreport: {run / 'report.html'}")


def _print_comparison(result: dict[str, Any], run: Path) -> None:
    typer.echo((run / "comparison.md").read_text(encoding="utf-8").split("\n## ")[0].strip())
    for path in result["paths"].values():
        typer.echo(path)


def _print_prepared(written: dict[str, Any]) -> None:
    size = f"{written['bytes'] / 1e6:.1f} MB"
    typer.echo(f"{written['path']}: {len(written['cells'])} cells, {size}: {', '.join(written['cells'])}")
    if written["warning"] is not None:
        typer.echo(f"warning: {written['warning']}")


def _print_cells(done: dict[str, Any], out: Path) -> None:
    """The cells that have a result, and what is to do with them."""
    table = Table("arm", "seed", "bits per character", "updates", "training (s)")
    for cell in done["cells"]:
        bits, cost = cell["metrics"]["bits_per_character"], cell["cost"]
        table.add_row(cell["arm"], str(cell["seed"]), f"{bits:.3f}", f"{cost['updates']:,}", f"{cost['seconds']:.0f}")
    Console(markup=False).print(table)
    if done["left"]:
        typer.echo(f"no time for {', '.join(done['left'])}: the same command goes on from here")
    typer.echo(
        f"copy the folders of the arms in {out} to results in the comparison's folder; `trelm report` reads them"
    )


def _required(value: Path | None, what: str, expected: str) -> Path:
    if value is None:
        raise ConfigError(f"{what}: expected {expected}; see `trelm compare --help`")
    return value


def _refuse_with(option: str, others: dict[str, Any]) -> None:
    """Raises ConfigError where one of the others is given too."""
    for name, value in others.items():
        if value is not None:
            raise ConfigError(f"{option}: expected it without {name}, found both; leave one out")


def _refuse_without(option: str, others: dict[str, Any]) -> None:
    """Raises ConfigError where one of the others is given alone."""
    for name, value in others.items():
        if value is not None:
            raise ConfigError(f"{name}: expected it together with {option}, found it alone; leave it out")


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _numbers(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(name) for name in text.split(",")]
    except ValueError:
        raise ConfigError(f"--seeds {text}: expected whole numbers, as in --seeds 1,2") from None


def _score_columns(values: dict[str, Any]) -> tuple[str, str, str, str]:
    """Task, main score with its spread over seeds, other scores, and examples."""
    if "bits_per_character" in values:
        others = f"masked accuracy {100 * values['masked_accuracy']:.1f} %, masked loss {values['masked_loss']:.3f}"
        return "text", f"{values['bits_per_character']:.3f} bits per character", others, f"{values['lines']:,}"
    spread = "" if values["spread"] is None else f" ± {100 * values['spread']:.1f}"
    others = ", ".join(
        f"{name.replace('_', ' ')} {100 * score:.1f}"
        for name, score in values["scores"].items()
        if name != values["metric"]
    )
    main = f"{values['metric'].replace('_', ' ')} {100 * values['score']:.1f}{spread} %"
    return values["task"], main, others, f"{values['data']['test']['examples']:,}"


def _print_diagnosis(figures: dict[str, Any]) -> None:
    """The same tables as in the report, then the warnings."""
    diagnosis = _load("trelm.report.schema").Diagnosis.model_validate(figures)
    section = _load("trelm.report.content").diagnosis_section(diagnosis)
    for table in section.tables:
        shown = Table(*table.header, title=table.caption, title_justify="left")
        for row in table.rows:
            shown.add_row(*row)
        Console(markup=False).print(shown)
    for warning in figures["warnings"]:
        typer.echo(f"warning: {warning}")
    if not figures["warnings"]:
        typer.echo("no warnings")


def _pipeline() -> Any:
    return _load("trelm.pipeline")


def _load(module: str) -> Any:
    """Import late: torch takes seconds to load, `--help` must not."""
    return importlib.import_module(module)


def _example(overrides: list[str]) -> Config:
    """A minimal configuration, to show every default of a recipe."""
    values = {
        "source": {"model": "minilm", "language": "en", "text": ["english.txt"]},
        "target": {"language": "xx", "text": ["target.txt"]},
        "parallel": ["pairs.tsv"],
        "budget": {"minutes": 60},
    }
    return make_config(override_values(values, overrides))


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(inner)}" for name, inner in value.items())
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
