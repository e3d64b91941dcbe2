"""Rendering of one cell: its shape and its structures in each stain.

Each structure is first a *score*, an image of where its stain is brightest. The scores inside the
cell are then replaced by a fixed ladder of intensities, in the order of the scores. Every cell thus
has the same histogram in every stain, whatever its phenotype: knock-outs differ only in the spatial
arrangement of the stain.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import scipy.fft
from jaxtyping import Bool, Float, Float32

from mae_jax.synth.biology import PARAMETERS

WINDOW = 96  # pixels along each side of the largest window in which a cell is drawn
_WINDOWS = (48, 56, 64, 72, 80, 88, WINDOW)  # a cell takes the smallest that holds it
_RADIUS = 24.0  # mean radius of a control cell, pixels
_NUCLEUS = 10.5  # mean radius of its nucleus, pixels
_STEPS = 2048

# Ladders of intensity: the share of a structure's pixels below each level, 1 is bright.
_q = (np.arange(_STEPS) + 0.5) / _STEPS
_LADDERS = {
    "dna": 0.55 + 0.75 * _q**1.5,
    "rna": 0.20 + 0.45 * _q + 0.9 * _q**20,
    "er": 0.10 + 0.95 * _q**1.8,
    "actin": 0.18 + 0.40 * _q + 0.55 * _q**6,
    "golgi": 0.04 + 0.10 * _q + 1.5 * _q**14,
    "mito": 0.08 + 0.22 * _q + 1.15 * _q**5,
}
_LADDERS = {name: ladder.astype(np.float32) for name, ladder in _LADDERS.items()}
STRUCTURES = tuple(_LADDERS)

Picture = Float32[np.ndarray, "window window"]


@dataclasses.dataclass(frozen=True)
class _Grid:
    """Coordinates in a window, pixels from its center, and of its half spectrum."""

    axis: Float32[np.ndarray, " window"]
    x: Picture
    y: Picture
    log_frequency: Float32[np.ndarray, "window half"]
    cos_twice: Float32[np.ndarray, "window half"]  # of twice a wave's direction
    sin_twice: Float32[np.ndarray, "window half"]


@functools.lru_cache
def _grid(window: int) -> _Grid:
    axis = np.arange(window, dtype=np.float32) - np.float32((window - 1) / 2)
    x, y = np.meshgrid(axis, axis)
    fx, fy = np.meshgrid(scipy.fft.rfftfreq(window), scipy.fft.fftfreq(window))
    squared = np.maximum(fx**2 + fy**2, 1e-8)  # the mean has no direction and is filtered out
    return _Grid(
        axis,
        x,
        y,
        (0.5 * np.log(squared)).astype(np.float32),
        ((fx**2 - fy**2) / squared).astype(np.float32),
        (2 * fx * fy / squared).astype(np.float32),
    )


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell's shape in its window; distances are 0 at the center and 1 at the border.

    Attributes:
      row, column: position of the window's first pixel in the field (may be negative).
      traits: the morphological parameters, by name.
      angle: direction of the long axis, radians.
      from_center: distance from the cell's center.
      from_nucleus: distance from the nearest nucleus's center; 1 is the nuclear envelope.
      depth: 0 at the nuclear envelope to 1 at the cell's border; below 0 inside the nucleus.
      nuclei: centers (x, y) of the nuclei in the window's coordinates.
      nucleus_radius: mean radius of a nucleus in pixels.
    """

    row: int
    column: int
    traits: dict[str, float]
    angle: float
    from_center: Picture
    from_nucleus: Picture
    depth: Picture
    nuclei: tuple[tuple[float, float], ...]
    nucleus_radius: float


def shape_cell(
    rng: np.random.Generator,
    center: tuple[float, float],
    traits: Float[np.ndarray, " parameters"],
    scale: float,
) -> Cell:
    """Lay out a cell and its nuclei around `center` (row, column) of the field, in pixels."""
    t = dict(zip(PARAMETERS, np.clip(traits, -4, 4).tolist(), strict=True))
    angle = float(rng.uniform(0, np.pi))
    radius = _RADIUS * scale * float(np.exp(np.clip(0.08 * rng.standard_normal(), -0.2, 0.2)))
    aspect = float(np.clip(1.25 * np.exp(0.30 * t["cell_elongation"]), 1.0, 2.8))
    from_center = _ellipse(WINDOW, 0.0, 0.0, angle, radius, aspect)
    # A lobed border: the distance is divided by a radius that varies with direction.
    lobes = np.zeros_like(from_center)
    power = _DIRECTIONS
    for size in (0.13, 0.12, 0.07):
        power = power * _DIRECTIONS
        phase = np.complex64(np.exp(1j * rng.uniform(0, 2 * np.pi)) * size * rng.standard_normal())
        lobes += (power * phase).real
    from_center = np.maximum(from_center / np.clip(1 + lobes, 0.7, 1.4), _WINDOW_BORDER)
    reach = float(_WINDOW_BORDER[from_center < 1.04].max()) * (WINDOW / 2 - 2) + 1
    window = next(size for size in _WINDOWS if size >= min(2 * reach, WINDOW))
    cut = slice((WINDOW - window) // 2, (WINDOW + window) // 2)
    from_center = np.ascontiguousarray(from_center[cut, cut])
    row, column = int(center[0]) - window // 2, int(center[1]) - window // 2

    nucleus_radius = _NUCLEUS * scale * float(np.exp(0.04 * t["nucleus_size"]))
    nucleus_aspect = float(np.clip(1.22 * np.exp(0.25 * t["nucleus_elongation"]), 1.0, 2.6))
    nucleus_angle = angle + 0.35 * float(rng.standard_normal())
    x, y = (rng.standard_normal(2) * 2.0).tolist()
    two = rng.random() < 1 / (1 + np.exp(2.6 - 1.3 * t["binucleation"]))
    split = rng.uniform(0, np.pi)
    if two:
        nucleus_radius *= 0.72  # the same area in two
        dx = float(np.cos(split)) * nucleus_radius * 1.12
        dy = float(np.sin(split)) * nucleus_radius * 1.12
        nuclei: tuple[tuple[float, float], ...] = ((x - dx, y - dy), (x + dx, y + dy))
    else:
        nuclei = ((x, y),)
    from_nucleus = _ellipse(window, *nuclei[0], nucleus_angle, nucleus_radius, nucleus_aspect)
    for other in nuclei[1:]:
        distance = _ellipse(window, *other, nucleus_angle, nucleus_radius, nucleus_aspect)
        from_nucleus = np.minimum(from_nucleus, distance)
    outside = (from_nucleus - 1) * nucleus_radius
    inside = np.maximum(1 - from_center, 0) * radius
    depth = (outside / (np.maximum(outside, 0) + inside + 1)).astype(np.float32)
    return Cell(row, column, t, angle, from_center, from_nucleus, depth, nuclei, nucleus_radius)


def draw_structure(
    name: str, rng: np.random.Generator, cell: Cell, inside: Bool[np.ndarray, "window window"]
) -> Picture:
    """One structure (of `STRUCTURES`) of a cell, on the pixels `inside`, 0 elsewhere.

    Intensities are those of the structure's ladder, so they lie between 0 and about 1.7.
    """
    if name == "dna":
        inside = inside & (cell.from_nucleus < 1.12)
    score = _SCORES[name](rng, cell)
    return _with_ladder(score, inside, _LADDERS[name])


def _chromatin(rng: np.random.Generator, cell: Cell) -> Picture:
    wavelength = _stretched(7.0, 0.30, cell.traits["chromatin_grain"], 3.6, 16.0)
    fall = np.clip((cell.from_nucleus - 0.80) / 0.25, 0, None)
    return _texture(rng, cell, wavelength) - 3 * fall


def _rna(rng: np.random.Generator, cell: Cell) -> Picture:
    wavelength = _stretched(7.0, 0.25, cell.traits["rna_grain"], 3.6, 16.0)
    texture = _texture(rng, cell, wavelength)
    cytoplasm = 1.0 - 1.3 * cell.depth + 0.45 * texture
    score = np.where(cell.from_nucleus < 1, 0.1 + 0.1 * texture, cytoplasm)
    # Nucleoli: the same area in few large or many small ones.
    number = int(np.clip(np.rint(3.2 * np.exp(0.38 * cell.traits["nucleoli_number"])), 1, 12))
    size = 0.36 * cell.nucleus_radius / np.sqrt(number)
    for x, y in cell.nuclei:
        offsets = _scattered(rng, max(1, number // len(cell.nuclei)))
        for dx, dy in offsets * cell.nucleus_radius * 0.62:
            _add_spot(score, x + dx, y + dy, size, 6.0)
    return score


def _er(rng: np.random.Generator, cell: Cell) -> Picture:
    wavelength = _stretched(9.5, 0.32, cell.traits["er_grain"], 4.0, 24.0)
    middle = 0.5 + 0.5 * np.tanh(0.45 * (cell.traits["er_spread"] - 0.7))
    envelope = -np.abs(cell.depth - np.float32(0.85 * middle)) * 3.2
    score = envelope + 0.55 * _texture(rng, cell, wavelength)
    return np.where(cell.from_nucleus < 1, score * 0.2 - 1.6, score)


def _actin(rng: np.random.Generator, cell: Cell) -> Picture:
    coherence = float(np.exp(np.clip(0.8 * cell.traits["actin_coherence"] - 0.5, -3.0, 2.5)))
    along = cell.angle + 0.25 * float(rng.standard_normal())
    fibres = _texture(rng, cell, 8.5, across=along + np.pi / 2, coherence=coherence)
    rim = 1 / (1 + np.exp(-(cell.traits["actin_cortex"] - 0.4)))  # share of the rim
    border = np.exp(-(((0.91 - cell.from_center) / np.float32(0.09)) ** 2))
    across_cell = fibres * np.float32(1.15 * (1.25 - rim))
    score = across_cell + border * np.float32(3.2 * rim - 0.3)
    return np.where(cell.from_nucleus < 1, score * np.float32(0.5) - 0.2, score)


def _golgi(rng: np.random.Generator, cell: Cell) -> Picture:
    # Angular spread of the pieces around the nucleus, and how far out they lie.
    spread = _stretched(0.55, 0.55, cell.traits["golgi_spread"], 0.15, 3.0)
    out = _stretched(5.0, 0.22, cell.traits["golgi_spread"], 2.5, 12.0)
    start = float(rng.uniform(0, 2 * np.pi))
    x0 = sum(x for x, _ in cell.nuclei) / len(cell.nuclei)
    y0 = sum(y for _, y in cell.nuclei) / len(cell.nuclei)
    reach = cell.nucleus_radius * (1.1 if len(cell.nuclei) == 1 else 1.9)
    angles = start + spread * rng.standard_normal(9)
    distances = reach + out * rng.random(9)
    sizes = rng.uniform(1.8, 2.8, 9)
    score = 0.25 * _texture(rng, cell, 8.0) - 1.5 * cell.depth
    for angle, distance, size in zip(angles, distances, sizes, strict=True):
        x, y = x0 + distance * np.cos(angle), y0 + distance * np.sin(angle)
        _add_spot(score, x, y, size, 3.0)
    return np.where(cell.from_nucleus < 1, np.minimum(score, 0.3), score)


def _mito(rng: np.random.Generator, cell: Cell) -> Picture:
    dots = 1 / (1 + np.exp(-1.1 * cell.traits["mito_fragmentation"]))
    # Filaments are the level sets of a smooth noise; dots are the peaks of a finer one.
    network = np.exp(-((_texture(rng, cell, 15.0) / np.float32(0.28)) ** 2))
    peaks = np.clip(_texture(rng, cell, 6.0) - 0.5, 0, 1.6)
    middle = 0.5 + 0.5 * np.tanh(0.45 * (cell.traits["mito_spread"] - 0.7))
    envelope = np.exp(-(((cell.depth - np.float32(0.1 + 0.65 * middle)) / np.float32(0.38)) ** 2))
    score = (network * np.float32(1 - dots) + peaks * np.float32(dots) + 0.22) * envelope
    return np.where(cell.from_nucleus < 1, score * np.float32(0.15), score)


_SCORES: dict[str, Callable[[np.random.Generator, Cell], Picture]] = {
    "dna": _chromatin,
    "rna": _rna,
    "er": _er,
    "actin": _actin,
    "golgi": _golgi,
    "mito": _mito,
}


def _stretched(typical: float, rate: float, trait: float, low: float, high: float) -> float:
    """A length that grows by a constant factor with each unit of a parameter, within bounds."""
    return float(np.clip(typical * np.exp(rate * trait), low, high))


def _ellipse(
    window: int, x: float, y: float, angle: float, radius: float, aspect: float
) -> Picture:
    """Distance from (x, y), 1 on the ellipse of this mean radius and ratio of axes."""
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    grid = _grid(window)
    dx, dy = grid.x - np.float32(x), grid.y - np.float32(y)
    long = (dx * c + dy * s) * np.float32(1 / (radius * np.sqrt(aspect)))
    short = (dy * c - dx * s) * np.float32(np.sqrt(aspect) / radius)
    return np.sqrt(long * long + short * short)


# In the largest window: directions from its center as complex numbers of length 1, and a
# distance that keeps a long cell inside it.
_DIRECTIONS = _grid(WINDOW).x + 1j * _grid(WINDOW).y
_DIRECTIONS = (_DIRECTIONS / np.abs(_DIRECTIONS)).astype(np.complex64)
_WINDOW_BORDER = np.maximum(np.abs(_grid(WINDOW).x), np.abs(_grid(WINDOW).y))
_WINDOW_BORDER = _WINDOW_BORDER / np.float32(WINDOW / 2 - 2)


def _texture(
    rng: np.random.Generator,
    cell: Cell,
    wavelength: float,
    across: float = 0.0,
    coherence: float = 0.0,
) -> Picture:
    """Noise of one wavelength (pixels) in the cell's window, mean 0 and standard deviation 1.

    With `coherence` above 0 its waves run mostly in the direction `across` (radians), which
    makes fibres at right angles to it.
    """
    window = len(cell.depth)
    grid = _grid(window)
    spectrum = rng.standard_normal((window, window + 2), dtype=np.float32).view(np.complex64)
    octaves = grid.log_frequency + np.float32(np.log(wavelength))
    filters = np.exp(octaves * octaves * np.float32(-1 / 0.18))
    if coherence > 0:
        towards = grid.cos_twice * np.float32(np.cos(2 * across))
        towards += grid.sin_twice * np.float32(np.sin(2 * across))
        filters *= np.exp(np.float32(coherence) * (towards - 1))
    # The noise's expected spread, for a half spectrum whose parts have variance 1 each.
    spread = 2 * np.sqrt(np.vdot(filters, filters)) / window**2
    spectrum *= filters * np.float32(1 / spread)
    return scipy.fft.irfft2(spectrum, s=(window, window), overwrite_x=True)


def _add_spot(score: Picture, x: float, y: float, size: float, height: float) -> None:
    """Add a Gaussian spot of standard deviation `size` around (x, y), in place."""
    axis, middle, reach = _grid(len(score)).axis, len(score) / 2, 3 * size + 1
    first_x, first_y = (max(int(v - reach + middle), 0) for v in (x, y))
    last_x, last_y = (max(int(v + reach + middle) + 1, 0) for v in (x, y))
    across = np.exp(((axis[first_x:last_x] - np.float32(x)) / np.float32(size)) ** 2 * -0.5)
    down = np.exp(((axis[first_y:last_y] - np.float32(y)) / np.float32(size)) ** 2 * -0.5)
    score[first_y:last_y, first_x:last_x] += np.float32(height) * down[:, None] * across[None, :]


def _scattered(rng: np.random.Generator, number: int) -> Float[np.ndarray, "number 2"]:
    """Well-separated points in the unit disc: each the farthest of a few candidates."""
    points = np.zeros((0, 2))
    for _ in range(number):
        angles = rng.uniform(0, 2 * np.pi, 6)
        radii = np.sqrt(rng.random(6))[:, None]
        candidates = radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        if len(points):
            gaps = ((candidates[:, None] - points[None]) ** 2).sum(-1).min(axis=1)
            candidates = candidates[gaps.argmax()][None]
        points = np.vstack([points, candidates[:1]])
    return points


def _with_ladder(
    score: Picture, inside: Bool[np.ndarray, "window window"], ladder: Float32[np.ndarray, " steps"]
) -> Picture:
    picture = np.zeros_like(score)
    values = score[inside]
    if values.size:
        levels = np.empty_like(values)
        levels[values.argsort()] = ladder[np.arange(values.size) * _STEPS // values.size]
        picture[inside] = levels
    return picture
