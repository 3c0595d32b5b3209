"""Secrets that are planted in an environment, and looked for in what a sweep leaves behind."""

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

import polars as pl
import pyarrow as pa

PLANTED: Mapping[str, str] = {
    "HF_TOKEN": "hf_PlantedHubToken0123456789abcdef",
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDKEY000001",
    "AWS_SECRET_ACCESS_KEY": "planted/secret+of/a/bucket000000000000001",
    "AWS_SESSION_TOKEN": "plantedSessionTokenOfABucket0000000001",
    "WANDB_API_KEY": "0planted1wandb2key3456789abcdef012345678",
    "MLFLOW_TRACKING_PASSWORD": "planted-password-of-a-tracker",
    "RAY_AUTH_TOKEN": "planted-token-of-a-cluster-0123456789",
    "NO_SUCH_PROXY": "http://someone:planted-password-of-a-proxy@127.0.0.1:9",
}
"""Environment variables, by name, that programs on a cluster often have; none is a real secret."""


def assert_nowhere(places: Iterable[Path | str], secrets: Iterable[str] = ()) -> int:
    """Assert that no secret is in any file below the folders, or in any of the texts.

    Looks for each as it is, as in a URL and in base64, in tables also in what they hold; returns
    how many bytes it looked at.
    """
    words = {form for secret in [*PLANTED.values(), *secrets] for form in _forms(secret)}
    looked, found = 0, []
    for name, content in _contents(places):
        looked += len(content)
        found += [(name, word.decode()) for word in words if word in content]
    assert not found, found
    return looked


def _forms(secret: str) -> set[bytes]:
    plain = secret.encode()
    return {plain, quote(secret, safe="").encode(), base64.b64encode(plain)}


def _contents(places: Iterable[Path | str]) -> Iterable[tuple[str, bytes]]:
    for place in places:
        if isinstance(place, str):
            yield place[:60], place.encode()
            continue
        for file in place.rglob("*"):
            if file.is_file() and not file.is_symlink():
                yield str(file), file.read_bytes()
                if file.suffix in (".parquet", ".arrow"):
                    table = pl.read_parquet(file) if file.suffix == ".parquet" else _arrow(file)
                    yield str(file), table.write_ndjson().encode()


def _arrow(file: Path) -> pl.DataFrame:
    return pl.DataFrame(pa.ipc.open_file(file).read_all())
