"""A configuration as frozen dataclasses, each with the checks of its values. No torch: the command imports this first.

The parts of a method, the network and the sampler have options of their own, checked where they are defined
(`methods.registry`, `methods.networks.registry`); everything else is below.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...methods.parts.messages import cut, one_of, quoted
from ...methods.parts.options import WANTED, OptionError, part_from_options
from ..common.errors import UsageError
from ..common.units import DURATION, MEMORY, megabytes, minutes
from ..data.registry import DataOptions
from .averages import HEADLINE, Profile, build_profiles

OPTIMIZERS = ("radam", "adam")
PRECISIONS = ("fp32", "tf32", "bf16")
NONFINITE = ("skip", "zero")
ON_OOM = ("stop", "split")
QUANTISE = ("round", "truncate")
RESIZE = ("center_crop",)
LABELS = ("data", "uniform")
GUIDE_AT = (0.25, 0.5, 0.75)
DEVICES = ("auto", "cpu", "cuda", "mps")
#: Keys of the section `sample` that sampling in general has; the others are options of the method's sampler.
SAMPLE_KEYS = ("labels", "guidance", "guide_at")

#: Of things that are listed or made one by one: sampling steps, sampling seeds, resamples, snapshots.
MOST = 100_000

#: Metadata of a field whose text is taken as typed, without hydra's syntax for values: places of files.
AS_TYPED = {"as_typed": True}

#: The section of a part: its `kind` and the options of that kind, which the part itself checks.
Part = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """name, and a version that is bumped when data, recipe or evaluation change the numbers."""

    name: str
    version: int


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """The method's name, its version, and the section of each of its parts by name."""

    name: str
    version: int
    parts: Mapping[str, Part]

    @property
    def options(self) -> Mapping[str, Any]:
        """The section as `methods.registry.build` reads it."""
        return {"name": self.name, "version": self.version, **self.parts}


@dataclass(frozen=True, kw_only=True)
class DataConfig(DataOptions):
    """The training set, and how it is used.

    conditional: the network, the method's parts and sampling see each image's class.
    flip: every image comes mirrored left to right half of the time.
    """

    root: str | None = field(default=None, metadata=AS_TYPED)
    conditional: bool = False
    flip: bool = False

    def __post_init__(self) -> None:
        fits = self.resolution is None or 8 <= self.resolution <= 4096
        _must(fits, "data.resolution", self.resolution, "from 8 to 4,096, in pixels, or null")
        _must(self.resize in (None, *RESIZE), "data.resize", self.resize, f"null, or one of: {', '.join(RESIZE)}")
        share = "a share of the samples, from 0 to at most 0.5"
        _must(0 <= self.held_out <= 0.5, "data.held_out", self.held_out, share)
        if self.resize is not None and self.resolution is None:
            raise UsageError(f"data.resize={self.resize} needs data.resolution, the size to scale to")


@dataclass(frozen=True, kw_only=True)
class ResourcesConfig:
    """What a cell requests from a cluster, beyond what the cluster's file says. Changes no number, so it is in no id.

    devices: processes that train the cell together, each with one GPU, or with cores alone on a cluster without GPUs.
    nodes: over how many nodes they are spread; null: as few as hold them.
    cpus: cores per device; null: those of the cluster's file.
    memory: per device, such as 64G; null: that of the cluster's file.
    time_limit: of one job, such as 12h; null: that of the cluster's file.
    """

    devices: int = 1
    nodes: int | None = None
    cpus: int | None = None
    memory: str | None = None
    time_limit: str | None = None

    def __post_init__(self) -> None:
        for name in ("devices", "nodes", "cpus"):
            count = getattr(self, name)
            _must(count is None or count >= 1, f"train.resources.{name}", count, "at least 1")
        for name, read, text in (("memory", megabytes, MEMORY), ("time_limit", minutes, DURATION)):
            value = getattr(self, name)
            _must(value is None or _reads(read, value), f"train.resources.{name}", value, f"null, or {text}")
        spread = self.nodes is None or self.devices % self.nodes == 0
        wanted = f"a number that divides train.resources.devices ({self.devices})"
        _must(spread, "train.resources.nodes", self.nodes, wanted)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The recipe. Batch and duration are global and in images; device count and accumulation never enter."""

    images: int
    """The budget: training images that the cell sees, rounded up to whole batches."""
    batch: int
    """Images per step, over all devices."""
    optimizer: str = "radam"
    """RAdam or Adam, without weight decay."""
    lr: float
    """Learning rate."""
    lr_cooldown: float = 0.0
    """Share of the budget, at its end, over which lr falls linearly to 0; 0 keeps it constant, as the papers do."""
    lr_rampup: int = 0
    """Training images over which lr rises linearly from 0 (EDM and EDM2: 10 million); 0 starts at lr."""
    lr_decay: float | None = None
    """Images after which lr falls as 1 / sqrt(images seen / lr_decay) (EDM2, ECT on ImageNet-64); null: it does not."""
    betas: tuple[float, ...] = (0.9, 0.999)
    """Decay rates of the optimiser's first and second moments."""
    clip: float | None = None
    """The global gradient norm above which gradients are scaled down; null: no clipping."""
    ema: Part = field(default_factory=dict)
    """The averaged weights that are evaluated: the headline."""
    ema_extra: tuple[Part, ...] = ()
    """Further averages, kept with every snapshot under their own names, see `eval.ema`."""
    precision: str = "fp32"
    """Of training: fp32 (no TF32), tf32, or bf16 (autocast of the network alone)."""
    compile: bool = False
    """Compile the network of training (torch.compile): equal up to rounding. Needs a C++ compiler, and minutes once."""
    nonfinite: str = "skip"
    """What becomes of a step with a non-finite gradient: skip it, or put zero in the place of those entries."""
    init: str | None = field(default=None, metadata=AS_TYPED)
    """What training starts from: a method such as edm, which is trained first, or {method: edm, images: N}; cell:ID or
    cell:PATH, a finished cell; published weights, by a name that `bench prepare weights` knows, or a prepared file."""
    max_skipped: int = 100
    """Steps in a row with a non-finite loss or gradient after which the run is recorded as diverged."""
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)

    def __post_init__(self) -> None:
        for name in ("images", "batch", "max_skipped"):
            _must(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "at least 1")
        _must(self.images >= self.batch, "train.images", self.images, f"at least one batch ({self.batch})")
        _must(0 < self.lr < math.inf, "train.lr", self.lr, "a number above 0")
        share = "a share of the budget, from 0 to 1"
        _must(0 <= self.lr_cooldown <= 1, "train.lr_cooldown", self.lr_cooldown, share)
        _must(self.lr_rampup >= 0, "train.lr_rampup", self.lr_rampup, "at least 0, in images")
        decays = self.lr_decay is None or self.lr_decay > 0
        _must(decays, "train.lr_decay", self.lr_decay, "above 0, in images, or null")
        clips = self.clip is None or self.clip > 0
        _must(clips, "train.clip", self.clip, "above 0, or null for no clipping")
        for name, choices in (("optimizer", OPTIMIZERS), ("precision", PRECISIONS), ("nonfinite", NONFINITE)):
            _must_be_one_of(choices, f"train.{name}", getattr(self, name))
        two = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        _must(two, "train.betas", self.betas, "two numbers from 0 to below 1")
        devices = self.resources.devices
        _must(devices <= self.batch, "train.resources.devices", devices, f"at most train.batch ({self.batch})")

    @property
    def averages(self) -> dict[str, Profile]:
        """The profile of each average by its name, the headline first. Raises OptionError for what is none."""
        return build_profiles(self.ema, self.ema_extra)


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """How samples are drawn.

    labels: whose frequencies the classes of conditional samples have: those of the data, or the same for all.
    guidance: weight of the guide, an earlier snapshot of the same run; 1 turns guidance off.
    guide_at: share of the budget after which that snapshot is taken.
    options: of the method's sampler, which checks them.
    """

    labels: str = "data"
    guidance: float = 1
    guide_at: float = 0.5
    options: Part = field(default_factory=dict)

    def __post_init__(self) -> None:
        _must_be_one_of(LABELS, "sample.labels", self.labels)
        weighs = 1 <= self.guidance < math.inf
        _must(weighs, "sample.guidance", self.guidance, "a number of at least 1, which turns guidance off")
        _must_be_one_of(GUIDE_AT, "sample.guide_at", self.guide_at)


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """What is measured: metric names carry their extractor and sample count."""

    metrics: tuple[str, ...]
    """Names of metrics, the headline first; `bench list` shows examples."""
    nfe: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of network calls per image at which samples are scored."""
    curve: tuple[int, ...] | None = None
    """Those of nfe that snapshots before the last are evaluated at too; null is all of them."""
    draws: int = 1
    """Sampling seeds per snapshot."""
    bootstrap: int = 0
    """Resamples that give Fréchet distances of the last snapshot a standard error of the sampling; 0 is none."""
    batch: int = 1000
    """Samples per pass of sampling and feature extraction."""
    ema: str | None = None
    """One of train.ema_extra by its name; null is the headline."""
    quantise: str = "round"
    """How pixels become whole numbers of 0 to 255: rounded, or truncated as in the published codes of ECT and EDM."""

    def __post_init__(self) -> None:
        counts = bool(self.nfe) and all(1 <= nfe <= MOST for nfe in self.nfe)
        _must(counts, "eval.nfe", self.nfe, f"a list of step counts, each at least 1 and at most {MOST:,}")
        _must(len(set(self.nfe)) == len(self.nfe), "eval.nfe", self.nfe, "a list without repetition")
        counts = self.curve is None or all(1 <= nfe <= MOST for nfe in self.curve)
        _must(counts, "eval.curve", self.curve, f"null, or a list of step counts, each at least 1 and at most {MOST:,}")
        resamples = self.bootstrap == 0 or 10 <= self.bootstrap <= MOST
        _must(resamples, "eval.bootstrap", self.bootstrap, f"0, or at least 10 and at most {MOST:,}")
        _must(bool(self.metrics), "eval.metrics", self.metrics, "a list of at least one metric")
        unique = len(set(self.metrics)) == len(self.metrics)
        _must(unique, "eval.metrics", self.metrics, "a list without repetition")
        _must(1 <= self.draws <= MOST, "eval.draws", self.draws, f"at least 1 and at most {MOST:,}")
        _must(self.batch >= 1, "eval.batch", self.batch, "at least 1")
        _must_be_one_of(QUANTISE, "eval.quantise", self.quantise)


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    """The section `run`: how a cell is executed. No number depends on it beyond rounding, so it is in no cell's id."""

    device: str = "auto"
    """Where the cell runs; auto takes a GPU if there is one. `digits` and `toy2d` have cpu as their default."""
    micro_batch: int | None = None
    """Images per forward pass; null takes the whole batch."""
    snapshots: int = 8
    """Number of snapshots, at equal shares of the budget; each is evaluated."""
    on_oom: str = "stop"
    """If a pass does not fit into memory: stop and say which would, or split the batch further and go on."""
    check_every: int | None = None
    """Steps between two checks that losses and gradients were finite; null: 1 on the CPU, 16 on a GPU, which waits for
    each check. If one was not, the steps since the last check are repeated: the results are the same."""
    checkpoint_seconds: float = 20.0
    """The least seconds between two checkpoints. They are also 50 times the duration of one apart, so that their cost
    stays below 2 %. 0: after every check of finiteness."""
    diagnose_every: int | None = None
    """Images after which variances by noise level are measured, again and again; null: never (docs/diagnostics.md)."""

    def __post_init__(self) -> None:
        _must_be_one_of(DEVICES, "run.device", self.device)
        _must_be_one_of(ON_OOM, "run.on_oom", self.on_oom)
        for name, wanted in (
            ("micro_batch", "at least 1, or null for the whole batch"),
            ("check_every", "at least 1, in steps, or null for the device's own"),
            ("diagnose_every", "at least 1, in images, or null for never"),
        ):
            value = getattr(self, name)
            _must(value is None or value >= 1, f"run.{name}", value, wanted)
        _must(1 <= self.snapshots <= MOST, "run.snapshots", self.snapshots, f"at least 1 and at most {MOST:,}")
        _must(self.checkpoint_seconds >= 0, "run.checkpoint_seconds", self.checkpoint_seconds, "at least 0")


@dataclass(frozen=True, kw_only=True)
class StartConfig:
    """The cell whose averaged weights another one starts from, and which has to be trained before.

    cell: its name below the output folder, or the path of its folder elsewhere. id: of the cell. method: which trained
    it. images: its budget, after which the weights are taken.
    """

    cell: str
    id: str
    method: str
    images: int


@dataclass(frozen=True, kw_only=True)
class CellConfig:
    """The identity of a cell.

    id: a hash of what changes the training. group: the same without the seed and with the settings of sampling that
    keep a number out of other rows: a row of a table.
    variant: what differs from the defaults of method and benchmark as text, `key=value, …`, from `overrides`.
    overrides: the same as data; `preset` is a key of it where the variant is relative to a preset.
    training: the id of the cell with the same training and the usual sampling, where this one is of a sweep of sampling
        settings; else "".
    start: the cell that `train.init` asks for, if it asks for one.
    """

    id: str
    group: str
    benchmark: str
    method: str
    seed: int
    variant: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    training: str = ""
    start: StartConfig | None = None


@dataclass(frozen=True, kw_only=True)
class PluginConfig:
    """A plug-in that a cell uses: its folder, a SHA-256 of its sources, and what is used, such as `method/mine`."""

    folder: str
    sha256: str
    uses: tuple[str, ...]

    @property
    def trains(self) -> bool:
        """Whether the training depends on it: then its sources are part of the cell's id."""
        return any(not what.startswith("metrics/") for what in self.uses)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The whole configuration of a cell, resolved and checked; its attributes are the sections of the YAML file.

    The options of the parts of a method, of a network and of a sampler are checked when these are built.

    Raises UsageError where values are out of range or do not go together.
    """

    cell: CellConfig
    benchmark: BenchmarkConfig
    method: MethodConfig
    data: DataConfig
    network: Part
    train: TrainConfig
    sample: SampleConfig
    eval: EvalConfig
    run: ExecutionConfig
    seed: int
    plugins: tuple[PluginConfig, ...] = ()

    def __post_init__(self) -> None:
        if self.sample.guidance != 1 and self.train.images <= self.train.batch:
            raise UsageError("sample.guidance needs a budget of several batches: an earlier snapshot is the guide")
        try:
            self.train.averages  # noqa: B018  (builds the profiles, which check their options)
        except OptionError as error:
            raise UsageError(str(error)) from None

    @property
    def evaluated_average(self) -> str:
        """The name of the average of the weights that is evaluated."""
        return self.eval.ema or HEADLINE

    @property
    def budget_images(self) -> int:
        """The budget rounded up to whole batches: what the run has seen when it ends."""
        return self._whole_batches(self.train.images)

    @property
    def guide_images(self) -> int | None:
        """After how many images the guiding snapshot of the same run is taken; None without guidance."""
        guided = self.sample.guidance != 1
        return self._whole_batches(self.train.images * self.sample.guide_at) if guided else None

    @property
    def snapshot_images(self) -> list[int]:
        """After how many images the averaged weights are kept: equal shares of the budget, and the guide's place."""
        count = self.run.snapshots
        regular = {self._whole_batches(self.train.images * (k + 1) / count) for k in range(count)}
        return sorted(regular if self.guide_images is None else regular | {self.guide_images})

    def _whole_batches(self, images: float) -> int:
        return math.ceil(images / self.train.batch) * self.train.batch

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """The configuration of plain data, as from YAML.

        Raises UsageError, one sentence, for a missing section, an unknown or missing key, a value of another type.
        """
        for name in (item.name for item in dataclasses.fields(cls)):
            if name not in ("seed", "plugins") and not isinstance(values.get(name), Mapping):
                raise UsageError(f"the section '{name}' is missing")
        method, sample = dict(values["method"]), dict(values["sample"])
        parts = {name: method.pop(name) for name in list(method) if name not in ("name", "version")}
        for name, part in parts.items():
            _must(isinstance(part, Mapping), f"method.{name}", part, WANTED[Mapping])
        common = {name: sample.pop(name) for name in SAMPLE_KEYS if name in sample}
        sections = {**values, "method": {**method, "parts": parts}, "sample": {**common, "options": sample}}
        try:
            return part_from_options(cls, sections, "")
        except OptionError as error:
            raise UsageError(str(error)) from None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for YAML and JSON, in the order of the fields; `from_dict` reads it."""
        values = _plain(dataclasses.asdict(self))
        method, sample = values["method"], values["sample"]
        if not self.plugins:
            del values["plugins"]
        return {**values, "method": method | method.pop("parts"), "sample": sample | sample.pop("options")}


#: Sections with a fixed set of keys.
SECTIONS: dict[str, type] = {
    "benchmark": BenchmarkConfig,
    "data": DataConfig,
    "train": TrainConfig,
    "eval": EvalConfig,
    "run": ExecutionConfig,
}


def keys_of(section: str) -> list[str]:
    """The keys of a section with a fixed set of them; none for one whose options are those of a part."""
    return [item.name for item in dataclasses.fields(SECTIONS[section])] if section in SECTIONS else []


def is_as_typed(key: str) -> bool:
    """Whether the value of `data.root`, say, is taken as typed, without hydra's syntax for values."""
    section, _, name = key.partition(".")
    fields = dataclasses.fields(SECTIONS[section]) if section in SECTIONS else ()
    return any(item.name == name and "as_typed" in item.metadata for item in fields)


def canonical(value: Any) -> Any:
    """Plain data with each value in one spelling: 2.0 is the whole number 2, and keys are text."""
    if isinstance(value, Mapping):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    exact = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if exact else value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _must(holds: bool, key: str, value: object, wanted: str) -> None:
    if not holds:
        shown = value if isinstance(value, str) else quoted(list(value) if isinstance(value, tuple) else value)
        raise UsageError(f"{key} is {cut(shown)}, must be {wanted}")


def _must_be_one_of(choices: Sequence[object], key: str, value: object) -> None:
    _must(value in choices, key, value, one_of(value, [str(choice) for choice in choices]))


def _reads(read: Callable[[str], object], value: str) -> bool:
    try:
        read(value)
    except ValueError:
        return False
    return True
