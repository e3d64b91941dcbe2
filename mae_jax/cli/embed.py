"""`mae-jax embed`: every well of a screen through an encoder."""

import argparse
import sys

HELP = "turn every well of a screen into an embedding with any encoder"
EXAMPLE = """\
  mae-jax embed --encoder runs/mine/model --index index.parquet --out embeddings/mine
  mae-jax embed --encoder intensity --index index.parquet --out embeddings/intensity
  mae-jax embed --encoder runs/mine/model --index index.parquet --out s3://bucket/mine \\
      --shard 3/64 --batch 256
Started again after any interruption, the same command does what is not yet done. In a Kubernetes
Indexed Job, a SLURM array or under jax.distributed each process takes its own share by itself."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    add = parser.add_argument
    encoder = "a saved model, a training's work folder, or a baseline: intensity, random"
    add("--encoder", required=True, metavar="WHERE", help=encoder)
    add("--index", required=True, help="the screen's index, LoadData CSV or folder of images")
    add("--out", required=True, help="the embeddings folder, on a local disk, s3:// or gs://")
    pooling = "the class token, the mean over patches, or a mean for each channel (mean)"
    add("--pooling", default="mean", choices=("class", "mean", "channel"), help=pooling)
    add("--block", type=int, help="pool the tokens after this block (the last)")
    dtype = "what products are computed in; bfloat16 is quicker and less exact (the model's own)"
    add("--dtype", choices=("float32", "bfloat16"), help=dtype)
    add("--batch", type=int, default=64, help="crops a device and step (64)")
    add("--channels", nargs="+", metavar="NAME", help="channels to read (all that a site has)")
    add("--crop", type=int, help="side of a crop in pixels (that of the encoder's training)")
    add("--shard", metavar="I/N", help="do share I of N, counted from 0")
    add("--shards", type=int, metavar="N", help="the number of shares, if the launcher hides it")
    part = "wells a file, which is what a killed process loses at most (64)"
    add("--part-wells", type=int, default=64, metavar="N", help=part)
    add("--crops", action="store_true", help="also keep the embedding of every crop (Zarr)")
    add("--tokens", action="store_true", help="also keep all tokens of every crop (Zarr, large)")
    anndata = "when all is done, also write embeddings.h5ad (or .zarr) for scanpy"
    add("--anndata", nargs="?", const="h5ad", choices=("h5ad", "zarr"), help=anndata)
    add("--strict", action="store_true", help="stop at the first well that cannot be read")
    add("--retry-skipped", action="store_true", help="try again the wells that were skipped")
    add("--threads", type=int, help="decoding threads (one a processor, at least 4)")
    add("--memory", type=float, default=2.0, metavar="GB", help="decoded pixels that may wait (2)")
    add("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> None:
    """Loads encoder and index and does this process's share."""
    from mae_jax.data.readers.open_screen import read_source
    from mae_jax.encoders import load_encoder
    from mae_jax.errors import InputError
    from mae_jax.inference import embed_index, find_shard, parse_shard

    if args.shard is not None and args.shards is not None:
        raise InputError("--shard I/N says it all; leave --shards out.")
    if args.shard is not None:
        shard, found = parse_shard(args.shard), "--shard"
    else:
        shard, found = find_shard(args.shards)
    if shard.count > 1:
        print(f"share {shard} ({found})", file=sys.stderr)
    report = embed_index(
        load_encoder(args.encoder, dtype=args.dtype),
        read_source(args.index),
        args.out,
        pooling=args.pooling,
        block=args.block,
        batch=args.batch,
        shard=shard,
        channels=args.channels,
        crop=args.crop,
        part_wells=args.part_wells,
        crops=args.crops,
        tokens=args.tokens,
        strict=args.strict,
        retry_skipped=args.retry_skipped,
        threads=args.threads,
        memory=int(args.memory * 1e9),
        progress=not args.quiet,
    )
    print(report)
    if report.skipped:
        print(f"why wells were skipped: {args.out}/skipped.csv")
    if args.anndata and report.complete:
        from mae_jax.inference.anndata import write_anndata

        print(write_anndata(args.out, kind=args.anndata))
    print(args.out)
