import pandas as pd

from mae_jax.report.summary import write_record


def test_the_record_holds_the_tables_of_all_seeds(evaluation, tmp_path):
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"a picture")
    out = tmp_path / "record"
    page = write_record(
        out, {0: evaluation, 3: evaluation}, "mae-jax demo --seeds 0,3", picture
    ).read_text()
    assert "`mae-jax demo --seeds 0,3`" in page
    assert "| 0 | 0.64 | 0.17 |" in page
    assert "| 3 | +0.47 (+0.42 to +0.52) |" in page
    assert (out / "triplets.png").read_bytes() == b"a picture"
    recalls = pd.read_csv(out / "recall.csv")
    assert list(recalls.columns[:3]) == ["seed", "embeddings", "correction"]
    assert sorted(recalls["seed"]) == [0] * 4 + [3] * 4
    assert list(pd.read_csv(out / "compare.csv")["seed"]) == [0, 3]
