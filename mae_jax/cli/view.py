"""`mae-jax view`: a local page to look at embeddings."""

import argparse

HELP = "look at embeddings: plates, a map of all wells, images and nearest neighbors"
EXAMPLE = """\
  mae-jax view --embeddings embeddings/mine --index index.parquet
  mae-jax view --embeddings corrected.parquet --index index.parquet --port 8123
The page is served on this machine's loopback interface only; to look from elsewhere, use
  ssh -L 8123:localhost:8123 HOST"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    add = parser.add_argument
    what = "an embeddings folder, or profiles as parquet, CSV or .h5ad"
    add("--embeddings", required=True, metavar="WHERE", help=what)
    add("--index", help="the screen's index, for images")
    add("--port", type=int, default=0, help="the port (a free one)")
    method = "how wells are laid flat: auto, umap, tsne or pca (auto)"
    add("--method", default="auto", choices=("auto", "umap", "tsne", "pca"), help=method)
    limit = "show at most so many wells, drawn as whole plates (20000)"
    add("--limit", type=int, default=20000, metavar="N", help=limit)
    add("--seed", type=int, default=0, help="of the map (0)")


def run(args: argparse.Namespace) -> None:
    """Lays the wells flat, then serves the page until it is interrupted."""
    from mae_jax.data.readers.open_screen import read_source
    from mae_jax.evaluation.profiles import Profiles
    from mae_jax.view.screen import Screen
    from mae_jax.view.server import ViewServer

    profiles = Profiles.read(args.embeddings)
    index = read_source(args.index) if args.index else None
    print(f"laying {len(profiles)} wells flat …", flush=True)
    screen = Screen(profiles, index, method=args.method, limit=args.limit, seed=args.seed)
    if len(screen) < screen.total:
        print(f"showing {len(screen)} of {screen.total} wells (--limit)")
    with ViewServer(screen, args.port) as server:
        print(f"{server.url}\nCtrl-C ends it.", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
