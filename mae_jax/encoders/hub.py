"""Files of models on the Hugging Face hub, by its own client and cache.

HF_ENDPOINT names another hub, HF_TOKEN the reader, HF_HUB_OFFLINE=1 keeps to the cache.
"""

import logging
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mae_jax.errors import InputError


def download_model(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """The folder of a model's files that match one of the patterns, downloaded if needed.

    Raises:
      InputError: the client is not installed, or the hub does not give the model.
    """
    import_client(name)
    import huggingface_hub

    return _read(
        name,
        huggingface_hub.snapshot_download,
        name,
        revision=revision,
        allow_patterns=list(patterns),
        **_endpoint(),
    )


def download_file(name: str, file: str, revision: str | None = None) -> Path:
    """One file of a model, downloaded if needed.

    Raises:
      InputError: the client is not installed, or the hub does not give the file.
    """
    import_client(name)
    import huggingface_hub

    return _read(
        name, huggingface_hub.hf_hub_download, name, file, revision=revision, **_endpoint()
    )


def import_client(name: str) -> None:
    """Raise InputError if the hub's client is not installed."""
    try:
        import huggingface_hub  # noqa: F401
    except ImportError:
        raise InputError(
            f"{name} is not a local path, and reading it from the hub needs the package "
            "huggingface_hub; install it or give a path."
        ) from None


def _endpoint() -> dict[str, str]:
    # Read anew: the client reads it once, when it is imported.
    return {"endpoint": os.environ["HF_ENDPOINT"]} if os.environ.get("HF_ENDPOINT") else {}


def _read(name: str, download: Callable[..., Any], *arguments: Any, **options: Any) -> Path:
    client = logging.getLogger("huggingface_hub")
    level = client.level
    client.setLevel(logging.ERROR)  # its warnings of each attempt say what the sentence below says
    try:
        return Path(download(*arguments, **options))
    except Exception as problem:  # many types: no network, no such model, no such revision
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise InputError(
            f"{name} is not a local path and could not be read from the hub ({reason.rstrip('.')})."
        ) from None
    finally:
        client.setLevel(level)


def push_folder(folder: Path, name: str, *, message: str, private: bool = False) -> str:
    """Upload a folder as a model; the model is made where there is none.

    Returns:
      The address of the commit.

    Raises:
      InputError: the client is not installed, or the hub refuses.
    """
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        raise InputError(f"'{name}' is no name of a model on the hub; write OWNER/NAME.")
    import_client(name)
    import huggingface_hub

    try:
        hub = huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
        hub.create_repo(name, exist_ok=True, private=private)
        commit = hub.upload_folder(repo_id=name, folder_path=str(folder), commit_message=message)
    except Exception as problem:  # many types: no network, no token, no right to write
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise InputError(
            f"{name} could not be pushed to the hub ({reason.rstrip('.')}); set HF_TOKEN to a "
            f"token that may write to {name.split('/')[0]}, or convert to a folder and upload that."
        ) from None
    return str(commit.commit_url)
