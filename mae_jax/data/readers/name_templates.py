"""Users' patterns of file names: templates with named fields, regular expressions, and guesses.

A template such as `{Metadata_Plate}/{Metadata_Well}_{Metadata_Site}_{channel}.tif` says which part
of a path is what; `*` stands for any text within one folder's or file's name. `Metadata_` may be
left out, and capitals do not matter. Fields with a meaning: experiment (batch), plate, well or row
and column, site (field), channel, z (plane), time, and sample, which takes the well's place where
there are no plates; any other field becomes a metadata column. A pattern with `(?P<` is a regular
expression whose named groups are the fields.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mae_jax.errors import InputError

# The names that a field may have, in lower case and without `Metadata_`.
_SYNONYMS = {
    "experiment": ("experiment", "batch"),
    "plate": ("plate", "plateid", "barcode"),
    "well": ("well", "wellid"),
    "row": ("row", "wellrow"),
    "column": ("column", "col", "wellcolumn", "wellcol"),
    "site": ("site", "field", "fieldid", "fov"),
    "channel": ("channel", "channelnumber", "channelid", "wavelength", "stain"),
    "z": ("z", "plane", "planeid", "zindex", "slice"),
    "time": ("time", "t", "timepoint", "timepointid"),
    "sample": ("sample", "sampleid", "slide"),
}
FIELDS = {name: field for field, names in _SYNONYMS.items() for name in names}
_EXPRESSIONS = {
    "well": r"[A-Za-z]{1,2}[ -]?\d{1,3}",
    "row": r"[A-Za-z]{1,2}|\d{1,2}",
    "column": r"\d{1,3}",
    "z": r"\d+",
    "time": r"\d+",
}
_FIELD = re.compile(r"\{(\w+)\}")

IMAGE_ENDINGS = (
    ".tif", ".tiff", ".svs", ".ndpi", ".png", ".jpg", ".jpeg", ".jp2", ".j2k", ".npy",
)  # fmt: skip


@dataclass(frozen=True)
class NameTemplate:
    """A compiled pattern, and what each of its groups is.

    Attributes:
      expression: matched against the path below the source's folder, with `search`.
      fields: field (a key of `_SYNONYMS`, or a metadata column without its `Metadata_`) by group.
    """

    expression: re.Pattern[str]
    fields: Mapping[str, str]


def field_of(name: str) -> str:
    """The field that a name means: 'Metadata_Well' -> 'well', 'Metadata_Dose' -> 'Dose'."""
    bare = re.sub("^metadata_", "", name, flags=re.IGNORECASE)
    return FIELDS.get(bare.lower().replace("_", ""), bare)


def compile_template(pattern: str) -> NameTemplate:
    """Compiles a template or a regular expression with named groups.

    Raises:
      InputError: the pattern is malformed, or names neither a well nor a sample.
    """
    if "(?P<" in pattern:
        try:
            expression = re.compile(pattern)
        except re.error as error:
            raise InputError(f"--pattern is not a regular expression: {error}.") from None
    else:
        expression = _from_template(pattern)
    fields = {group: field_of(group) for group in expression.groupindex}
    known = set(fields.values())
    if not known & {"well", "sample"} and not {"row", "column"} <= known:
        raise InputError(
            "--pattern must name the well: {Metadata_Well} or (?P<well>…), or {row} and {column} "
            "or (?P<row>…)(?P<column>…); or {sample} where there are no wells."
        )
    twice = [field for field in known if list(fields.values()).count(field) > 1]
    if twice:
        raise InputError(f"--pattern names the {twice[0]} twice; keep one.")
    return NameTemplate(expression, fields)


def _from_template(pattern: str) -> re.Pattern[str]:
    if not _FIELD.search(pattern):
        raise InputError(
            f"--pattern '{pattern}' has no fields; write them in braces, such as "
            "'{Metadata_Well}_{Metadata_Site}_{channel}.tif'."
        )
    text, position, seen = "", 0, set()
    for match in _FIELD.finditer(pattern):
        text += _literal(pattern[position : match.start()])
        name = match[1]
        text += f"(?P={name})" if name in seen else _group(name)
        seen.add(name)
        position = match.end()
    text += _literal(pattern[position:])
    return re.compile(f"(?:^|/){text}$", re.IGNORECASE)


def _literal(text: str) -> str:
    if "{" in text or "}" in text:
        raise InputError(
            f"--pattern has a brace in '{text}' that is no field; a field is a word in braces, "
            "such as {Metadata_Well}."
        )
    return "[^/]*?".join(map(re.escape, text.split("*")))


def _group(name: str) -> str:
    if not name.isidentifier():
        raise InputError(f"--pattern has the field {{{name}}}; start its name with a letter.")
    return f"(?P<{name}>{_EXPRESSIONS.get(field_of(name), '[^/]+?')})"


# What the letters before a number mean, by convention.
_PREFIXES = {
    "site": ("s", "f", "site", "field", "fov", "pos", "position", "point", "xy"),
    "channel": ("w", "c", "ch", "channel", "wavelength", "d"),
    "z": ("z", "plane", "slice", "zstep"),
    "time": ("t", "time", "timepoint"),
    "plate": ("plate",),
}
_BY_PREFIX = {prefix: field for field, names in _PREFIXES.items() for prefix in names}
_STAIN = re.compile(
    r"dna|dapi|hoechst.*|er|rna|agp|mito.*|actin|golgi|phalloidin.*|cona|wga|syto.*|gfp|egfp|rfp|"
    r"yfp|cfp|mcherry|tdtomato|cy[357]|fitc|tritc|(?:af)?[3-7]\d{2}|alexa.*|tubulin|nuclei|nucleus|bf|"
    r"brightfield.*|phase.*|dic|tl|trans.*",
    re.IGNORECASE,
)
_WELL_START = re.compile(r"(?:[A-P]|A[A-F])(?:\d{2}|\d)(?!\d)", re.IGNORECASE)
_SAMPLE = 2000  # paths looked at for a guess
_FIELD_NAMES = {"well": "Metadata_Well", "site": "Metadata_Site", "plate": "Metadata_Plate"}


def is_image(path: str) -> bool:
    """Whether a path ends as an image file does."""
    return path.lower().endswith(IMAGE_ENDINGS)


_CUT = re.compile(r"([/_\-. ()\[\]]|(?<=[Ww]ell)(?=[A-Pa-p]\d)|(?<=[Cc]hannel)(?=[A-Z]))")


def guess_template(paths: Sequence[str]) -> str | None:
    """A template that all image paths of a regular folder fit, or None.

    The paths are cut at `/`, `_`, `-`, blanks, points and brackets, and behind the words Well and
    Channel; what differs among them and looks like a
    well, a stain, or a number behind a known letter (`s3`, `w1`, `z02`) becomes a field.
    """
    images = [path for path in paths if is_image(path)]
    images = images[:: -(-len(images) // _SAMPLE) or 1]
    if not images:
        return None
    endings = {path[path.rindex(".") :] for path in images}
    if len(endings) > 1:
        return None
    ending = endings.pop()
    cut = [_CUT.split(path.removesuffix(ending)) for path in images]
    if len({tuple(parts[1::2]) for parts in cut}) > 1:
        return None
    columns = [[parts[number] for parts in cut] for number in range(len(cut[0]))]
    name_at = max((n for n, column in enumerate(columns) if column[0] == "/"), default=-1)
    taken: set[str] = set()
    fields = [""] * len(columns)
    well = _well_column(columns)
    if well is not None:
        taken.add("well")
        fields[well] = _well_field(columns[well], taken)
    stains = [number for number, column in enumerate(columns) if _are_stains(column)]
    if stains and not fields[stains[-1]]:
        fields[stains[-1]] = _field("channel", taken)
        names = columns[stains[-1]]
        for number, column in enumerate(columns):  # a channel's number beside its name
            one_to_one = (
                len(set(column)) == len(set(names)) == len({*zip(column, names, strict=True)})
            )
            if not fields[number] and one_to_one and len(names) > len(set(names)):
                fields[number] = "*"
    for known_only in (True, False):  # numbers behind known letters choose their fields first
        for number, column in enumerate(columns):
            if not fields[number]:
                word = (
                    columns[number - 2][0] if number > 1 and columns[number - 1][0] != "/" else ""
                )
                in_folder = number <= name_at
                p_means = "plate" if in_folder or number < (well or 0) else "z"
                fields[number] = _other_field(
                    column, word.lower(), p_means, in_folder, known_only, taken
                )
    if "well" not in taken:
        varying = [number for number, field in enumerate(fields) if "*" in field]
        if "channel" not in taken or not varying:
            return None
        fields[varying[-1]] = fields[varying[-1]].replace("*", _field("sample", taken), 1)
    template = "".join(fields) + ending
    compiled = compile_template(template)
    if not all(compiled.expression.search(path) for path in images):
        return None
    return template


def _field(field: str, taken: set[str]) -> str:
    taken.add(field)
    return "{" + _FIELD_NAMES.get(field, field) + "}"


def _are_stains(column: Sequence[str]) -> bool:
    values = set(column)
    return 1 < len(values) <= 20 and all(_STAIN.fullmatch(value) for value in values)


def _well_column(columns: Sequence[Sequence[str]]) -> int | None:
    """The part of the paths that holds wells: that with the most different ones."""
    best, most = None, 0
    for number, column in enumerate(columns):
        prefixes = [_WELL_START.match(value) for value in column]
        if all(prefixes) and _well_field(column, {"well"}):
            distinct = len({match[0] for match in prefixes if match})
            if distinct >= max(most, 2) or (best is None and distinct == 1):
                best, most = number, distinct
    return best


def _well_field(column: Sequence[str], taken: set[str]) -> str:
    """The field of a part that holds wells, perhaps with more behind them, as `B03f01d2` does."""
    rests = []
    for value in column:
        match = _WELL_START.match(value)
        assert match is not None
        rests.append(value[match.end() :])
    if not any(rests):
        return "{Metadata_Well}"
    behind = _numbered(rests, "", "z", taken)
    return "" if behind is None else "{Metadata_Well}" + behind


def _numbered(column: Sequence[str], word: str, p_means: str, taken: set[str]) -> str | None:
    """The template of parts such as `f01d2`: the same letters, each before a number.

    A number without letters before it is what `word` says, the part before it. The letter p stands
    for plates or for z-planes.
    """
    pieces = [re.findall(r"[A-Za-z]+|\d+|[^A-Za-z\d]+", value) for value in column]
    if len({len(piece) for piece in pieces}) > 1:
        return None
    text = ""
    for number in range(len(pieces[0])):
        values = [piece[number] for piece in pieces]
        if len(set(values)) == 1:
            text += values[0]
        elif all(value.isdigit() for value in values):
            letters = pieces[0][number - 1].lower() if number else word
            field = p_means if letters == "p" else _BY_PREFIX.get(letters, "")
            text += "*" if not field or field in taken else _field(field, taken)
        else:
            return None
    return text


def _other_field(
    column: Sequence[str],
    word: str,
    p_means: str,
    in_folder: bool,
    known_only: bool,
    taken: set[str],
) -> str:
    """The template of a part that holds neither wells nor stains; "" to decide later."""
    if len(set(column)) == 1:
        return column[0]
    numbered = _numbered(column, word, p_means, set(taken))
    if numbered is not None and "*" not in numbered:
        return _numbered(column, word, p_means, taken) or ""
    if known_only:
        return ""
    if in_folder:
        return "*" if "plate" in taken else _field("plate", taken)
    if numbered is not None:
        if numbered == "*" and "site" not in taken and "well" in taken:
            return _field("site", taken)
        return numbered
    if "channel" not in taken and len(set(column)) <= 20:
        return _field("channel", taken)
    return "*"


def what_to_try(folder: str, paths: Sequence[str]) -> str:
    """One sentence on a folder of an unknown naming: two of its files, and a pattern to try."""
    images = [path for path in paths if is_image(path)]
    if not images:
        seen = f", only files such as {paths[0]}" if paths else ""
        return (
            f"{folder} holds no images (their names end with {', '.join(IMAGE_ENDINGS)}){seen}; "
            "check the path."
        )
    named = " and ".join(f"'{path}'" for path in dict.fromkeys((images[0], images[-1])))
    guess = guess_template(images)
    if guess is not None:
        fitting = compile_template(guess).expression
        count = sum(bool(fitting.search(path)) for path in images)
        return (
            f"the files in {folder} fit no known pattern; their names, such as {named}, look "
            f"regular: if it is right, add --pattern '{guess}', which fits {count} of "
            f"{len(images)} images."
        )
    ending = images[0][images[0].rindex(".") :]
    example = "{Metadata_Well}_{Metadata_Site}_{channel}" + ending
    if "/" in images[0]:
        example = "{Metadata_Plate}/" + example
    return (
        f"the files in {folder} fit no known pattern, such as {named}; say which part of a name is "
        f"what, for example with --pattern '{example}', or read every image as one sample with "
        "--format images."
    )
