import pytest

from twotower.config import Config
from twotower.data.amazon import AmazonReviews, AmazonSequences
from twotower.data.beir import Beir
from twotower.data.cranfield import Cranfield
from twotower.data.movielens import MovieLens
from twotower.data.readers import DataConfig
from twotower.data.synthetic import Synthetic
from twotower.data.trec_collection import Trec
from twotower.errors import ConfigError


class Recipe(Config):
    data: DataConfig


@pytest.mark.parametrize(
    "reader", [MovieLens, AmazonReviews, AmazonSequences, Synthetic, Beir, Trec, Cranfield]
)
def test_the_tag_chooses_the_reader(reader):
    tag = reader().reader
    assert Recipe.parse({"data": {"reader": tag}}).data == reader()
    assert Recipe.parse(Recipe(data=reader()).plain()).data == reader()


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match="movielens"):
        Recipe.parse({"data": {"reader": "movielenz"}})
    with pytest.raises(ConfigError, match="did you mean 'rated_only'"):
        Recipe.parse({"data": {"reader": "movielens", "rated_onyl": True}})
