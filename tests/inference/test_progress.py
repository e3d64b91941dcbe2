from mae_jax.inference import EmbedReport


def test_the_report_names_what_matters() -> None:
    text = str(EmbedReport(wells=8, skipped=1, crops=200, shards=2, seconds=10.0, complete=True))
    assert text == "8 wells embedded (200 crops in 10.0 s, 20 crops/s), 1 skipped"
    text = str(EmbedReport(wells=8, crops=200, seconds=10.0, idle_seconds=4.0, already_done=3))
    assert "the devices waited for images 40 % of the time" in text
    assert "3 shards were already done" in text
    assert "other tasks are not done yet" in text
