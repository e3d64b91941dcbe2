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


def main(argv: list[str] | None = None) -> np.ndarray:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="intensity")
    args = parser.parse_args(argv)
    encoder = mae_jax.load_encoder(args.encoder)
    print(encoder)
    # Raw pixels of any size: crops cover each field, and its vector is their mean.
    channels = ("DNA", "ER", "Mito")
    vectors = np.stack([encoder.embed_image(x, channels, progress=False) for x in fields()])
    print(f"{len(vectors)} fields, {vectors.shape[1]} features")
    return vectors


if __name__ == "__main__":
    main()
