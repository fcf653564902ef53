"""Every hyper-parameter of the method and its default, once.

The defaults are one setting for all data sets. Weights of losses live with the losses
(``functional.TERMS``); a config overrides them by name. What a compiled program depends on is
listed in ``functional/settings.py``: everything else can change without compiling anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import reprlib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, Self

CHECKPOINT_EVERY = 100
"""Steps of training between two checkpoints."""
# More would take years, or does not fit into the 32 bits that arrays count in.
_STEPS = 1_000_000
_WIDTH = 65_536
_CELLS = 2**31 - 1
# Numbers that float32 holds, with their inverse.
_REAL = 1e30
_TINY = 1e-30
# Of a file of settings.
_BYTES = 1_000_000
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 120
_REPR.maxlist = _REPR.maxtuple = 10


def shown(value: object) -> str:
    """Return what was found as a message shows it: not too long, whatever it is."""
    if isinstance(value, int) and abs(value) > 10**30:
        return f"a number of about {value.bit_length() * 0.30103:.0f} digits"
    try:
        return _REPR.repr(value)
    except (ValueError, RecursionError):  # a number of many digits within, say
        return f"a {type(value).__name__}"


def _expect(ok: bool, name: str, wanted: str, found: object) -> None:  # noqa: FBT001
    if not ok:
        msg = f"Expected `{name}` to be {wanted}, found {shown(found)}."
        raise ValueError(msg)


def _check_ranges(section: Any, **ranges: tuple[float, float]) -> None:
    """Check that numbers of a section are of their type, and within these bounds."""
    defaults = {item.name: item.default for item in fields(section)}
    for name, (low, high) in ranges.items():
        value = getattr(section, name)
        whole_name = f"{type(section).__name__.lower()}.{name}"
        _check_type(whole_name, value, defaults[name])
        _expect(low <= value <= high, whole_name, f"between {low:.15g} and {high:.15g}", value)
        if isinstance(defaults[name], float):
            object.__setattr__(section, name, float(value))


@dataclass(frozen=True)
class Preprocessing:
    """From counts to features and graph."""

    n_top_genes: int = 2000
    """Highly variable genes kept."""
    n_components: int = 50
    """Principal components, the features ``p``; fewer if the data has fewer."""
    scale: bool = True
    """Scale every gene to unit variance before PCA (clipped at 10 standard deviations)."""
    n_neighbors: int = 15
    """Nearest neighbours of each cell, by cosine, before the graph is made symmetric."""

    def __post_init__(self) -> None:
        _check_ranges(
            self, n_top_genes=(2, _CELLS), n_components=(2, 10_000), n_neighbors=(1, 10_000)
        )


@dataclass(frozen=True)
class Augmentation:
    """The two views."""

    feature_noise: float = 0.0
    """Standard deviation of the multiplicative noise on features; 0 is off."""
    edge_removal: float = 0.1
    """Share of links, the least similar ones, that view 1 loses; 0 is off."""
    diffusion: bool = True
    """View 2 diffuses by personalised PageRank; off, it uses the whole graph as it is."""
    alpha: float = 0.2
    """Restart probability of the diffusion, in (0, 1)."""
    diffusion_tolerance: float = 1e-4
    """Largest error of the truncated series on the spectrum [-1, 1]."""

    def __post_init__(self) -> None:
        # of a smaller alpha or tolerance, the series has many thousands of terms
        _check_ranges(
            self,
            feature_noise=(0, 1e6),
            edge_removal=(0, 1),
            alpha=(1e-3, 1),
            diffusion_tolerance=(1e-15, 1),
        )
        for name in ("edge_removal", "alpha", "diffusion_tolerance"):
            _expect(getattr(self, name) < 1, f"augmentation.{name}", "below 1", getattr(self, name))


@dataclass(frozen=True)
class Network:
    """Sizes of the two autoencoders."""

    feature_layers: tuple[int, ...] = (128,)
    """Hidden widths of the feature encoder; its decoder mirrors them. The paper's are
    (128, 256, 512)."""
    graph_layers: tuple[int, ...] = (64,)
    """Hidden widths of the graph encoder; its decoder mirrors them. The paper's are (128, 256)."""
    projection_layers: tuple[int, ...] = (256,)
    """Hidden widths of the projection, which learns by contrast between neighbours."""
    contrast_layers: tuple[int, ...] = (128,)
    """Hidden widths of a network behind the projection, whose output is contrasted."""
    n_latent: int = 20
    """Latent dimensions ``d``."""
    negative_slope: float = 0.2
    """Slope of LeakyReLU in the feature autoencoder."""
    linear_path: bool = True
    """Encoders and decoders are a linear map plus a learned residual, so that they start from
    the leading components and lose nothing that their input had."""

    def __post_init__(self) -> None:
        for name in ("feature_layers", "graph_layers", "projection_layers", "contrast_layers"):
            # a list from a TOML file would make the config unhashable
            _check_type(f"network.{name}", getattr(self, name), ())
            object.__setattr__(self, name, tuple(getattr(self, name)))
            widths = getattr(self, name)
            whole = all(_is_whole(width) and 1 <= width <= _WIDTH for width in widths)
            wanted = f"1 to 16 positive widths, each up to {_WIDTH}"
            _expect(1 <= len(widths) <= 16 and whole, f"network.{name}", wanted, widths)
        _check_ranges(self, n_latent=(2, 4096), negative_slope=(-1e6, 1e6))


@dataclass(frozen=True)
class Fusion:
    """Adaptive fusion of both latents."""

    gate: Literal["computed", "per_cell", "fixed"] = "computed"
    """Weights of the two latents: computed from them, free for each cell, or 0.5 each."""
    local: bool = True
    """Propagate the fused latent once over the graph."""
    global_attention: bool = False
    """Add ``beta`` times self-attention over all cells, ``beta`` learned from 0."""

    def __post_init__(self) -> None:
        options = ("computed", "per_cell", "fixed")
        _expect(self.gate in options, "fusion.gate", f"one of {options}", self.gate)


class Weights(Mapping[str, float]):
    """Weights of loss terms by name, immutable; terms that are not named keep their own.

    Parameters
    ----------
    weights
        0 to 1e30 each; 0 leaves a term out: it is then not computed at all.

    Raises
    ------
    ValueError
        If a weight is no number, or not in that range.
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        for name, value in (weights or {}).items():
            _check_type(f"losses.{name}", value, 0.0)
            wanted = f"between 0 and {_REAL:g}"
            _expect(0 <= value <= _REAL, f"losses.{name}", wanted, value)
        self._weights = {str(name): float(value) for name, value in sorted((weights or {}).items())}

    def __getitem__(self, name: str) -> float:
        return self._weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def __hash__(self) -> int:
        return hash(tuple(self._weights.items()))

    def __repr__(self) -> str:
        return f"Weights({self._weights})"


@dataclass(frozen=True)
class Transport:
    """Optimal-transport targets."""

    epsilon: float = 0.2
    """Entropic regularisation; the paper's ``lambda`` is ``1 / epsilon``."""
    refresh_every: int = 5
    """Training steps between two refreshes of the target; 0 leaves it as it is."""
    threshold: float = 1e-5
    """Error of the marginals at which Sinkhorn has converged."""
    max_iterations: int = 5000
    """Sinkhorn iterations at most."""

    def __post_init__(self) -> None:
        _check_ranges(
            self,
            epsilon=(_TINY, _REAL),
            refresh_every=(0, _STEPS),
            threshold=(_TINY, _REAL),
            max_iterations=(10, _STEPS),
        )


# Stages in their order, and how the setting of their steps begins.
_PREFIXES = {
    "contrast": "contrast_",
    "features": "feature_",
    "graph": "graph_",
    "joint": "joint_",
    "train": "",
}


@dataclass(frozen=True)
class Training:
    """Length, step size and batches of the five stages.

    By default the projection alone learns, for a few seconds: it is the embedding that users get.
    Clusters are those of the fused embedding of autoencoders that begin as the leading components,
    smoothed over the graph; training them (:meth:`Config.paper`) hardly moved partitions, and
    cost minutes.
    """

    contrast_steps: int = 500
    """Steps of the projection, on batches of cells: as many for few cells as for many."""
    feature_steps: int = 0
    """Pre-training steps of the feature autoencoder, on batches of cells."""
    graph_steps: int = 0
    """Pre-training steps of the graph autoencoder, on all cells."""
    joint_steps: int = 0
    """Joint pre-training steps, on all cells."""
    steps: int = 0
    """Training steps with all terms, on all cells."""
    patience: int = 0
    """Training stops early once no cell's target moved in so many steps; 0 does not stop early."""
    contrast_rate: float = 1e-3
    """Adam's largest learning rate for the projection: it rises from 0 and falls to 0 again over
    ``contrast_steps``."""
    pretrain_rate: float = 1e-4
    """Adam's learning rate in pre-training of the autoencoders."""
    rate: float = 1e-4
    """Adam's learning rate in training."""
    gradient_norm: float = 10.0
    """Global norm at which gradients are clipped."""
    contrast_batch: int = 512
    """Cells in a batch of the projection's, each with one of its neighbours. No batch has more
    cells than there are, but for up to 1,024, which may be drawn twice."""
    contrast_temperature: float = 0.5
    """Cosines over this are what contrast compares: a small one looks at the nearest only."""
    contrast_dropout: float = 0.2
    """Share of the features that both cells of a pair lose, each its own."""
    feature_batch: int = 1024
    """Cells in a batch of the feature autoencoder's pre-training."""
    zinb_batch: int = 512
    """Cells, drawn anew each step, whose counts enter the ZINB term."""
    first_partition: Literal["consensus", "candidate"] = "consensus"
    """What training starts from: the consensus of the candidate partitions that rank high, or one
    of those; refits start from one each."""

    def __post_init__(self) -> None:
        options = ("consensus", "candidate")
        value = self.first_partition
        _expect(value in options, "training.first_partition", f"one of {options}", value)
        steps = dict.fromkeys((f"{prefix}steps" for prefix in _PREFIXES.values()), (0, _STEPS))
        rates = ("contrast_rate", "pretrain_rate", "rate", "gradient_norm", "contrast_temperature")
        _check_ranges(
            self,
            **steps,
            patience=(0, _STEPS),
            **dict.fromkeys(rates, (_TINY, _REAL)),
            contrast_dropout=(0, 1),
            contrast_batch=(2, _STEPS),
            feature_batch=(1, _STEPS),
            zinb_batch=(1, _STEPS),
        )
        dropout = self.contrast_dropout
        _expect(dropout < 1, "training.contrast_dropout", "below 1", dropout)

    def steps_of(self) -> dict[str, int]:
        """Return the number of steps of each stage, in their order."""
        return {stage: getattr(self, f"{prefix}steps") for stage, prefix in _PREFIXES.items()}

    def sees_counts(self) -> bool:
        """Whether any step that is taken may see counts: contrast is of features alone."""
        return any(n for stage, n in self.steps_of().items() if stage != "contrast")


@dataclass(frozen=True)
class Scale:
    """What is approximated for many cells, and how exact matrix products are.

    Attention and the reconstruction of the adjacency compare pairs of cells; both are off by
    default.
    """

    exact_cells: int = 32768
    """Cells up to which attention and adjacency are over all pairs. Beyond, each cell is paired
    with itself and with landmarks that stand for the others; the result names that."""
    landmarks: int = 8192
    """Number of landmarks, evenly spaced among the cells."""
    full_cells: int = 200_000
    """Cells up to which every step sees all of them. Beyond, a step sees one mini-batch of graph
    parts; targets and the result are still over all cells. The result names that."""
    batch_cells: int = 32768
    """Cells of a mini-batch, up to rounding to whole parts."""
    precision: Literal["default", "high", "highest"] = "highest"
    """Precision of matrix products: ``"highest"`` is float32, ``"default"`` the fastest of the
    device (tf32 or bfloat16 on some). Correlations and Sinkhorn are float32 always."""

    def __post_init__(self) -> None:
        cells = dict.fromkeys(("exact_cells", "landmarks", "full_cells"), (1, _CELLS))
        _check_ranges(self, **cells, batch_cells=(64, _CELLS))
        # beyond, products of two positions among them would overflow 32 bits
        _expect(self.landmarks <= 46_340, "scale.landmarks", "at most 46340", self.landmarks)
        options = ("default", "high", "highest")
        _expect(self.precision in options, "scale.precision", f"one of {options}", self.precision)


# Parts of the paper that the defaults leave out. Published rates of training are 1e-4 to 1e-2, one
# for each data set.
_PAPER = {
    "augmentation": {"feature_noise": 0.1},
    "network": {"feature_layers": [128, 256, 512], "graph_layers": [128, 256]},
    "fusion": {"global_attention": True},
    "losses": {
        "adjacency": 0.1,
        "cell_correlation_features": 0.1,
        "cell_correlation_graph": 5.0,
        "latent_correlation": 1.0,
        "propagation": 1.0,
    },
    "training": {
        "contrast_steps": 0,
        "feature_steps": 200,
        "graph_steps": 200,
        "joint_steps": 200,
        "steps": 50,
        "pretrain_rate": 1e-4,
        "rate": 1e-3,
    },
}

_FAST = {"training": {"contrast_steps": 0}}

_SHORT = {"training": {"contrast_steps": 0, "feature_steps": 20, "steps": 4}}


@dataclass(frozen=True)
class Config:
    """All settings of one run: frozen and hashable.

    Examples
    --------
    >>> config = Config.from_dict({"losses": {"zinb": 0.0}, "training": {"steps": 10}})
    >>> config.losses["zinb"], config.training.steps, config.network.n_latent
    (0.0, 10, 20)
    """

    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    augmentation: Augmentation = field(default_factory=Augmentation)
    network: Network = field(default_factory=Network)
    fusion: Fusion = field(default_factory=Fusion)
    losses: Weights = field(default_factory=Weights)
    transport: Transport = field(default_factory=Transport)
    training: Training = field(default_factory=Training)
    scale: Scale = field(default_factory=Scale)

    def __post_init__(self) -> None:
        losses: object = self.losses
        if isinstance(losses, Mapping) and not isinstance(losses, Weights):
            object.__setattr__(self, "losses", Weights(losses))
        patience, every = self.training.patience, self.transport.refresh_every
        _expect(
            not patience or patience >= every > 0,
            "training.patience",
            f"0, or steps with a refresh of the target among them (every {every})",
            patience,
        )

    @classmethod
    def paper(cls) -> Self:
        """Return the paper's method: its terms, widths, rates and 200 + 50 epochs; no contrast.

        What the default leaves out did not help (``benchmarks/ablation.py``).

        Examples
        --------
        >>> Config.paper().fusion.global_attention, Config().fusion.global_attention
        (True, False)
        """
        return cls.from_dict(_PAPER)

    @classmethod
    def fast(cls) -> Self:
        """Return the defaults with nothing learned: clusters are the same, and come sooner.

        The embedding is then the one that cells are clustered in.

        Examples
        --------
        >>> any(Config.fast().training.steps_of().values())
        False
        """
        return cls.from_dict(_FAST)

    @classmethod
    def short(cls) -> Self:
        """Return the defaults with a little training, of the first and the last stage only.

        For demonstrations and tests: half as much is compiled as for all stages.
        """
        return cls.from_dict(_SHORT)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make a config from nested mappings; what is left out keeps its default.

        Also from those that a file gives back, with arrays for lists and numpy's numbers.

        Raises
        ------
        ValueError
            If a section or setting does not exist, or a value is out of range.
        """
        _expect(isinstance(values, Mapping), "config", "a table of sections", values)
        sections = {item.name: item.default_factory for item in fields(cls)}
        parts: dict[str, Any] = {}
        for name, settings in values.items():
            _expect(name in sections, "config", f"made of the sections {sorted(sections)}", name)
            _expect(isinstance(settings, Mapping), f"config.{name}", "a table", settings)
            settings = {key: _plain(value) for key, value in settings.items()}
            kind: Any = sections[name]
            if kind is Weights:
                parts[name] = Weights(settings)
                continue
            defaults = {item.name: item.default for item in fields(kind)}
            for key, value in settings.items():
                _expect(key in defaults, f"config.{name}", f"made of {sorted(defaults)}", key)
                _check_type(f"{name}.{key}", value, defaults[key])
            parts[name] = kind(**settings)
        return cls(**parts)

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """Read a config from a TOML file with one table for each section.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is no file of TOML, or names what does not exist.
        """
        file = Path(path)
        if file.exists():  # a pipe may never end
            wanted = f"a TOML file of up to {_BYTES} bytes, no directory or pipe"
            _expect(file.is_file() and file.stat().st_size <= _BYTES, "config", wanted, str(path))
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
        except (ValueError, RecursionError) as error:  # tables in tables without end
            msg = f"Expected `config` to be a TOML file, found {str(path)!r}: {error}."
            raise ValueError(msg) from error
        return cls.from_dict(values)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return all settings as nested plain types, lists for tuples."""
        sections = {item.name: getattr(self, item.name) for item in fields(self)}
        plain = {
            name: dict(one) if isinstance(one, Weights) else dataclasses.asdict(one)
            for name, one in sections.items()
        }
        return json.loads(json.dumps(plain))

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that are equal for equal settings only."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """Return a value of numpy's as Python's."""
    return value.tolist() if hasattr(value, "tolist") else value


def _check_type(name: str, value: object, default: object) -> None:
    kind = type(default)
    if kind is int:
        right = _is_whole(value)
    elif kind is float:
        right = isinstance(value, Real) and not isinstance(value, bool)
    else:
        right = isinstance(value, (list, tuple) if kind is tuple else kind)
    _expect(right, name, f"of type {kind.__name__}", value)


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
