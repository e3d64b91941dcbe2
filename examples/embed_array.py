"""Embeds a numpy array: no index, no files.

python examples/embed_array.py                            # pixel intensities, no weights
python examples/embed_array.py --encoder runs/demo/train  # a trained encoder
"""

import argparse

import numpy as np

import mae_jax


def fields(seed: int = 0, size: int = 300) -> np.ndarray:
    """Four fields of view with three stains, 16-bit: noise with bright spots for nuclei."""
    rng = np.random.default_rng(seed)
    pixels = rng.poisson(200, (4, 3, size, size)).astype(np.uint16)
    for field in pixels:
        for row, column in rng.integers(10, size - 10, (30, 2)):
            field[:, row - 6 : row + 6, column - 6 : column + 6] += 2000
    return pixels


def embed_fields(
    encoder: mae_jax.Encoder, pixels: np.ndarray, channels: tuple[str, ...], crop: int
) -> np.ndarray:
    """(field, channel, height, width) to (field, feature): the mean over the crops of a field."""
    corners = mae_jax.data.tile_offsets(*pixels.shape[2:], crop)
    crops = np.concatenate([pixels[:, :, r : r + crop, c : c + crop] for r, c in corners])
    vectors = np.asarray(encoder.embed(crops, channels=channels))  # raw pixels, as they are
    return vectors.reshape(len(corners), len(pixels), -1).mean(axis=0)


def main(argv: list[str] | None = None) -> np.ndarray:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="intensity")
    parser.add_argument("--crop", type=int, default=32)
    args = parser.parse_args(argv)
    encoder = mae_jax.load_encoder(args.encoder)
    print(encoder)
    vectors = embed_fields(encoder, fields(), ("DNA", "ER", "Mito"), args.crop)
    print(f"{len(vectors)} fields, {vectors.shape[1]} features")
    return vectors


if __name__ == "__main__":
    main()
