"""The `snnjax` command: `snnjax train TASK`, `snnjax sweep TASK`, `snnjax probe TASK|run FOLDER`, `snnjax reproduce NAME`, `snnjax theory`."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import tyro
from rich.console import Console
from rich.table import Table

from snnjax import _check
from snnjax.experiments.tasks import TASKS, task_name
from snnjax.runtime import compile_quickly, tune_allocator, use_compilation_cache, use_cpu_devices
from snnjax.training.ensemble import Order
from snnjax.training.placement import Placement

Task = Union[*(Annotated[cls, tyro.conf.subcommand(name)] for name, cls in TASKS.items())]  # type: ignore[valid-type]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """Train a spiking network and leave a run folder with metrics, parameters and figures."""

    task: tyro.conf.OmitArgPrefixes[tyro.conf.OmitSubcommandPrefixes[Task]]

    def __call__(self, console: Console) -> int:
        """Run the task; 0, or 1 where training diverged."""
        from snnjax.experiments._run import run
        from snnjax.progress import TrainingProgress, summary_table
        from snnjax.training import TrainingDivergedError, TrainingInterrupted
        from snnjax.training.run_folder import RunFolder

        use_cpu_devices()
        config = self.task
        name = task_name(config)
        datasets = config.datasets()
        folder = RunFolder.new(name) if config.out is None else RunFolder(config.out)
        try:
            finished = run(config, datasets=datasets, folder=folder, callbacks=[TrainingProgress()])
        except TrainingDivergedError as error:
            console.print(f"snnjax: {error}", highlight=False, soft_wrap=True)
            console.print(f"run folder: {folder.path}", highlight=False, soft_wrap=True)
            return 1
        except TrainingInterrupted as error:
            line = f"snnjax: {error}; run folder: {folder.path}"
            console.print(line, highlight=False, soft_wrap=True)
            return 130
        console.print(summary_table(finished.summary))
        console.print(f"run folder: {folder.path}", highlight=False, soft_wrap=True)
        for figure in ("learning_curves.png", "activity.png"):
            console.print(f"figure:     {folder.path / figure}", highlight=False, soft_wrap=True)
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """Train every product of seeds and swept values at once, in a folder that can be gone on with after any interruption.

    Any of --sigma-u, --mu-u, --mu-w, --sigma-w, --alpha, --learning-rate, --upper-strength, --upper-rate, --lower-strength, --lower-threshold, --beta and
    --lsuv-rate takes several values: 0.1,0.3,1 or low:high:number or low:high:log:number, for example --sigma-u 0.01:100:log:13.
    """

    task: tyro.conf.OmitArgPrefixes[tyro.conf.OmitSubcommandPrefixes[Task]]
    seeds: int = 5
    """Seeds of weights and sample order: --seed and the numbers after it."""
    resume: bool = False
    """Go on with the sweep in the folder --out: what is finished is kept, seeds and values may have been added."""
    patience: int | None = None
    """Stop a member after so many epochs without a better validation accuracy."""
    order: Order = "member"
    """Of training samples: each member its own, from its seed, or one shared by all."""
    wave: int = 16
    """Members that train at once."""
    checkpoint_every: int = 1
    """Epochs between checkpoints."""
    placement: Placement = "auto"
    """Members: all in one batch (vmap), one after another (map), over all devices (shard), or what suits the machine."""

    def __call__(self, console: Console, varied: dict[str, list[float]] | None = None) -> int:
        """Run what is missing; 0, or 130 where it was interrupted."""
        from snnjax.experiments.sweep import grid, run_sweep
        from snnjax.experiments.sweep_folder import FIGURE, varied_in
        from snnjax.progress import SweepProgress, sweep_table
        from snnjax.training.run_folder import RunFolder

        _check.integer("seeds", self.seeds, at_least=1)
        use_cpu_devices()
        config = self.task
        if self.resume and config.out is None:
            raise ValueError("out must name the folder of the sweep to go on with, got none; --out FOLDER --resume")
        members = grid(range(config.seed, config.seed + self.seeds), varied or {})
        folder = RunFolder.new(f"sweep-{task_name(config)}").path if config.out is None else config.out
        epochs = config.epochs + config.priming_epochs
        if self.resume and not (folder / "config.json").exists():
            console.print(f"nothing to go on with in {folder}: a new sweep", highlight=False, soft_wrap=True)
        with SweepProgress(len(members), epochs) as progress:
            try:
                finished = run_sweep(
                    config, members, folder, resume=self.resume, wave=self.wave, placement=self.placement, patience=self.patience,
                    order=self.order, checkpoint_every=self.checkpoint_every, on_epoch=[progress],
                )  # fmt: skip
            except KeyboardInterrupt:
                console.print(
                    f"snnjax: interrupted; go on with the same command, --out {folder} and --resume", highlight=False, soft_wrap=True
                )
                return 130
        console.print(sweep_table(finished.rows))
        console.print(f"results: {folder / 'results.csv'}", highlight=False, soft_wrap=True)
        if (swept_names := varied_in(finished.rows)) and len(swept_names) > 2:
            console.print(f"figure:  none for more than two swept parameters, {', '.join(swept_names)}", highlight=False, soft_wrap=True)
        elif swept_names:
            console.print(f"figure:  {folder / FIGURE}", highlight=False, soft_wrap=True)
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedRun:
    """A run that `snnjax train` left."""

    folder: tyro.conf.Positional[Path]
    """Its run folder."""
    parameters: Literal["final", "best", "initial"] = "final"
    """After the last epoch, at the best validation accuracy, or as drawn before training."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe:
    """Look at every layer of a network: rates, membrane, gradients, updates, and a finding for each unhealthy layer."""

    source: tyro.conf.OmitArgPrefixes[tyro.conf.OmitSubcommandPrefixes[Annotated[SavedRun, tyro.conf.subcommand("run")] | Task]]
    samples: int = 64
    """Training samples to look at."""
    figure: Path | None = None
    """Also draw rate, gradient and update by depth into this PNG file, which must not exist."""

    def __call__(self, console: Console) -> int:
        """Print the probe of a saved run, or of an untrained network."""
        from snnjax import plotting
        from snnjax.diagnostics import findings, gradient_table, probe, table
        from snnjax.experiments import load_run, prepare
        from snnjax.experiments._run import spread

        _check.integer("samples", self.samples, at_least=1)
        if self.figure is not None and self.figure.exists():
            raise FileExistsError(f"figure {self.figure} exists; name another file or remove it")
        prepared = (
            load_run(self.source.folder, parameters=self.source.parameters) if isinstance(self.source, SavedRun) else prepare(self.source)
        )
        x, labels = prepared.sample.batch(spread(prepared.sample, self.samples))
        objective, optimizer = prepared.objective(), prepared.optimizer()
        report = probe(prepared.network, x, labels, objective, optimizer=optimizer)
        console.print(table(report))
        console.print(gradient_table(report))
        for line in findings(report):
            console.print(line, highlight=False, soft_wrap=True)
        if self.figure is not None:
            plotting.save(plotting.depth(report), self.figure)
            console.print(f"figure: {self.figure}", highlight=False, soft_wrap=True)
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Theory:
    """Print the kernel integrals and the weights that reach a target membrane, for given parameters."""

    n: int = 128
    """Fan-in: inputs of one neuron."""
    nu: float = 10.0
    """Rate of each input, Hz."""
    sigma_u: float = 1.0
    """Target standard deviation of the membrane."""
    mu_u: float = 0.0
    """Target mean of the membrane."""
    n_recurrent: int = 0
    """Recurrent inputs of one neuron; 0: a feed-forward layer."""
    nu_recurrent: float | None = None
    """Their rate, Hz; None: nu."""
    alpha: float = 0.9
    """Feed-forward fraction of the variance, where there is recurrence."""
    tau_mem: float = 20e-3
    """Membrane time constant, s."""
    tau_syn: float = 10e-3
    """Synaptic time constant, s."""
    dt: float = 2e-3
    """Time step, s."""
    theta: float = 1.0
    """Firing threshold."""

    def __call__(self, console: Console) -> int:
        """Print the table."""
        from snnjax import theory
        from snnjax.psp import psp_integrals

        _check.integer("n_recurrent", self.n_recurrent, at_least=0)
        _check.number("sigma_u", self.sigma_u, above=0)
        _check.number("theta", self.theta, above=0)
        _check.number("mu_u", self.mu_u, below=self.theta)
        _check.number("alpha", self.alpha, above=0, below=1)
        xi = (self.theta - self.mu_u) / self.sigma_u
        times: dict[str, Any] = {"tau_mem": self.tau_mem, "tau_syn": self.tau_syn, "dt": self.dt}
        afferents = [theory.Afferent(self.n, self.nu, self.alpha if self.n_recurrent else 1.0)]
        if self.n_recurrent:
            nu = self.nu if self.nu_recurrent is None else self.nu_recurrent
            afferents.append(theory.Afferent(self.n_recurrent, nu, 1 - self.alpha))
        weights = theory.afferent_weights(self.mu_u, xi, afferents, theta=self.theta, **times)
        lower, upper = theory.mu_u_limits(xi, afferents, theta=self.theta, **times)
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for mode in ("discrete", "continuous"):
            ebar, ehat = psp_integrals(**times, mode=mode)
            table.add_row(f"kernel integrals, {mode}", f"ebar {1e3 * ebar:.6g} ms, ehat {1e3 * ehat:.6g} ms")
        table.add_row("xi = (theta - mu_u) / sigma_u", f"{xi:.4g} ({_regime(xi)})")
        for name, a, w in zip(("feed-forward", "recurrent"), afferents, weights, strict=False):
            table.add_row(f"{name} weights", f"mu_w {w.mu_w:.6g}, sigma_w {w.sigma_w:.6g}")
            spread = theory.membrane_statistics(w.mu_w, w.sigma_w, n=a.n, nu=a.nu, theta=self.theta, **times).quenched_spread
            table.add_row("  quenched spread of the mean membrane", f"{spread:.4g}")
        table.add_row("weights exist for", f"{lower:.4g} <= mu_u <= {upper:.4g}")
        console.print(table)
        return 0


def _regime(xi: float) -> str:
    if xi < 1:
        return "mean or noise near threshold: high rates"
    return "fluctuation-driven" if xi <= 3 else "threshold more than 3 standard deviations away: nearly silent"


Target = Literal[
    "figure1", "figure2", "figure3", "figure4", "figure5", "figure6", "figure7", "table1", "s4", "s5", "s8", "s9", "s10", "all"
]  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reproduce:
    """Compute a figure or table of the paper, and a report that puts our numbers beside the published ones, with a verdict on each statement.

    The same command goes on where it was cut off. Presets: smoke, minutes, on made-up data, to see that all runs; laptop, about half an hour each on
    two cores, on data at hand; paper, the paper's own data, epochs and seeds, for an accelerator.
    """

    name: tyro.conf.Positional[Target]
    """What to compute; all: everything, leaving out what has no data here. Figure 6 and table 1 are the same runs."""
    preset: Literal["smoke", "laptop", "paper"] = "laptop"
    """Data, sizes, epochs and seeds."""
    out: Path | None = None
    """Folder of all figures of one preset; None: runs/reproduce-PRESET."""
    data: Path | None = None
    """Folder that holds the data sets, see snnjax.reproduce.data; None: the environment variable SNNJAX_DATA."""
    seeds: int | None = None
    """Instead of the preset's number."""

    def __call__(self, console: Console) -> int:
        """Run what is missing; 0, or 130 where it was interrupted."""
        if self.preset == "smoke":
            compile_quickly()
        use_cpu_devices()
        from snnjax.progress import UnitProgress, verdict_table
        from snnjax.reproduce import Options, reproduce, reproduce_all

        options = Options(self.preset, self.data, self.seeds)
        root = Path("runs") / f"reproduce-{self.preset}" if self.out is None else self.out
        say = lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True)  # noqa: E731

        def show(name: str, result: Any) -> None:
            if isinstance(result, str):
                say(f"{name}: not run: {result}")
            else:
                console.print(verdict_table(result.study.title, result.verdicts))
                say(f"report: {result.folder / 'report.md'}")

        with UnitProgress() as progress:
            try:
                if self.name == "all":
                    say(f"report: {reproduce_all(options, root, watch=progress.unit, on_study=show).report}")
                else:
                    show(self.name, reproduce(self.name, options, root, watch=progress.unit))
            except KeyboardInterrupt:
                say(f"snnjax: interrupted; go on with the same command, --out {root}")
                return 130
        return 0


Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[Probe, tyro.conf.subcommand("probe")]
    | Annotated[Reproduce, tyro.conf.subcommand("reproduce")]
    | Annotated[Theory, tyro.conf.subcommand("theory")]
)


def swept(argv: Sequence[str]) -> tuple[list[str], dict[str, list[float]]]:
    """The arguments of `snnjax sweep` without those that name several values, and these values by field.

    >>> swept(["sweep", "randman", "--sigma-u", "0.5,1", "--epochs", "3"])
    (['sweep', 'randman', '--epochs', '3'], {'sigma_u': [0.5, 1.0]})
    """
    if not argv or argv[0] != "sweep":
        return list(argv), {}
    from snnjax.experiments.sweep import parse_values
    from snnjax.experiments.sweep_folder import SWEEPABLE

    rest, varied, words = [], {}, iter(argv)
    for word in words:
        flag, given, value = word.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if flag.startswith("--") and name in SWEEPABLE:
            value = value if given else next(words, "")
            if ":" in value or "," in value:
                try:
                    varied[name] = parse_values(value)
                except ValueError as error:
                    raise ValueError(f"{flag}: {error}") from None
                continue
            rest += [flag, value]
        else:
            rest.append(word)
    return _sweep_options_first(rest), varied


def _sweep_options_first(words: list[str]) -> list[str]:
    """`words` with the options of the sweep itself right behind "sweep", wherever they were written: nobody knows which are its task's."""
    own = {f"--{f.name.replace('_', '-')}" for f in dataclasses.fields(Sweep) if f.name not in ("task", "resume")}
    first, rest, at = [], [], iter(words[1:])
    for word in at:
        if word in own:
            first += [word, *([value] if (value := next(at, None)) is not None else [])]
        else:
            (first if word in ("--resume", "--no-resume") or word.partition("=")[0] in own else rest).append(word)
    return [words[0], *first, *rest]


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point. Exit status 0: done; 1: training diverged; 2: an argument, file or setting is wrong."""
    console, errors = Console(emoji=False), Console(stderr=True, emoji=False)
    if not console.is_terminal:  # a file or a pipe has no width that a table must be cut to
        console = Console(width=160, emoji=False)
    tune_allocator()
    use_compilation_cache()
    try:
        arguments, varied = swept(sys.argv[1:] if argv is None else argv)
        command = tyro.cli(
            Command,  # type: ignore[arg-type]
            args=arguments,
            prog="snnjax",
            description="Deep spiking neural networks in JAX, initialized in the fluctuation-driven regime.",
            config=(tyro.conf.OmitSubcommandPrefixes,),
        )
        status = command(console, varied) if isinstance(command, Sweep) else command(console)  # type: ignore[operator]
    except (ValueError, TypeError, OSError, ImportError) as error:
        errors.print(f"snnjax: error: {error}", highlight=False, markup=False, soft_wrap=True)
        status = 2
    except MemoryError as error:
        errors.print(f"snnjax: error: out of memory: {error}", highlight=False, markup=False, soft_wrap=True)
        status = 2
    except KeyboardInterrupt:
        errors.print("snnjax: interrupted")
        status = 130
    if status == 130 and argv is None:
        # a computation that is still under way cannot be stopped, and crashes when Python takes down what it works on
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
