"""The published encoders that are had by name: where they are, their licences, their recipes.

This is the one place of these facts; `mae-jax models` prints them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mae_jax.config import nearest
from mae_jax.errors import InputError
from mae_jax.weights.preprocessing import Preprocessing
from mae_jax.weights.recipe import Recipe

_HUB = "https://huggingface.co"
_FORM = "https://ai.meta.com/resources/models-and-libraries/cell-dino-downloads"
_IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_JUMP_LITE = ("AGP", "DNA", "ER", "Mito", "RNA")  # the channels of its stores, in their order


@dataclass(frozen=True)
class KnownModel:
    """A published encoder.

    Attributes:
      name: by which it is asked for.
      title: what it is.
      architecture: of `networks.vit.vit_config`; "" to infer it from the file.
      parameters: of the file, all that are read.
      licence: of the weights.
      recipes: how it is used; the first is taken unless another is named.
      hub: "owner/name" on the Hugging Face hub; "" where it is not there.
      file: its weights on the hub.
      gated: whether the hub gives it only to those who accepted its licence.
      address: where it is had by hand.
      channels: names of the network's channels, for files that do not tell the number or the
        names; None where no one has published them.
    """

    name: str
    title: str
    architecture: str
    parameters: int
    licence: str
    recipes: tuple[Recipe, ...]
    hub: str = ""
    file: str = "model.safetensors"
    gated: bool = False
    address: str = ""
    channels: tuple[str, ...] | None = ()

    @property
    def source(self) -> str:
        """Where it comes from, as an address."""
        return f"{_HUB}/{self.hub}" if self.hub else self.address

    @property
    def megabytes(self) -> float:
        """The size of its weights in float32."""
        return 4 * self.parameters / 1e6

    def recipe(self, name: str | None = None) -> Recipe:
        """The recipe of that name, or the first.

        Raises:
          InputError: it has no recipe of that name.
        """
        names = [recipe.name for recipe in self.recipes]
        if name is None:
            return self.recipes[0]
        if name not in names:
            raise InputError(f"{self.name} has no recipe '{name}': {nearest(name, names)}")
        return self.recipes[names.index(name)]

    def how(self) -> str:
        """How its weights are had by hand, as the end of a sentence."""
        steps = f"download {self.file} from {self.source}"
        if self.gated:
            steps = f"accept the licence at {self.source} and set HF_TOKEN, or {steps}"
        elif not self.hub:
            steps = f"download it from {self.address}"
        return f"{steps} and give its path: --encoder PATH --recipe {self.name}/RECIPE"


def _morphem() -> KnownModel:
    own: dict[str, Any] = {
        "crop": 224,
        "scale": 1.0,
        "eps": 1e-7,
        "resize": 224,
        "bag_of_channels": True,
    }
    return KnownModel(
        "morphem",
        "MorphEm: DINO ViT-S/16 on CHAMMI-75, one channel at a time",
        "morphem",
        21_469_056,
        "MIT",
        (
            Recipe(
                "own",
                Preprocessing((), any_channels=True, **own),
                pooling="channel",
                note="its card: self-standardized, then resized to 224; class tokens concatenated",
            ),
            Recipe(
                "jump-lite",
                Preprocessing(_JUMP_LITE, **own),
                pooling="channel",
                standard_scale=True,
                tiling="grid",
                aggregation="median",
                note="JUMP-lite (arXiv 2608.07632); its flags per run are not recorded",
            ),
        ),
        hub="CaicedoLab/MorphEm",
    )


def _dino(version: int, size: str, registers: bool, parameters: int, hub: str) -> KnownModel:
    """DINOv2 (patches of 14) or DINOv3 (of 16)."""
    patch = {2: 14, 3: 16}[version]
    name = f"dinov{version}{'-reg' if registers and version == 2 else ''}-{size}"
    recipes = [
        Recipe(
            "own",
            Preprocessing(
                (), True, 224, scale=1.0, standardization="max", bag_of_channels=True, **_IMAGENET
            ),
            pooling="channel",
            note="as CHAMMI-75 used DINOv2: each stain over the image's maximum as red, green and "
            "blue, ImageNet statistics; class tokens concatenated",
        )
    ]
    if version == 2:
        recipes.append(
            Recipe(
                "jump-lite",
                Preprocessing(_JUMP_LITE[:3], False, 224, scale=1.0, standardization="fixed"),
                pooling="class",
                standard_scale=True,
                tiling="grid",
                aggregation="median",
                note="JUMP-lite (arXiv 2608.07632), where it was S/14 without registers: AGP, DNA "
                "and ER as red, green and blue, no ImageNet statistics",
            )
        )
    words = " with registers" if registers and version == 2 else ""
    return KnownModel(
        name,
        f"DINOv{version} ViT-{size.upper()}/{patch}{words}",
        name,
        parameters,
        "Apache-2.0" if version == 2 else "DINOv3 License",
        tuple(recipes),
        hub=f"facebook/{hub}",
        gated=version == 3,
    )


def _dinos() -> Iterator[KnownModel]:
    long = {"s": "small", "b": "base", "l": "large", "g": "giant"}
    counts = {"s": 22_056_576, "b": 86_580_480, "l": 304_368_640, "g": 1_136_480_768}
    with_registers = {"s": 22_058_112, "b": 86_583_552, "l": 304_372_736, "g": 1_136_486_912}
    for size, count in counts.items():
        yield _dino(2, size, False, count, f"dinov2-{long[size]}")
    for size, count in with_registers.items():
        yield _dino(2, size, True, count, f"dinov2-with-registers-{long[size]}")
    for size, count in {"s": 21_601_152, "b": 85_669_632, "l": 303_154_176}.items():
        yield _dino(3, size, True, count, f"dinov3-vit{size}16-pretrain-lvd1689m")


def _cell_dino(
    name: str, title: str, crop: int, parameters: int, channels: tuple[str, ...] | None
) -> KnownModel:
    """Cell-DINO, whose weights are sent to those who ask for them."""
    bag = channels == ()
    own = Recipe(
        "own",
        Preprocessing(
            channels or (),
            any_channels=bag,
            crop=crop,
            scale=255.0,
            eps=1e-7,
            standardization="zscore",
            bag_of_channels=bag,
        ),
        pooling="channel" if bag else "class",
        note="its evaluation: z-score of each crop and channel"
        + ("; the Atlas's order red, green, blue, yellow, protein second" if channels else ""),
    )
    return KnownModel(
        name,
        title,
        name,
        parameters,
        "FAIR Noncommercial (code: CC BY-NC)",
        (own,),
        address=_FORM,
        channels=channels,
    )


def _openphenom() -> KnownModel:
    channels = ("DNA", "ER", "AGP", "RNA", "Mito", "BF")
    return KnownModel(
        "openphenom",
        "OpenPhenom: channel-agnostic MAE, ViT-S/16, on RxRx3 and JUMP",
        "",
        178_045_568,
        "OpenPhenom non-commercial licence",
        (
            Recipe(
                "own",
                Preprocessing(channels, any_channels=True, crop=256, scale=255.0),
                note="its card: mean over all patches of crops of 256 pixels",
            ),
            Recipe(
                "jump-lite",
                Preprocessing(_JUMP_LITE, crop=256, scale=255.0),
                clip=(0.5, 99.5),
                eight_bit=True,
                pad_channels=6,
                tiling="grid",
                aggregation="median",
                note="JUMP-lite (arXiv 2608.07632); the black sixth channel takes part in the mean",
            ),
        ),
        hub="recursionpharma/OpenPhenom",
        channels=channels,
    )


def _subcell() -> KnownModel:
    channels = ("Microtubules", "ER", "DNA", "Protein")
    painting = ("Mito", "ER", "DNA", "AGP")
    jump_lite: dict[str, Any] = {
        "preprocessing": Preprocessing(painting, crop=448, scale=1.0, standardization="fixed"),
        "pooling": "attention",
        "standard_scale": True,
        "tiling": "grid",
        "aggregation": "median",
        "note": "JUMP-lite (arXiv 2608.07632): Mito, ER, DNA, AGP as its README says (its driver "
        "says AGP, DNA, ER, Mito)",
    }
    return KnownModel(
        "subcell",
        "SubCell: ViT-B/16 on the Human Protein Atlas, four channels, attention pooling",
        "subcell",
        86_446_848 + 788_482,
        "not stated for the weights (code: MIT)",
        (
            Recipe(
                "own",
                Preprocessing(channels, crop=448, scale=1.0, eps=1e-6, standardization="minmax"),
                pooling="attention",
                note="crops of single cells, minimum to maximum over all channels together",
            ),
            Recipe("jump-lite", **jump_lite),
            Recipe("jump-lite-clip01", **jump_lite, clip=(0.5, 99.5)),
        ),
        address="https://czi-subcell-public.s3.amazonaws.com/models/"
        "all_channels_MAE-CellS-ProtS-Pool.pth",
        channels=channels,
    )


def _timm(name: str, title: str, architecture: str, parameters: int, hub: str) -> KnownModel:
    """A ViT of timm on ImageNet: each stain as red, green and blue."""
    half = (0.5, 0.5, 0.5)
    preprocessing = Preprocessing(
        (), True, 224, 1.0, standardization="max", mean=half, std=half, bag_of_channels=True
    )
    own = Recipe("own", preprocessing, "channel", note="as DINOv2's, with the weights' statistics")
    return KnownModel(
        name, title, architecture, parameters, "Apache-2.0", (own,), hub=f"timm/{hub}"
    )


KNOWN_MODELS: dict[str, KnownModel] = {
    model.name: model
    for model in (
        _openphenom(),
        _morphem(),
        *_dinos(),
        _cell_dino("cell-dino-cp-s", "Cell-DINO ViT-S/8, Cell Painting, five channels", 128,
                   21_526_272, None),
        _cell_dino("cell-dino-hpa-l16", "Cell-DINO ViT-L/16, Human Protein Atlas", 224, 303_613_952,
                   ("Microtubules", "Protein", "DNA", "ER")),
        _cell_dino("cell-dino-hpa-l14", "Cell-DINO ViT-L/14, Human Protein Atlas", 518, 304_569_344,
                   ("Microtubules", "Protein", "DNA", "ER")),
        _cell_dino("channel-adaptive-dino-l",
                   "Channel-adaptive DINO ViT-L/16, one channel at a time", 224, 302_827_520, ()),
        _subcell(),
        _timm("vit-s16", "ViT-S/16 on ImageNet-21k (timm, augreg)", "timm-s16", 21_665_664,
              "vit_small_patch16_224.augreg_in21k"),
        _timm("vit-b16", "ViT-B/16 on ImageNet-21k (timm, augreg)", "timm-b16", 85_798_656,
              "vit_base_patch16_224.augreg_in21k"),
    )
}  # fmt: skip


def known_model(name: str) -> KnownModel:
    """The published encoder of that name.

    Raises:
      InputError: there is none.
    """
    if name not in KNOWN_MODELS:
        raise InputError(
            f"no published encoder is called '{name}': {nearest(name, list(KNOWN_MODELS))}"
        )
    return KNOWN_MODELS[name]
