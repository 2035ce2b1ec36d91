"""The `snnjax` command.

    snnjax train TASK [flags]           snnjax train --resume FOLDER
    snnjax sweep TASK [flags]           snnjax sweep --resume FOLDER
    snnjax results FOLDER ...
    snnjax probe TASK [flags]           snnjax probe run FOLDER
    snnjax reproduce NAME
    snnjax theory [flags]

The exit status is 0 on success, 1 if training diverged, 2 if an argument, file or option is
invalid, and 130 after an interrupt. JAX is loaded only when something is computed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import difflib
import errno
import inspect
import itertools
import math
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from rich.console import Console

from snnjax import __version__, _check
from snnjax._flags import Parser, UsageError, add_flags
from snnjax.experiments import Experiment
from snnjax.experiments._experiment import STARTS
from snnjax.experiments._options import Part, options_of
from snnjax.experiments._tasks import TASKS

if TYPE_CHECKING:
    from snnjax.experiments import Sweep
    from snnjax.experiments._rows import Member

P = TypeVar("P", bound=Part)
_NAMES = {task.name: task for task in TASKS}
Out = Callable[[object], None]
"""A function that prints a line of text or a table."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line, and exit.

    Args:
        argv: Arguments. None: those of the process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    console, errors = Console(emoji=False), Console(stderr=True, emoji=False)
    if not console.is_terminal:  # files and pipes have no width, so tables are not cut
        console = Console(width=160, emoji=False)

    def out(thing: object) -> None:
        if isinstance(thing, str):
            console.print(thing, highlight=False, markup=False, soft_wrap=True)
        else:
            console.print(thing)

    def fail(text: str) -> None:
        errors.print(f"snnjax: {text}", highlight=False, markup=False, soft_wrap=True)

    try:
        status = _command(words)(words[1:], out)
    except KeyboardInterrupt as error:
        fail(str(error) or "interrupted")
        status = 130
    except Exception as error:
        if debug:
            raise
        known = isinstance(error, ValueError | TypeError | OSError | ImportError | MemoryError)
        hint = "" if known else "; --debug shows where"
        kind = "out of memory: " if isinstance(error, MemoryError) else ""
        full = _is_full(error)
        text = "no space left on the disk; what is written is complete" if full else str(error)
        fail(f"error: {kind}{_with_flags(text) or type(error).__name__}{hint}")
        status = 2
    if status == 130 and argv is None:
        # A running computation cannot be stopped. It would crash when Python frees its data.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _command(words: list[str]) -> Callable[[list[str], Out], int]:
    """Return the function of the command that the arguments begin with."""
    if not words or words[0] in ("-h", "--help"):
        return _help
    if words[0] == "--version":
        return lambda words, out: out(f"snnjax {__version__}") or 0
    if words[0] not in COMMANDS:
        known = (*COMMANDS, "--help", "--version")
        raise UsageError(f"unknown command {words[0]!r}; {_hint(words[0], known)}")
    return COMMANDS[words[0]][0]


def _hint(word: str, known: Collection[str]) -> str:
    """Return the most similar of the known words, or all of them."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"


def _help(words: list[str], out: Out) -> int:
    out("usage: snnjax COMMAND ...\n\nDeep spiking neural networks in JAX, initialized right.\n")
    for name, (_, text) in COMMANDS.items():
        out(f"  {name:<12}{text}")
    out("\n  --version   print the version\n  --debug     show the traceback of an error")
    out("\nBegin with: snnjax train randman --epochs 20 --batch-size 100")
    out("snnjax COMMAND --help shows tasks and flags, snnjax train randman --help those of a task.")
    return 0


def _with_flags(text: str) -> str:
    """Write options as flags: `sigma_u must ...`, and `resume (--resume)` without the first word.

    >>> _with_flags("sigma_u must be > 0"), _with_flags("add download (--download)")
    ('--sigma-u must be > 0', 'add --download')
    """
    first = re.match(r"[a-z_]+(?= (must|is an option|is not an option|has no effect))", text)
    text = f"--{first[0].replace('_', '-')}{text[first.end() :]}" if first else text
    return re.sub(r"\b(\w+)(?: = \w+)? \((--(?:no-)?\1(?: [A-Z]+)?)\)", r"\2", text)


def _is_full(error: BaseException) -> bool:
    full = isinstance(error, OSError) and error.errno == errno.ENOSPC
    return full or "No space left on device" in str(error)


@contextlib.contextmanager
def _resumable(folder: Path, again: str, safe: str = "") -> Iterator[None]:
    """After an interrupt, or if the disk is full, say how to continue.

    Args:
        folder: The folder of the computation.
        again: The end of "continue with".
        safe: What is not lost on a full disk.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        done = str(error) or "interrupted"
        raise KeyboardInterrupt(f"{done}; continue with{again}") from None
    except Exception as error:
        if not _is_full(error):
            raise
        full = f"no space left on the disk for {folder}; {safe}free some"
        raise OSError(f"{full}, and continue with{again}") from None


def _read(words: list[str], prog: str, own: P, **positional: Any) -> tuple[dict[str, Any], P]:
    """Return the positional arguments of a command without a task, and its options.

    Args:
        words: Its arguments.
        prog: Its name.
        own: Its options, with their defaults.
        **positional: Settings of each positional argument.
    """
    parser = Parser(prog, own)
    for name, settings in positional.items():
        parser.add_argument(name, **settings)
    given = parser.parse(words)
    return {name: given.pop(name) for name in positional}, dataclasses.replace(own, **given)


def _check_new(flag: str, file: Path | None) -> None:
    """Raise if a file that is to be written exists."""
    if file is not None and file.exists():
        raise FileExistsError(f"{flag} {file} exists; name another file or remove it")


_COMMON = "epochs", "batch-size", "learning-rate", "hidden", "depth", "model", "init", "sigma-u"


class _Usage:
    """The flags of a command on a task, and the experiment that they describe.

    Args:
        words: Arguments of the command.
        command: Its name.
        own: Its own options, a part.
        several: Whether flags take several values.
    """

    def __init__(self, words: list[str], command: str, own: Part, *, several: bool = False) -> None:
        # a name after a flag may be its value, as in --out digits
        found = [
            (before[:2] == "--", word)
            for before, word in zip(["", *words], words, strict=False)
            if word in _NAMES
        ]
        self.task = min(found, key=lambda pair: pair[0])[1] if found else None
        self.parser = Parser(f"snnjax {command} {self.task or 'TASK'}", own)
        self.base: Experiment | None = None
        if self.task is not None:
            self._choose(words, several)
        else:
            names, common = ", ".join(_NAMES), " ".join(f"--{name}" for name in _COMMON)
            self.parser.description = (
                f"{inspect.getdoc(type(own))}\n\ntasks: {names}\nflags of a task: {common} ...\n"
                f"all of them: snnjax {command} randman --help"
            )
            self.parser.add_argument("task", nargs="?", metavar="TASK", help=names)
        given = self.parser.parse(words)
        wrong = given.pop("task", None)
        if self.task is None and wrong is not None:
            raise UsageError(f"unknown task {wrong!r}; {_hint(wrong, _NAMES)}")
        names = [option.name for option in options_of(own)]
        self.own: dict[str, Any] = {name: given[name] for name in names if name in given}
        self.options = {n: v for n, v in given.items() if n not in (*names, "start")}

    def _choose(self, words: list[str], several: bool) -> None:
        """Read the flags that choose a class, because the other flags depend on them."""
        first = Parser(add_help=False)
        bare = Experiment.from_options(str(self.task))
        names = [o.name for o in options_of(bare) if o.choices and o.name != "task"]
        for name in ("start", *names):
            first.add_argument(f"--{name}", default=None)
        chosen = {n: v for n, v in vars(first.parse_known_args(words)[0]).items() if v is not None}
        if several:
            chosen = {name: text.split(",")[0] for name, text in chosen.items()}
        self.base = Experiment.from_options(str(self.task), **chosen)
        self.parser.add_argument("task", choices=[self.task], help="the task")
        self.parser.add_argument(
            "--start",
            choices=list(STARTS),
            default="calibrated",
            help="Values of flags that are not given. calibrated: membranes and gradients are "
            "calibrated on training data, and the size of the first step does not grow with depth. "
            "paper: the published settings of Rossbroich, Gygax & Zenke (2022). [calibrated]",
        )
        add_flags(self.parser, self.base, several=several)

    def experiment(self) -> Experiment:
        """Return the experiment.

        Raises:
            UsageError: No task is named, or options do not fit together.
        """
        return self.needed().replace(**self.options)

    def needed(self) -> Experiment:
        """Return the experiment without the other flags, or raise if no task is named."""
        if self.base is None:
            raise UsageError(f"name a task: {', '.join(_NAMES)}")
        return self.base


class TrainOptions(Part):
    """Train a spiking network and write a run folder with metrics, parameters and figures."""

    out: Path | None = None
    """Run folder, new or empty. None: a new folder in ./runs."""
    resume: Path | None = None
    """Continue the interrupted run in this folder. Other flags are not needed."""


def train(words: list[str], out: Out) -> int:
    """Train one network."""
    usage = _Usage(words, "train", TrainOptions())
    options = dataclasses.replace(TrainOptions(), **usage.own)
    resumed = options.resume
    if resumed is not None and (usage.task or options.out):
        raise UsageError("--resume FOLDER takes all other options from the folder; give only it")
    if resumed is None:
        usage.experiment()  # before JAX is loaded
    _prepare_jax()
    from snnjax._progress import TrainingProgress, summary_table
    from snnjax.experiments import run
    from snnjax.experiments._sweep import load_sweep
    from snnjax.experiments._sweep_folder import row_in
    from snnjax.training import TrainingDivergedError

    saved = load_sweep(resumed) if resumed is not None else None
    if saved is not None and saved.seeds is not None:
        raise UsageError(f"--resume: {resumed} has a sweep; snnjax sweep --resume continues it")
    experiment = saved.base if saved is not None else usage.experiment()
    # `run` says that a run is finished, and needs no data for that
    over = resumed is not None and row_in(resumed) is not None
    datasets = None if over else experiment.datasets()
    resume, bar = resumed is not None, [TrainingProgress()]
    if datasets and sys.stderr.isatty():
        # deep recurrent networks compile for a minute before the first row
        print("the data are read; the network is compiled", file=sys.stderr, flush=True)
    with (
        _folder(resumed or options.out, experiment.task.name) as folder,
        _resumable(folder, f": snnjax train --resume {folder}"),
    ):
        try:
            done = run(experiment, folder, resume=resume, datasets=datasets, callbacks=bar)
        except TrainingDivergedError as error:
            out(f"snnjax: {error}")
            out(f"run folder: {folder}")
            return 1
    out(summary_table(done.summary))
    out(f"run folder: {folder}")
    for figure in ("learning_curves.png", "activity.png"):
        out(f"figure:     {folder / figure}")
    return 0


@contextlib.contextmanager
def _folder(given: Path | None, name: str) -> Iterator[Path]:
    """Give the named folder, or a new one in ./runs, which is removed if nothing is written."""
    if given is not None:
        yield given
        return
    first = Path("runs") / f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    made = first
    for k in itertools.count(1):
        with contextlib.suppress(FileExistsError):  # of another process that began in this second
            made.mkdir(parents=True)
            break
        made = first.with_name(f"{first.name}-{k}")
    try:
        yield made
    finally:
        with contextlib.suppress(OSError):
            made.rmdir()


def _prepare_jax() -> None:
    from snnjax.runtime import use_compilation_cache, use_cpu_devices

    use_compilation_cache()
    use_cpu_devices()


class SweepOptions(Part):
    """Train every combination of seeds and values, with resume after interrupts.

    Every flag of the task takes several values: 0.1,0.3,1 or low:high:number or
    low:high:log:number, for example --sigma-u 0.01:100:log:13 --depth 1,3,7 --init lsuv,kaiming.
    Several layers are written with x: --hidden 128,128x64.
    """

    seeds: int = 5
    """Number of seeds, of weights and sample order: --seed and the numbers after it."""
    out: Path | None = None
    """Folder of the sweep, new or empty. None: a new folder in ./runs."""
    resume: Path | None = None
    """Continue the sweep in this folder. Finished members are kept. With a task and flags, their
    seeds and values are added; other flags must be as before."""
    patience: int | None = None
    """Stop a member after this number of epochs without a better validation accuracy."""
    order: Literal["member", "shared"] = "member"
    """Order of training samples: one per member, from its seed, or one shared by all members."""
    wave: int = 16
    """Members that train at once."""
    checkpoint_every: int = 1
    """Epochs between checkpoints."""
    placement: Literal["auto", "vmap", "map", "shard"] = "auto"
    """How members run: in one batch (vmap), one after another (map), over all devices (shard), or
    as suits the machine (auto)."""
    distributed: bool = False
    """This is one of several processes that share the sweep and its folder. SLURM, Open MPI,
    Kubernetes and Cloud TPU are found by JAX; elsewhere, give the next three flags."""
    coordinator: str | None = None
    """Address and port of process 0, for example host0:1234."""
    processes: int | None = None
    """Number of processes."""
    process: int | None = None
    """Number of this process, from 0."""


def sweep(words: list[str], out: Out) -> int:
    """Train all members of a sweep."""
    usage = _Usage(words, "sweep", SweepOptions(), several=True)
    options = dataclasses.replace(SweepOptions(), **usage.own)
    _check.integer("seeds", options.seeds, at_least=1)
    from snnjax.experiments import _hosts

    if options.distributed:
        _hosts.join(options.coordinator, options.processes, options.process)
    elif (options.coordinator, options.processes, options.process) != (None, None, None):
        raise UsageError("--coordinator, --processes and --process need --distributed")
    _prepare_jax()
    from snnjax._progress import SweepProgress
    from snnjax.experiments import Execution, Sweep, run_sweep
    from snnjax.experiments._engine import check
    from snnjax.experiments._results import COLUMNS_NOTE, sweep_table
    from snnjax.experiments._sweep import load_sweep
    from snnjax.experiments._sweep_folder import FIGURE, members_of, planned

    given = options.resume or options.out
    if options.resume is not None and usage.task is None:
        wanted = load_sweep(options.resume)
    else:
        # what the folder sweeps is swept, also if only one value is added
        before = planned(options.resume)[:1] if options.resume else []
        single = {n: v[0] for n, v in usage.options.items() if len(v) == 1}
        single = {n: v for n, v in single.items() if not any(n in member for member in before)}
        over = {name: tuple(v) for name, v in usage.options.items() if name not in single}
        wanted = Sweep(
            base=usage.needed().replace(**single),
            over=over,
            seeds=options.seeds,
            patience=options.patience,
            order=options.order,
        )
    if given is None and options.distributed:
        raise UsageError("--distributed needs --out FOLDER, the same for all processes")
    execution = Execution(
        wave=options.wave, placement=options.placement, checkpoint_every=options.checkpoint_every
    )
    training = wanted.base.training
    epochs = training.epochs + training.priming_epochs
    members = wanted.members()
    if options.resume is not None:
        check(wanted, options.resume, resume=True)
        members = members_of(options.resume, members)
    print(_size(wanted, members), file=sys.stderr, flush=True)
    with (
        _folder(given, f"sweep-{wanted.base.task.name}") as folder,
        _resumable(folder, f": snnjax sweep --resume {folder}", "finished members are safe: "),
        SweepProgress(len(members), epochs) as bar,
    ):
        resume = options.resume is not None
        done = run_sweep(wanted, folder, resume=resume, execution=execution, on_epoch=[bar])
    out(sweep_table(done.rows))
    out(COLUMNS_NOTE)
    for name, file in (("results", "results.csv"), ("figure", FIGURE)):
        if (folder / file).exists():
            out(f"{name + ':':<9}{folder / file}")
    return 0


def _size(sweep: Sweep, members: Sequence[Member]) -> str:
    """Say how many networks a sweep has, and how many groups of them are compiled.

    Args:
        sweep: The sweep.
        members: All members of its folder.

    >>> from snnjax.experiments import Experiment, Sweep
    >>> over = {"sigma_u": (0.5, 1.0, 2.0), "depth": (1, 3)}
    >>> sweep = Sweep(base=Experiment.from_options("randman"), over=over, seeds=5)
    >>> _size(sweep, sweep.members())
    'networks: 30 = 3 sigma_u x 2 depth x 5 seed; groups that are compiled: 2'
    """
    from snnjax.experiments._engine import groups_of

    axes = {name: len({member[name] for member in members}) for name in members[0]}
    product = " x ".join(f"{number} {name}" for name, number in axes.items())
    # values and seeds that were added later may not give a product
    found = f" = {product}" if axes and math.prod(axes.values()) == len(members) else ""
    groups = len(groups_of(sweep, members))
    how = "each trains alone" if sweep.alone else f"groups that are compiled: {groups}"
    return f"networks: {len(members)}{found}; {how}"


class ResultsOptions(Part):
    """Show the results of sweeps and runs: one line per combination of swept values."""

    sort: str | None = None
    """Sort by this column of results.csv, the largest mean first; for example
    test_accuracy_final."""
    csv: Path | None = None
    """Also write the rows of all folders to this CSV file, which must not exist."""
    figure: Path | None = None
    """Also draw test accuracy over the swept number, one line per folder and other values, to this
    file (png, svg or pdf), which must not exist."""


def results(words: list[str], out: Out) -> int:
    """Print, export and draw the results of sweeps."""
    places = {"nargs": "+", "type": Path, "metavar": "FOLDER", "help": "folders of sweeps and runs"}
    found, options = _read(words, "snnjax results FOLDER ...", ResultsOptions(), folders=places)
    from snnjax.experiments import _results
    from snnjax.experiments._sweep_folder import read, write_csv

    _check_new("--csv", options.csv)
    _check_new("--figure", options.figure)
    rows = read(found["folders"])
    out(_results.sweep_table(rows, sort=options.sort))
    out(_results.COLUMNS_NOTE)
    if options.csv is not None:
        write_csv(rows, options.csv)
        out(f"rows:   {options.csv}")
    if options.figure is not None:
        _results.draw(rows, options.figure)
        out(f"figure: {options.figure}")
    return 0


class ProbeOptions(Part):
    """Examine every layer of a network: rates, membrane, gradients, updates, and problems.

    The network is the untrained one of a task, or that of a finished run: snnjax probe run FOLDER.
    For a network of a sweep, FOLDER is SWEEP/members/MEMBER.
    """

    probe_samples: int = 64
    """Number of training samples to measure on."""
    figure: Path | None = None
    """Also plot rate, gradient and update over depth to this PNG file, which must not exist."""
    parameters: Literal["final", "best", "initial"] = "final"
    """Of a run: parameters after the last epoch, at the best validation accuracy, or before
    training."""


def probe(words: list[str], out: Out) -> int:
    """Print the probe of a saved run, or of an untrained network."""
    folder = None
    if "run" in words and (at := words.index("run")) + 1 < len(words):
        folder = Path(words[at + 1])
        words = words[:at] + words[at + 2 :]
    usage = _Usage(words, "probe", ProbeOptions())
    options = dataclasses.replace(ProbeOptions(), **usage.own)
    _check.integer("probe_samples", options.probe_samples, at_least=1)
    _check_new("--figure", options.figure)
    experiment = usage.experiment() if folder is None else None
    from snnjax.runtime import use_compilation_cache

    use_compilation_cache()
    from snnjax import diagnostics, plotting
    from snnjax.experiments import load_run
    from snnjax.experiments._data import spread
    from snnjax.experiments._run import prepare

    if experiment is not None:
        prepared = prepare(experiment)
    else:
        prepared = load_run(Path(folder or ""), parameters=options.parameters)
    sample = prepared.data.sample
    x, labels = sample.batch(spread(sample, options.probe_samples))
    objective, optimizer = prepared.objective(), prepared.optimizer()
    report = diagnostics.probe(prepared.network, x, labels, objective, optimizer=optimizer)
    out(str(report))
    if options.figure is not None:
        plotting.save(plotting.depth(report), options.figure)
        out(f"figure: {options.figure}")
    return 0


class TheoryOptions(Part):
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


def theory(words: list[str], out: Out) -> int:
    """Print the table."""
    _, o = _read(words, "snnjax theory", TheoryOptions())
    from rich.table import Table

    from snnjax import theory
    from snnjax.psp import Kernel

    _check.integer("n_recurrent", o.n_recurrent, at_least=0)
    _check.number("sigma_u", o.sigma_u, above=0)
    _check.number("theta", o.theta, above=0)
    _check.number("mu_u", o.mu_u, below=o.theta)
    _check.number("alpha", o.alpha, above=0, below=1)
    kernel = Kernel(tau_mem=o.tau_mem, tau_syn=o.tau_syn, dt=o.dt)
    afferents = [theory.Afferent(o.n, o.nu, o.alpha if o.n_recurrent else 1.0)]
    if o.n_recurrent:
        nu = o.nu if o.nu_recurrent is None else o.nu_recurrent
        afferents.append(theory.Afferent(o.n_recurrent, nu, 1 - o.alpha))
    weights = theory.afferent_weights(o.mu_u, o.sigma_u, afferents, kernel, theta=o.theta)
    limit = theory.mu_u_limit(o.sigma_u, afferents, kernel)
    xi = float(theory.xi_of(o.mu_u, o.sigma_u, o.theta))
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for k in (kernel, dataclasses.replace(kernel, mode="continuous")):
        integrals = f"ebar {1e3 * k.mean():.6g} ms, ehat {1e3 * k.power():.6g} ms"
        table.add_row(f"kernel integrals, {k.mode}", integrals)
    table.add_row("xi = (theta - mu_u) / sigma_u", f"{xi:.4g} ({_regime(xi)})")
    for name, a, w in zip(("feed-forward", "recurrent"), afferents, weights, strict=False):
        table.add_row(f"{name} weights", f"mu_w {w.mu_w:.6g}, sigma_w {w.sigma_w:.6g}")
        statistics = theory.membrane_statistics(w.mu_w, w.sigma_w, n=a.n, nu=a.nu, kernel=kernel)
        spread = f"{statistics.quenched_spread:.4g}"
        table.add_row("  quenched spread of the mean membrane", spread)
    table.add_row("weights exist for", f"{-limit:.4g} <= mu_u <= {limit:.4g}")
    out(table)
    return 0


def _regime(xi: float) -> str:
    """Describe the regime of a distance `xi` from the mean membrane to the threshold."""
    if xi < 1:
        return "mean or noise near threshold: high rates"
    if xi <= 3:
        return "fluctuation-driven"
    return "threshold more than 3 standard deviations away: nearly silent"


TARGETS = (
    *(f"figure{k}" for k in range(1, 8)), "table1", "s4", "s5", "s8", "s9", "s10", "all"
)  # fmt: skip


class ReproduceOptions(Part):
    """Compute a figure or table of the paper and compare it with the published one.

    The report has our numbers, the published numbers, and a verdict on each statement of the paper.
    The same command continues an interrupted computation. Presets: smoke, minutes, on synthetic
    data, to check that everything runs; laptop, about half an hour per figure on two cores, on
    available data; paper, the paper's data, epochs and seeds, for an accelerator.
    """

    preset: Literal["smoke", "laptop", "paper"] = "laptop"
    """Data, sizes, epochs and seeds."""
    out: Path | None = None
    """Folder for all figures of one preset; None: runs/reproduce-PRESET."""
    data: Path | None = None
    """Folder with the data sets; None: the environment variable SNNJAX_DATA."""
    seeds: int | None = None
    """Number of seeds; None: that of the preset."""


def reproduce(words: list[str], out: Out) -> int:
    """Run what is missing of a figure or table."""
    targets = {"metavar": "NAME", "help": ", ".join(TARGETS)}
    found, options = _read(words, "snnjax reproduce NAME", ReproduceOptions(), name=targets)
    name = found["name"]
    if name not in TARGETS:
        raise UsageError(f"unknown figure or table {name!r}; {_hint(name, TARGETS)}")
    from snnjax.runtime import compile_quickly

    if options.preset == "smoke":
        compile_quickly()
    _prepare_jax()
    from snnjax._progress import UnitProgress
    from snnjax.reproduce import reproduce
    from snnjax.reproduce._report import screen_table
    from snnjax.reproduce._settings import Options
    from snnjax.reproduce._targets import reproduce_all

    given = Options(options.preset, options.data, options.seeds)
    root = options.out or Path("runs") / f"reproduce-{options.preset}"

    def show(name: str, result: Any) -> None:
        if isinstance(result, str):
            out(f"{name}: not run: {result}")
        else:
            out(screen_table(result.study.title, result.verdicts))
            out(f"report: {result.folder / 'report.md'}")

    with _resumable(root, f" the same command, --out {root}"), UnitProgress() as progress:
        if name == "all":
            done = reproduce_all(given, root, watch=progress.unit, on_study=show)
            out(f"report: {done.report}")
        else:
            show(name, reproduce(name, given, root, watch=progress.unit))
    return 0


COMMANDS: dict[str, tuple[Callable[[list[str], Out], int], str]] = {
    "train": (train, "train a network, or continue an interrupted run"),
    "sweep": (sweep, "train every combination of seeds and values of flags"),
    "results": (results, "show, export and draw the results of sweeps"),
    "probe": (probe, "examine every layer of a network, before or after training"),
    "reproduce": (reproduce, "compute a figure or table of the paper"),
    "theory": (theory, "weights for a target membrane"),
}
