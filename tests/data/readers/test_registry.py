"""Readers from outside of the package: registered, guessed, listed and called."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mae_jax.data import CERTAIN, Index, Reader, ReadOptions, Source, open_screen, register_reader
from mae_jax.data.images import read_site
from mae_jax.data.metadata import complete
from mae_jax.data.readers import registry
from mae_jax.errors import InputError


def _matches(source: Source) -> float:
    return CERTAIN if source.path.endswith(".toy") else 0.0


def _read(path: str, options: ReadOptions) -> Index:
    """Each line of a toy screen: well, image."""
    lines = [line.split() for line in Path(path).read_text().splitlines()]
    table = pd.DataFrame({"Metadata_Well": [well for well, _ in lines]})
    table["Channels"] = [list(options.channel_names or ["DNA"])] * len(lines)
    table["Images"] = [[image] for _, image in lines]
    return Index(complete(table, path, options.metadata_value), str(Path(path).parent))


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(registry, "_readers", registry.readers())
    register_reader(Reader("toy", "toy screens", _read, _matches, takes=("channel_names",)))
    np.save(tmp_path / "a.npy", np.full((4, 4), 7, np.uint16))
    (tmp_path / "screen.toy").write_text("A01 a.npy\nB02 a.npy\n")
    return tmp_path / "screen.toy"


@pytest.mark.parametrize("format", ["auto", "toy"])
def test_a_registered_reader_opens_its_screens(toy: Path, format: str) -> None:
    index = open_screen(
        str(toy), format=format, channel_names=["ER"], metadata_value={"Plate": "P1"}
    )
    assert index.table["Metadata_Well"].tolist() == ["A01", "B02"]
    assert set(index.table["Metadata_Plate"]) == {"P1"}
    assert index.channels == ("ER",)
    assert (read_site(index, 1) == 7).all()


def test_a_table_of_wells_is_joined_for_it(toy: Path) -> None:
    platemap = toy.with_name("platemap.csv")
    platemap.write_text("well,Gene\nA01,G1\nB02,G2\n")
    index = open_screen(str(toy), metadata=str(platemap), metadata_value={"Plate": "P1"})
    assert index.table["Metadata_Gene"].tolist() == ["G1", "G2"]


def test_an_option_that_a_format_does_not_take_is_an_error(toy: Path) -> None:
    with pytest.raises(InputError, match=r"screen\.toy has the format toy.* no --plane; leave"):
        open_screen(str(toy), plane=0)


def test_two_readers_cannot_have_one_name(toy: Path) -> None:
    with pytest.raises(InputError, match="'loaddata' is already registered"):
        register_reader(Reader("loaddata", "another", _read))
    with pytest.raises(InputError, match="'auto' is already registered"):
        register_reader(Reader("auto", "another", _read))


def test_the_help_lists_every_format(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mae_jax.cli.main import main

    with pytest.raises(SystemExit):
        main(["index", "-h"])
    text = " ".join(capsys.readouterr().out.split())
    assert "toy: toy screens" in text
    assert all(name in text for name in ("harmony:", "ome-zarr:", "rxrx3-core:", "zarr:"))
