"""Every way into the library: the readers a recipe may name."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field as Option

from twotower.data.amazon import AmazonReviews, AmazonSequences
from twotower.data.beir import Beir
from twotower.data.cranfield import Cranfield
from twotower.data.movielens import MovieLens
from twotower.data.synthetic import Synthetic
from twotower.data.tabular import Tabular
from twotower.data.trec_collection import Trec

DataConfig = Annotated[
    MovieLens | AmazonReviews | AmazonSequences | Tabular | Synthetic | Beir | Trec | Cranfield,
    Option(discriminator="reader"),
]
"""The ``data:`` part of a recipe; ``reader`` says which. Each has ``read(path, on_error) -> Dataset``."""
