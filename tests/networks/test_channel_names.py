"""Channels of screens recognized as those of an encoder, by names as real screens have them."""

import pytest

from mae_jax.errors import InputError
from mae_jax.networks.channel_names import match_channels, stains
from mae_jax.networks.encoder import Encoder
from mae_jax.weights.preprocessing import Preprocessing

JUMP = ("DNA", "ER", "RNA", "AGP", "Mito")


class Fixed(Encoder):
    def __init__(self, channels=JUMP, any_channels=False):
        self.name, self.params = "fixed", {}
        self.preprocessing = Preprocessing(channels, any_channels)


@pytest.mark.parametrize(
    "screen",
    [
        ["Hoechst 33342", "ConA", "SYTO 14", "Phalloidin/WGA", "MitoTracker Deep Red"],
        ["HOECHST 33342", "Alexa 488", "488 long", "Alexa 568", "Alexa 647"],  # Opera Phenix
        ["DAPI", "FITC", "Cy3", "Texas Red", "Cy5"],
        ["dna", "er", "rna", "agp", "mito"],
        ["DNA (Hoechst)", "ER - Concanavalin A Alexa 488", "SYTO14", "PhalloAndWGA", "MITO"],
        ["nuclei", "endoplasmic_reticulum", "nucleoli", "Actin", "mitochondria"],
    ],
)
def test_usual_names_of_the_five_stains(screen):
    shuffled = [screen[i] for i in (3, 0, 4, 2, 1)]
    assert Fixed().select_channels([*shuffled, "Brightfield High"]) == tuple(screen)


def test_one_name_takes_what_another_can_do_without():
    match = match_channels(("Actin", "AGP"), ("WGA", "Phalloidin"))
    assert match.found == {"Actin": "Phalloidin", "AGP": "WGA"}
    match = match_channels(("AGP", "Actin"), ("Actin", "AGP"))
    assert match.found == {"AGP": "AGP", "Actin": "Actin"}
    assert match_channels(("ER", "Mito"), ("ConA", "FITC", "MitoTracker Alexa 488")).found == {
        "ER": "ConA",
        "Mito": "MitoTracker Alexa 488",
    }
    # The encoder's own names may be synonyms too.
    assert match_channels(("Hoechst",), ("DAPI", "ER")).found == {"Hoechst": "DAPI"}


def test_what_is_missing_or_may_be_several_is_told_with_both_sides():
    with pytest.raises(InputError) as error:
        Fixed().select_channels(["Hoechst", "ConA", "Phalloidin", "WGA", "SYTO14"])
    text = str(error.value)
    assert "needs the channels DNA, ER, RNA, AGP, Mito" in text
    assert "have Hoechst, ConA, Phalloidin, WGA, SYTO14" in text
    assert "none is Mito, and AGP could be Phalloidin or WGA" in text
    assert "--channels AGP=CHANNEL" in text
    chosen = Fixed(("DNA", "AGP")).select_channels(["Hoechst", "Phalloidin", "WGA"], {"AGP": "WGA"})
    assert chosen == ("Hoechst", "WGA")
    # One channel cannot be two of the encoder's.
    match = match_channels(("AGP", "Actin"), ("Phalloidin",))
    assert match.unclear == {"AGP": ("Phalloidin",), "Actin": ("Phalloidin",)}


def test_agnostic_encoders_take_all_with_the_recognized_ones_first():
    encoder = Fixed(any_channels=True)
    assert encoder.select_channels(["X", "MitoTracker", "DAPI"]) == ("DAPI", "MitoTracker", "X")
    assert encoder.select_channels(["Phalloidin", "WGA", "DAPI"]) == ("DAPI", "Phalloidin", "WGA")


@pytest.mark.parametrize("name", ["red", "channel_1", "Filter", "CD8", "w1", "α", "Ki-67", "488"])
def test_other_names_tell_no_stain(name):
    assert stains(name) == (frozenset(), False)
