"""Images to patches and back."""

from einops import rearrange
from jaxtyping import Array, Float

from mae_jax.errors import InputError


def patch_grid(height: int, width: int, patch: int) -> tuple[int, int]:
    """Rows and columns of the grid of patches.

    Raises:
      InputError: the patch does not divide the image.
    """
    if height % patch or width % patch:
        raise InputError(
            f"images of {height} x {width} pixels do not divide into patches of {patch}; "
            f"crop them to multiples of {patch}."
        )
    return height // patch, width // patch


def patchify(
    images: Float[Array, "batch channels height width"], patch: int, *, channel_agnostic: bool
) -> Float[Array, "batch tokens pixels"]:
    """Cuts images into flat patches.

    Channel-agnostic: `channels * grid` tokens, channel-major, of patch² pixels, row-major.
    Joint: `grid` tokens of patch² * channels values, channel fastest.
    """
    patch_grid(images.shape[2], images.shape[3], patch)
    if channel_agnostic:
        return rearrange(images, "b c (h p) (w q) -> b (c h w) (p q)", p=patch, q=patch)
    return rearrange(images, "b c (h p) (w q) -> b (h w) (p q c)", p=patch, q=patch)


def unpatchify(
    patches: Float[Array, "batch tokens pixels"],
    patch: int,
    *,
    channels: int,
    height: int,
    width: int,
    channel_agnostic: bool,
) -> Float[Array, "batch {channels} {height} {width}"]:
    """The inverse of `patchify`; height and width in pixels."""
    rows, columns = patch_grid(height, width, patch)
    if channel_agnostic:
        return rearrange(
            patches, "b (c h w) (p q) -> b c (h p) (w q)", c=channels, h=rows, w=columns, p=patch
        )
    return rearrange(
        patches,
        "b (h w) (p q c) -> b c (h p) (w q)",
        c=channels,
        h=rows,
        w=columns,
        p=patch,
    )
