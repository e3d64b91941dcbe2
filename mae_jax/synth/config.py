"""Configuration of a synthetic screen: size, channels, strengths of effects."""

from mae_jax.config import distinct, nearest, schema, setting
from mae_jax.errors import InputError

# The structures that each channel shows, with their weights.
CHANNEL_STRUCTURES: dict[str, dict[str, float]] = {
    "DNA": {"dna": 1.0},
    "RNA": {"rna": 1.0},
    "ER": {"er": 1.0},
    "AGP": {"actin": 0.7, "golgi": 0.8},
    "Mito": {"mito": 1.0},
    "Actin": {"actin": 1.0},
    "Golgi": {"golgi": 1.0},
}
JUMP_CHANNELS = ("DNA", "RNA", "ER", "AGP", "Mito")
RXRX_CHANNELS = ("DNA", "ER", "Actin", "RNA", "Mito", "Golgi")

# Plate formats: rows, columns. A plate takes the smallest that holds its wells.
PLATE_FORMATS = ((8, 12), (16, 24), (32, 48))


def _drawable(channels: tuple[str, ...]) -> str | None:
    for name in channels:
        if name not in CHANNEL_STRUCTURES:
            return f"has no '{name}' to draw: {nearest(name, list(CHANNEL_STRUCTURES))}"
    return distinct(channels)


@schema
class ScreenConfig:
    """A synthetic Cell Painting screen.

    Attributes:
      seed: of all random draws.
      experiments: number of experiments (JUMP's batches), named EXP-1, EXP-2, …
      plates: plates in each experiment.
      genes: genes knocked out.
      complex_sizes: number of genes in each complex; the genes left over are in none.
      experiments_per_gene: experiments with a gene, on every plate of each; capped at all of
        them. Genes of different experiments differ by batch before any correction.
      wells_per_gene: replicate wells of a gene on a plate.
      controls: negative-control wells on a plate.
      sites: fields of view in a well.
      image_size: pixels along each side of a field.
      channels: channel names, out of DNA, RNA, ER, AGP, Mito, Actin, Golgi.
      confluence: share of the field that cells cover on average.
      phenotype_strength: scale of the effects of knock-outs; 0 makes every gene a control.
      batch_strength: scale of the differences between experiments, plates and well positions;
        0 makes all plates alike.
      noise_strength: scale of the variation between replicate wells and between cells, and of
        the camera's noise.
    """

    seed: int = setting(0, ge=0, lt=2**63)
    experiments: int = setting(4, ge=1)
    plates: int = setting(3, ge=1)
    genes: int = setting(48, ge=1)
    complex_sizes: tuple[int, ...] = setting((4, 4, *(3,) * 12), ge=2)
    experiments_per_gene: int = setting(2, ge=1)
    wells_per_gene: int = setting(2, ge=1)
    controls: int = setting(14, ge=1)
    sites: int = setting(1, ge=1)
    image_size: int = setting(192, ge=32, le=4096)
    channels: tuple[str, ...] = setting(JUMP_CHANNELS, check=_drawable)
    confluence: float = setting(0.75, gt=0, le=1.5)
    phenotype_strength: float = setting(1.0, ge=0, le=10)
    batch_strength: float = setting(1.0, ge=0, le=10)
    noise_strength: float = setting(1.0, ge=0, le=10)

    def __post_init__(self) -> None:
        if sum(self.complex_sizes) > self.genes:
            raise InputError(
                f"complex_sizes need {sum(self.complex_sizes)} genes, but genes is {self.genes}; "
                "raise genes or take smaller complexes."
            )
        if self.wells_per_plate > PLATE_FORMATS[-1][0] * PLATE_FORMATS[-1][1]:
            raise InputError(
                f"a plate would need {self.wells_per_plate} wells, more than the largest plate's "
                "1536; lower genes, experiments_per_gene, wells_per_gene or controls."
            )

    @property
    def wells_per_plate(self) -> int:
        """Wells that the fullest plate uses."""
        in_each = min(self.experiments_per_gene, self.experiments)
        genes = -(-self.genes * in_each // self.experiments)
        return genes * self.wells_per_gene + self.controls

    @property
    def plate_format(self) -> tuple[int, int]:
        """Rows and columns of the plates: 96, 384 or 1536 wells."""
        fits = (f for f in PLATE_FORMATS if f[0] * f[1] >= self.wells_per_plate)
        return next(fits)


def complex_sizes_for(genes: int, size: int | None = None) -> tuple[int, ...]:
    """Complexes for a screen of `genes`: up to about nine genes in ten are in one.

    Of `size` genes each, or by default of 3 and 4: 48 genes then give two complexes of 4 and
    twelve of 3, the default screen's. Fewer genes are in fewer complexes: where more than 5 % of
    all pairs are known, not all of them can be among the 5 % most alike, and even a perfect map
    could not recall them.

    Raises:
      InputError: `size` is below 2, or a complex of that size is too much for so few genes.
    """
    known = int(0.045 * genes * (genes - 1) / 2)
    inside = round(genes * 11 / 12)
    if size is not None:
        if size < 2:
            raise InputError(f"complexes must be of at least 2 genes, not {size}.")
        number = min(inside // size, known // (size * (size - 1) // 2))
        if not number:
            raise InputError(
                f"{genes} genes are too few for complexes of {size}; raise genes or take "
                "smaller complexes."
            )
        return (size,) * number
    number = min(inside // 3, known // 3)
    if number == 0:
        return (2,) * min(inside // 2, max(known, 1))
    larger = min(number, inside - 3 * number, (known - 3 * number) // 3)
    return (4,) * larger + (3,) * (number - larger)
