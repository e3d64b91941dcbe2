"""`mae-jax view`: a local page to look at embeddings."""

import argparse

from mae_jax.cli.outputs import notes_of

HELP = "look at embeddings: plates, a map of all wells, images and nearest neighbors"
EXAMPLE = """\
  mae-jax view --embeddings embeddings/mine --index index.parquet
  mae-jax view --embeddings corrected.parquet --index index.parquet --port 8123
The page is served on this machine's loopback interface only; to look from elsewhere, use
  ssh -L 8123:localhost:8123 HOST"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add = parser.add_argument
    embeddings = "an embeddings folder, or profiles as Parquet, CSV or .h5ad"
    add("--embeddings", required=True, metavar="PATH", help=embeddings)
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
    """Project the wells to two dimensions, then serve the page until interrupted."""
    from mae_jax.data.readers.open_screen import open_screen
    from mae_jax.evaluation.columns import ReadOptions
    from mae_jax.evaluation.profiles import Profiles
    from mae_jax.view.screen import Screen
    from mae_jax.view.server import ViewServer

    options = ReadOptions(allow_incomplete=args.allow_incomplete)
    profiles = Profiles.read(args.embeddings, options=options, notes=notes_of(args))
    index = open_screen(args.index) if args.index else None
    print(f"projecting {len(profiles)} wells …", flush=True)
    screen = Screen(profiles, index, method=args.method, limit=args.limit, seed=args.seed)
    if len(screen) < screen.total:
        print(f"showing {len(screen)} of {screen.total} wells (--limit)")
    with ViewServer(screen, args.port) as server:
        print(f"{server.url}\nCtrl-C ends it.", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
