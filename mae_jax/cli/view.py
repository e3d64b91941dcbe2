"""`mae-jax view`: a local page to look at embeddings."""

import argparse
from pathlib import PurePath

from mae_jax.cli.option_types import comma_list
from mae_jax.cli.outputs import notes_of
from mae_jax.errors import InputError

HELP = "look at embeddings: plates, a map of all wells, images and nearest neighbors"
EXAMPLE = """\
  mae-jax view --embeddings embeddings/mine --index index.parquet
  mae-jax view --embeddings raw=embeddings/mine,tvn=corrected.parquet --index index.parquet
The page is served on this machine's loopback interface only; to look from elsewhere, use
  ssh -L 8123:localhost:8123 HOST"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add = parser.add_argument
    embeddings = (
        "embeddings folders, or profiles as Parquet, CSV or .h5ad; several are shown side by side, "
        "matched by plate and well"
    )
    add("--embeddings", required=True, type=comma_list, action="extend", metavar="[NAME=]PATH",
        help=embeddings)  # fmt: skip
    incomplete = "show the finished shards of a job that is still running"
    add("--allow-incomplete", action="store_true", help=incomplete)
    add("--index", help="the screen's index, for images")
    add("--port", type=int, default=0, help="the port (default: a free one)")
    method = "projection to two dimensions: auto, umap, tsne or pca (auto)"
    add("--method", default="auto", choices=("auto", "umap", "tsne", "pca"), help=method)
    limit = "the maximum number of wells, drawn as whole plates (20000)"
    add("--limit", type=int, default=20000, metavar="N", help=limit)
    add("--seed", type=int, default=0, help="of the projection (0)")


def run(args: argparse.Namespace) -> None:
    """Serve the page until interrupted; projections are computed meanwhile."""
    from mae_jax.data.readers.open_screen import open_screen
    from mae_jax.evaluation.columns import ReadOptions
    from mae_jax.evaluation.profiles import Profiles
    from mae_jax.view.screen import Screen
    from mae_jax.view.server import ViewServer

    options = ReadOptions(allow_incomplete=args.allow_incomplete)
    profiles = {
        name: Profiles.read(path, options=options, notes=notes_of(args))
        for name, path in _named(args.embeddings).items()
    }
    index = open_screen(args.index) if args.index else None
    screen = Screen(profiles, index, method=args.method, limit=args.limit, seed=args.seed)
    if len(screen) < screen.total:
        print(f"showing {len(screen)} of {screen.total} wells (--limit)")
    for each in screen.maps:
        if len(each.profiles) < len(screen):
            print(f"{each.name} has {len(each.profiles)} of the {len(screen)} wells shown")
        each.start()
    with ViewServer(screen, args.port) as server:
        print(f"{server.url}\nCtrl-C ends it.", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def _named(texts: list[str]) -> dict[str, str]:
    """Paths by name: given as NAME=PATH, or the file's or folder's own name; one needs none."""
    named: dict[str, str] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals:
            path = text
            name = PurePath(text.rstrip("/")).stem if len(texts) > 1 else ""
        if name in named:
            raise InputError(f"two embeddings are called {name}; name them: --embeddings A=…,B=….")
        named[name] = path
    return named
