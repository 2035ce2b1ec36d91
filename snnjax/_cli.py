"""The `snnjax` command.

snnjax train TASK
snnjax sweep TASK
snnjax probe TASK | run FOLDER
snnjax reproduce NAME
snnjax theory
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Union

import tyro
from rich.console import Console
from rich.table import Table

from snnjax import _check
from snnjax.experiments.tasks import TASKS, task_name
from snnjax.runtime import compile_quickly, use_compilation_cache, use_cpu_devices
from snnjax.training._ensemble import Order
from snnjax.training._placement import Placement

if TYPE_CHECKING:
    from snnjax.reproduce.study import Finished

Task = Union[  # type: ignore[valid-type]
    *(Annotated[cls, tyro.conf.subcommand(name)] for name, cls in TASKS.items())
]


def _say(console: Console, text: str) -> None:
    """Print a line without colours and without line breaks."""
    console.print(text, highlight=False, soft_wrap=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """Train a spiking network and write a run folder with metrics, parameters and figures."""

    task: tyro.conf.OmitArgPrefixes[tyro.conf.OmitSubcommandPrefixes[Task]]

    def __call__(self, console: Console) -> int:
        """Run the task. Return 0, 1 if training diverged, or 130 if it was interrupted."""
        from snnjax._progress import TrainingProgress, summary_table
        from snnjax.experiments._run import run
        from snnjax.training import TrainingDivergedError
        from snnjax.training._fit import TrainingInterrupted
        from snnjax.training._run_folder import RunFolder

        use_cpu_devices()
        config = self.task
        name = task_name(config)
        datasets = config.datasets()
        folder = RunFolder.new(name) if config.out is None else RunFolder(config.out)
        try:
            finished = run(config, datasets=datasets, folder=folder, callbacks=[TrainingProgress()])
        except TrainingDivergedError as error:
            _say(console, f"snnjax: {error}")
            _say(console, f"run folder: {folder.path}")
            return 1
        except TrainingInterrupted as error:
            _say(console, f"snnjax: {error}; run folder: {folder.path}")
            return 130
        console.print(summary_table(finished.summary))
        _say(console, f"run folder: {folder.path}")
        for figure in ("learning_curves.png", "activity.png"):
            _say(console, f"figure:     {folder.path / figure}")
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """Train every combination of seeds and swept values at once, with resume after interrupts.

    Any of --sigma-u, --mu-u, --mu-w, --sigma-w, --alpha, --learning-rate, --upper-strength,
    --upper-rate, --lower-strength, --lower-threshold, --beta and --lsuv-rate takes several values:
    0.1,0.3,1 or low:high:number or low:high:log:number, for example --sigma-u 0.01:100:log:13.
    """

    task: tyro.conf.OmitArgPrefixes[tyro.conf.OmitSubcommandPrefixes[Task]]
    seeds: int = 5
    """Number of seeds, of weights and sample order: --seed and the numbers after it."""
    resume: bool = False
    """Continue the sweep in the folder --out. Finished members are kept; seeds and values may be
    added."""
    patience: int | None = None
    """Stop a member after this number of epochs without a better validation accuracy."""
    order: Order = "member"
    """Order of training samples: one per member, from its seed, or one shared by all members."""
    wave: int = 16
    """Members that train at once."""
    checkpoint_every: int = 1
    """Epochs between checkpoints."""
    placement: Placement = "auto"
    """How members run: in one batch (vmap), one after another (map), over all devices (shard), or
    as suits the machine (auto)."""

    def __call__(self, console: Console, varied: dict[str, list[float]] | None = None) -> int:
        """Run what is missing. Return 0, or 130 if it was interrupted."""
        from snnjax._progress import SweepProgress, sweep_table
        from snnjax.experiments.sweep import grid, run_sweep
        from snnjax.experiments.sweep_folder import FIGURE, varied_in
        from snnjax.training._run_folder import RunFolder

        _check.integer("seeds", self.seeds, at_least=1)
        use_cpu_devices()
        config = self.task
        if self.resume and config.out is None:
            raise ValueError(
                "out must name the folder of the sweep to continue, got none; use --out FOLDER "
                "--resume"
            )
        members = grid(range(config.seed, config.seed + self.seeds), varied or {})
        folder = (
            RunFolder.new(f"sweep-{task_name(config)}").path if config.out is None else config.out
        )
        epochs = config.epochs + config.priming_epochs
        if self.resume and not (folder / "config.json").exists():
            _say(console, f"nothing to continue in {folder}: a new sweep")
        with SweepProgress(len(members), epochs) as progress:
            try:
                finished = run_sweep(
                    config,
                    members,
                    folder,
                    resume=self.resume,
                    wave=self.wave,
                    placement=self.placement,
                    patience=self.patience,
                    order=self.order,
                    checkpoint_every=self.checkpoint_every,
                    on_epoch=[progress],
                )
            except KeyboardInterrupt:
                _say(
                    console,
                    f"snnjax: interrupted; continue with the same command, --out {folder} and "
                    "--resume",
                )
                return 130
        console.print(sweep_table(finished.rows))
        _say(console, f"results: {folder / 'results.csv'}")
        if (swept_names := varied_in(finished.rows)) and len(swept_names) > 2:
            _say(
                console,
                f"figure:  none for more than two swept parameters, {', '.join(swept_names)}",
            )
        elif swept_names:
            _say(console, f"figure:  {folder / FIGURE}")
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedRun:
    """A run of `snnjax train`."""

    folder: tyro.conf.Positional[Path]
    """Its run folder."""
    parameters: Literal["final", "best", "initial"] = "final"
    """Parameters after the last epoch, at the best validation accuracy, or before training."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe:
    """Examine every layer of a network: rates, membrane, gradients, updates, and problems."""

    source: tyro.conf.OmitArgPrefixes[
        tyro.conf.OmitSubcommandPrefixes[Annotated[SavedRun, tyro.conf.subcommand("run")] | Task]
    ]
    samples: int = 64
    """Number of training samples."""
    figure: Path | None = None
    """Also plot rate, gradient and update over depth to this PNG file, which must not exist."""

    def __call__(self, console: Console) -> int:
        """Print the probe of a saved run, or of an untrained network."""
        from snnjax import plotting
        from snnjax.diagnostics import probe
        from snnjax.experiments import load_run
        from snnjax.experiments._run import prepare, spread

        _check.integer("samples", self.samples, at_least=1)
        if self.figure is not None and self.figure.exists():
            raise FileExistsError(f"figure {self.figure} exists; name another file or remove it")
        prepared = (
            load_run(self.source.folder, parameters=self.source.parameters)
            if isinstance(self.source, SavedRun)
            else prepare(self.source)
        )
        x, labels = prepared.sample.batch(spread(prepared.sample, self.samples))
        objective, optimizer = prepared.objective(), prepared.optimizer()
        report = probe(prepared.network, x, labels, objective, optimizer=optimizer)
        _say(console, str(report))
        if self.figure is not None:
            plotting.save(plotting.depth(report), self.figure)
            _say(console, f"figure: {self.figure}")
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Theory:
    """Print the kernel integrals and the weights that give a target membrane."""

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
    """Rate of the recurrent inputs, Hz; None: nu."""
    alpha: float = 0.9
    """Feed-forward fraction of the variance in a recurrent layer."""
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
        from snnjax.psp import Kernel

        _check.integer("n_recurrent", self.n_recurrent, at_least=0)
        _check.number("sigma_u", self.sigma_u, above=0)
        _check.number("theta", self.theta, above=0)
        _check.number("mu_u", self.mu_u, below=self.theta)
        _check.number("alpha", self.alpha, above=0, below=1)
        kernel = Kernel(tau_mem=self.tau_mem, tau_syn=self.tau_syn, dt=self.dt)
        afferents = [theory.Afferent(self.n, self.nu, self.alpha if self.n_recurrent else 1.0)]
        if self.n_recurrent:
            nu = self.nu if self.nu_recurrent is None else self.nu_recurrent
            afferents.append(theory.Afferent(self.n_recurrent, nu, 1 - self.alpha))
        weights = theory.afferent_weights(
            self.mu_u, self.sigma_u, afferents, kernel, theta=self.theta
        )
        limit = theory.mu_u_limit(self.sigma_u, afferents, kernel)
        xi = float(theory.xi_of(self.mu_u, self.sigma_u, self.theta))
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for k in (kernel, dataclasses.replace(kernel, mode="continuous")):
            integrals = f"ebar {1e3 * k.mean():.6g} ms, ehat {1e3 * k.power():.6g} ms"
            table.add_row(f"kernel integrals, {k.mode}", integrals)
        table.add_row("xi = (theta - mu_u) / sigma_u", f"{xi:.4g} ({_regime(xi)})")
        for name, a, w in zip(("feed-forward", "recurrent"), afferents, weights, strict=False):
            table.add_row(f"{name} weights", f"mu_w {w.mu_w:.6g}, sigma_w {w.sigma_w:.6g}")
            spread = theory.membrane_statistics(
                w.mu_w, w.sigma_w, n=a.n, nu=a.nu, kernel=kernel
            ).quenched_spread
            table.add_row("  quenched spread of the mean membrane", f"{spread:.4g}")
        table.add_row("weights exist for", f"{-limit:.4g} <= mu_u <= {limit:.4g}")
        console.print(table)
        return 0


def _regime(xi: float) -> str:
    """Describe the regime of a distance `xi` from the mean membrane to the threshold."""
    if xi < 1:
        return "mean or noise near threshold: high rates"
    return (
        "fluctuation-driven"
        if xi <= 3
        else "threshold more than 3 standard deviations away: nearly silent"
    )


Target = Literal[
    "figure1", "figure2", "figure3", "figure4", "figure5", "figure6", "figure7",
    "table1", "s4", "s5", "s8", "s9", "s10", "all",
]  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reproduce:
    """Compute a figure or table of the paper and compare it with the published one.

    The report has our numbers, the published numbers, and a verdict on each statement of the paper.
    The same command continues an interrupted computation. Presets: smoke, minutes, on synthetic
    data, to check that everything runs; laptop, about half an hour per figure on two cores, on
    available data; paper, the paper's data, epochs and seeds, for an accelerator.
    """

    name: tyro.conf.Positional[Target]
    """What to compute; all: everything for which data are available. Figure 6 and table 1 use the
    same runs."""
    preset: Literal["smoke", "laptop", "paper"] = "laptop"
    """Data, sizes, epochs and seeds."""
    out: Path | None = None
    """Folder for all figures of one preset; None: runs/reproduce-PRESET."""
    data: Path | None = None
    """Folder with the data sets, see snnjax.reproduce.data; None: the environment variable
    SNNJAX_DATA."""
    seeds: int | None = None
    """Number of seeds; None: that of the preset."""

    def __call__(self, console: Console) -> int:
        """Run what is missing. Return 0, or 130 if it was interrupted."""
        if self.preset == "smoke":
            compile_quickly()
        use_cpu_devices()
        from snnjax._progress import UnitProgress, verdict_table
        from snnjax.reproduce import reproduce
        from snnjax.reproduce.settings import Options
        from snnjax.reproduce.targets import reproduce_all

        options = Options(self.preset, self.data, self.seeds)
        root = Path("runs") / f"reproduce-{self.preset}" if self.out is None else self.out

        def say(text: str) -> None:
            console.print(text, highlight=False, markup=False, soft_wrap=True)

        def show(name: str, result: Finished | str) -> None:
            if isinstance(result, str):
                say(f"{name}: not run: {result}")
            else:
                console.print(verdict_table(result.study.title, result.verdicts))
                say(f"report: {result.folder / 'report.md'}")

        with UnitProgress() as progress:
            try:
                if self.name == "all":
                    say(
                        "report: "
                        f"{reproduce_all(options, root, watch=progress.unit, on_study=show).report}"
                    )
                else:
                    show(self.name, reproduce(self.name, options, root, watch=progress.unit))
            except KeyboardInterrupt:
                say(f"snnjax: interrupted; continue with the same command, --out {root}")
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
    """Separate the flags with several values from the arguments of `snnjax sweep`.

    Args:
        argv: Arguments of the command line.

    Returns:
        The other arguments, and the values by the name of the field.

    Raises:
        ValueError: The values of a flag are invalid.

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
    """Move the sweep's own options in front of the task, where the parser expects them."""
    own = {
        f"--{f.name.replace('_', '-')}"
        for f in dataclasses.fields(Sweep)
        if f.name not in ("task", "resume")
    }
    first, rest, at = [], [], iter(words[1:])
    for word in at:
        if word in own:
            first += [word, *([value] if (value := next(at, None)) is not None else [])]
        else:
            (
                first
                if word in ("--resume", "--no-resume") or word.partition("=")[0] in own
                else rest
            ).append(word)
    return [words[0], *first, *rest]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    The exit status is 0 on success, 1 if training diverged, 2 if an argument, file or setting is
    invalid, and 130 after an interrupt.

    Args:
        argv: Arguments. None: those of the process.
    """
    console, errors = Console(emoji=False), Console(stderr=True, emoji=False)
    if not console.is_terminal:  # files and pipes have no width, so tables are not cut
        console = Console(width=160, emoji=False)
    use_compilation_cache()
    try:
        arguments, varied = swept(sys.argv[1:] if argv is None else argv)
        command = tyro.cli(
            Command,  # type: ignore[arg-type]
            args=arguments,
            prog="snnjax",
            description=(
                "Deep spiking neural networks in JAX, initialized in the fluctuation-driven regime."
            ),
            config=(tyro.conf.OmitSubcommandPrefixes,),
        )
        given = (console, varied) if isinstance(command, Sweep) else (console,)
        status = command(*given)  # type: ignore[operator]
    except (ValueError, TypeError, OSError, ImportError) as error:
        errors.print(f"snnjax: error: {error}", highlight=False, markup=False, soft_wrap=True)
        status = 2
    except MemoryError as error:
        errors.print(
            f"snnjax: error: out of memory: {error}", highlight=False, markup=False, soft_wrap=True
        )
        status = 2
    except KeyboardInterrupt:
        errors.print("snnjax: interrupted")
        status = 130
    if status == 130 and argv is None:
        # A running computation cannot be stopped. It would crash when Python frees its data.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
