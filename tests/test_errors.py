"""Credentials in URLs do not reach the terminal or the log."""

import logging

import pytest

from mae_jax.cli.main import main
from mae_jax.errors import redact_credentials


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("https://ada:secret@host/a b", "https://***@host/a b"),
        ("s3://secret@bucket/x.tif, gs://b/y", "s3://***@bucket/x.tif, gs://b/y"),
        ("'https://h/x?a=1&X-Amz-Signature=secret&b=2'", "'https://h/x?a=1&X-Amz-Signature=***&b=2'"),
        ("https://h/x?sig=secret#page=2", "https://h/x?sig=***#page=2"),
        ("mail ada@example.org, https://h/x?design=1", "mail ada@example.org, https://h/x?design=1"),
    ],
)  # fmt: skip
def test_credentials_are_replaced(text: str, redacted: str) -> None:
    assert redact_credentials(text) == redacted


def test_errors_and_logs_of_commands_hide_credentials(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    factory = logging.getLogRecordFactory()
    try:
        url = "nowhere://ada:secret@host/index.parquet"
        assert main(["embed", "--encoder", "intensity", "--index", url, "--out", "x"]) != 0
        captured = capsys.readouterr()
        assert "secret" not in captured.err + captured.out
        logging.getLogger("mae_jax").warning("cannot read %s: %d", url, 404)
        assert "secret" not in caplog.text
        assert "***@host/index.parquet: 404" in caplog.text
    finally:
        logging.setLogRecordFactory(factory)
