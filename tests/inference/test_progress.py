from mae_jax.inference import EmbedReport


def test_the_account_names_what_matters() -> None:
    said = str(EmbedReport(wells=8, skipped=1, crops=200, parts=2, seconds=10.0, complete=True))
    assert said == "8 wells embedded (200 crops in 10.0 s, 20 crops/s), 1 skipped"
    said = str(EmbedReport(wells=8, crops=200, seconds=10.0, waited=4.0, already=3))
    assert "the devices waited for images 40 % of the time" in said
    assert "3 parts were done before" in said
    assert "other shards are not done yet" in said
