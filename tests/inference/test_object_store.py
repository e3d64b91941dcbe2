"""A job on object stores: memory, and emulators of S3 and Google storage."""

import uuid

import numpy as np
import pytest

from mae_jax.inference import embed_index, read_crops, read_embeddings, read_tokens


@pytest.mark.parametrize(
    "where", ["memory", *(pytest.param(name, marks=pytest.mark.slow) for name in ("s3", "gs"))]
)
def test_a_job_writes_to_an_object_store(
    make_screen, tiny_encoder, where: str, request: pytest.FixtureRequest
) -> None:
    index = make_screen(wells=3)
    out = f"memory://{uuid.uuid4()}/out"
    if where != "memory":
        request.getfixturevalue({"s3": "bucket", "gs": "google_bucket"}[where])
        out = f"{where}://screens/out"
    options = {
        "wells_per_shard": 2,
        "batch_size": 4,
        "save_crops": True,
        "save_tokens": True,
        "progress": False,
    }
    for shard in ("0/2", "1/2"):
        report = embed_index(tiny_encoder, index, out, task=shard, **options)
    assert report.complete
    metadata, features, _ = read_embeddings(out)
    assert list(metadata["Metadata_Well"]) == ["A01", "A02", "A03"]
    tables, vectors = zip(*read_crops(out), strict=True)
    assert [len(table) for table in tables] == [16, 8]
    by_well = vectors[0].reshape(2, 8, -1).mean(axis=1)
    np.testing.assert_allclose(by_well, features[:2], atol=1e-6)
    assert [tokens.shape for _, _, tokens in read_tokens(out)] == [(8, 49, 32)] * 3
    assert embed_index(tiny_encoder, index, out, **options).shards == 0
