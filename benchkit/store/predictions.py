"""Per-example predictions as a Parquet file: a row for each task, split and example."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    import pandas as pd

_WORD = pa.dictionary(pa.int8(), pa.string())
SCHEMA = pa.schema(
    [
        ("task", _WORD),
        ("split", _WORD),
        ("id", pa.string()),
        ("label", pa.float64()),  # null where the example has none
        ("prediction", pa.float64()),
        ("score", pa.float64()),
    ]
)


def to_parquet(columns: Mapping[str, Sequence[Any]]) -> bytes:
    """The columns of `SCHEMA`, of equal length, as a file; equal values give equal bytes.

    Raises:
        ValueError: other columns, or of unequal length.
    """
    if set(columns) != set(SCHEMA.names):
        raise ValueError(f"predictions have the columns {SCHEMA.names}, not {sorted(columns)}")
    # A NaN label is a missing one; a NaN prediction is what a diverged cell predicts, and stays.
    arrays = [pa.array(columns[field.name], field.type, from_pandas=field.name == "label") for field in SCHEMA]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), buffer, compression="zstd")
    return buffer.getvalue()


def from_parquet(content: bytes) -> pd.DataFrame:
    """Inverse of `to_parquet`.

    Raises:
        ValueError: it is no Parquet file, or one with other columns.
    """
    table = pq.read_table(io.BytesIO(content))
    if table.schema.names != SCHEMA.names:
        raise ValueError(f"columns {table.schema.names}, expected {SCHEMA.names}")
    frame: pd.DataFrame = table.to_pandas()
    return frame
