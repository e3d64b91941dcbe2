"""Types of command-line values that several commands share."""

import argparse


def comma_list(text: str) -> list[str]:
    """The values of a comma-separated option, such as `DNA,ER,RNA`.

    Use it with `action="extend"`, so that the option may also be repeated. Blanks around a value
    are dropped; an empty value is an error of argparse.
    """
    values = [value.strip() for value in text.split(",")]
    if not all(values):
        raise argparse.ArgumentTypeError(f"'{text}' has an empty value; write values as A,B,C")
    return values
