"""Names of wells."""

import pytest

from mae_jax.data.well_names import normalize_well_name, well_name
from mae_jax.errors import InputError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("A01", "A01"),
        ("a1", "A01"),
        ("p24", "P24"),
        ("af48", "AF48"),
        ("AA-03", "AA03"),
        (" H012 ", "H12"),
    ],
)
def test_one_spelling(given: str, expected: str) -> None:
    assert normalize_well_name(given) == expected


@pytest.mark.parametrize("given", ["", "7", "A0", "A49", "AG01", "BA01", "A1B", "well"])
def test_no_well(given: str) -> None:
    with pytest.raises(InputError, match="not a well name"):
        normalize_well_name(given)


def test_every_well_of_1536_has_its_own_name() -> None:
    names = {well_name(row, column) for row in range(1, 33) for column in range(1, 49)}
    assert len(names) == 1536
    assert all(normalize_well_name(name) == name for name in names)
    assert well_name(27, 1) == "AA01"
    assert well_name(32, 48) == "AF48"
    with pytest.raises(InputError):
        well_name(33, 1)
